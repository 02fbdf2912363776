//! One cheap thing over and over: system calls that are not about memory, or small allocations.
//!
//! Both measure what tracing costs whatever is none of its business.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;

use super::is_stopped;
use super::truth::ns;
use crate::cli::workload::RepeatArgs;

/// Repetitions between two looks at the clock, whose price is then below 0.1 ns each.
const CHUNK: u64 = 10_000;
/// Of a small allocation.
const SMALL_BYTES: usize = 64;
/// Of the allocations at the end, by which a tracer can show that it was looking.
const LARGE_BYTES: usize = 1 << 20;

/// What repeat did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RepeatTruth {
    workload: &'static str,
    pid: u32,
    count: u64,
    total_ns: u64,
    /// Of the middle chunk of 10,000.
    ns_per_op_median: f64,
    /// Of the fastest chunk.
    ns_per_op_best: f64,
    /// Allocations of 1 MiB by malloc, made after the clock has stopped.
    large: u64,
}

/// Calls getppid.
///
/// # Errors
/// Where the count is beyond this machine.
pub fn syscalls(args: &RepeatArgs) -> anyhow::Result<RepeatTruth> {
    repeat("syscalls", args, || {
        // SAFETY: the call takes nothing and cannot fail. By number, so that no library remembers the result.
        black_box(unsafe { libc::syscall(libc::SYS_getppid) });
    })
}

/// Allocates 64 bytes by malloc and frees them.
///
/// # Errors
/// As [`syscalls`].
pub fn small(args: &RepeatArgs) -> anyhow::Result<RepeatTruth> {
    repeat("small", args, || {
        // SAFETY: what malloc returned, null included, is given back once.
        unsafe { libc::free(black_box(libc::malloc(black_box(SMALL_BYTES)))) };
    })
}

fn repeat(workload: &'static str, args: &RepeatArgs, mut once: impl FnMut()) -> anyhow::Result<RepeatTruth> {
    let mut chunks_ns = Vec::with_capacity(usize::try_from(args.count / CHUNK)?);
    for _ in 0..(args.count / CHUNK).max(1) {
        if is_stopped() {
            break;
        }
        let started = Instant::now();
        (0..CHUNK).for_each(|_| once());
        chunks_ns.push(ns(started.elapsed()));
    }
    // Together, because freeing one would have malloc keep the next in its heap.
    let large: Vec<Vec<u8>> = (0..args.large).map(|_| black_box(Vec::with_capacity(LARGE_BYTES))).collect();
    Ok(summary(workload, chunks_ns, large.len() as u64))
}

fn summary(workload: &'static str, mut chunks_ns: Vec<u64>, large: u64) -> RepeatTruth {
    chunks_ns.sort_unstable();
    let per_op = |ns: Option<&u64>| ns.map_or(0.0, |&ns| ns as f64 / CHUNK as f64);
    RepeatTruth {
        workload,
        pid: std::process::id(),
        count: chunks_ns.len() as u64 * CHUNK,
        total_ns: chunks_ns.iter().sum(),
        ns_per_op_median: per_op(chunks_ns.get(chunks_ns.len() / 2)),
        ns_per_op_best: per_op(chunks_ns.first()),
        large,
    }
}
