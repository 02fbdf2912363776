//! Tracepoints that tell what a call's or fault's time went to, each by the best rung that loads: typed, then raw.
//! What cannot be attached is a cause that is not told apart, which coverage says.

use super::Loaded;
use super::kernel_types::KERNEL;
use crate::site::Miss;
use anyhow::{Context, Result, anyhow};
use aya::programs::{BtfTracePoint, RawTracePoint};

/// Program, tracepoint, and what is not told apart without it. Ends come before beginnings.
const TRACEPOINTS: [(&str, &str, &str); 10] = [
    ("reclaim_end", "mm_vmscan_direct_reclaim_end", "reclaim"),
    ("reclaim_begin", "mm_vmscan_direct_reclaim_begin", "reclaim"),
    ("node_reclaim_end", "mm_vmscan_node_reclaim_end", "reclaim"),
    ("node_reclaim_begin", "mm_vmscan_node_reclaim_begin", "reclaim"),
    ("memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end", "memcg_reclaim"),
    ("memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_begin", "memcg_reclaim"),
    ("compaction_end", "mm_compaction_end", "compaction"),
    ("compaction_begin", "mm_compaction_begin", "compaction"),
    ("mmap_lock_end", "mmap_lock_acquire_returned", "mmap_lock"),
    ("mmap_lock_begin", "mmap_lock_start_locking", "mmap_lock"),
];

/// The scheduler's, which need the kernel's type information. Wakings first: without them all is `blocked`.
const SCHEDULER: [(&str, &str); 2] = [("sched_waking", "sched_waking"), ("sched_switch", "sched_switch")];

/// Attaches them all; returns what is not told apart. The links live as long as `loaded`.
pub(super) fn attach(loaded: &mut Loaded) -> Vec<Miss> {
    let mut misses = Vec::new();
    for (program, tracepoint, cause) in TRACEPOINTS {
        let attached = attach_typed(loaded, program, tracepoint)
            .or_else(|_| attach_raw(loaded, &format!("{program}_raw"), tracepoint));
        note(&mut misses, cause, tracepoint, attached);
    }
    for (program, tracepoint) in SCHEDULER {
        let attached = if loaded.off_cpu {
            KERNEL
                .task_pid_at
                .context("the kernel does not tell task_struct::pid")
                .and_then(|_| attach_typed(loaded, program, tracepoint))
        } else {
            Err(anyhow!("--no-off-cpu"))
        };
        note(&mut misses, "runnable and blocked", tracepoint, attached);
    }
    misses
}

fn attach_typed(loaded: &mut Loaded, program: &str, tracepoint: &str) -> Result<()> {
    let types = loaded.kernel_types()?;
    let program: &mut BtfTracePoint = loaded.program(program)?;
    program.load(tracepoint, &types)?;
    program.attach()?;
    Ok(())
}

fn attach_raw(loaded: &mut Loaded, program: &str, tracepoint: &str) -> Result<()> {
    let program: &mut RawTracePoint = loaded.program(program)?;
    program.load()?;
    program.attach(tracepoint)?;
    Ok(())
}

fn note(misses: &mut Vec<Miss>, cause: &str, tracepoint: &str, attached: Result<()>) {
    if let Err(error) = attached {
        log::info!("tracepoint {tracepoint} cannot be attached: {error:#}");
        let detail = format!("not told apart as a cause: {cause} (no tracepoint {tracepoint}: {error:#})");
        misses.push(Miss { reason: "cause_unseen", detail });
    }
}
