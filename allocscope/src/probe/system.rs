//! The probes that every traced process shares: memory system calls, processes, page faults.

use super::faults::{FaultLinks, FaultRung};
use super::perf_link::attach_tracepoint;
use super::{Loaded, Tracefs, causes};
use crate::failure::{Exit, Failure};
use crate::site::Miss;
use anyhow::{Context, Result};
use aya::programs::TracePoint;
use std::os::fd::{AsFd, OwnedFd};

/// Program, category and tracepoint.
const TRACEPOINTS: [(&str, &str, &str); 15] = [
    ("process_fork", "task", "task_newtask"),
    ("process_exec", "sched", "sched_process_exec"),
    ("process_exit", "sched", "sched_process_exit"),
    ("mmap_exit", "syscalls", "sys_exit_mmap"),
    ("mmap_enter", "syscalls", "sys_enter_mmap"),
    ("munmap_exit", "syscalls", "sys_exit_munmap"),
    ("munmap_enter", "syscalls", "sys_enter_munmap"),
    ("mremap_exit", "syscalls", "sys_exit_mremap"),
    ("mremap_enter", "syscalls", "sys_enter_mremap"),
    ("madvise_exit", "syscalls", "sys_exit_madvise"),
    ("madvise_enter", "syscalls", "sys_enter_madvise"),
    ("brk_exit", "syscalls", "sys_exit_brk"),
    ("brk_enter", "syscalls", "sys_enter_brk"),
    ("prctl_enter", "syscalls", "sys_enter_prctl"),
    ("seccomp_enter", "syscalls", "sys_enter_seccomp"),
];

/// Links that are alive; dropped together.
pub struct SystemProbes {
    tracepoints: Vec<OwnedFd>,
    faults: FaultLinks,
    cause_misses: Vec<Miss>,
}

impl SystemProbes {
    /// Loads and attaches the shared probes.
    ///
    /// # Errors
    /// [`Exit::Privilege`] or [`Exit::Kernel`]: without these there is nothing to show.
    pub fn attach(loaded: &mut Loaded) -> Result<Self> {
        let tracefs =
            Tracefs::open().map_err(|e| Failure::error(Exit::Kernel, format!("{e:#}; run as root")))?;
        let mut tracepoints = Vec::with_capacity(TRACEPOINTS.len());
        for (program, category, name) in TRACEPOINTS {
            let link = attach_one(loaded, &tracefs, program, category, name)
                .map_err(|e| Failure::error(Exit::Kernel, format!("{e:#}; run `allocscope doctor`")))?;
            tracepoints.push(link);
        }
        let faults = FaultLinks::attach(loaded, &tracefs)?;
        let cause_misses = causes::attach(loaded);
        Ok(Self { tracepoints, faults, cause_misses })
    }

    /// How the start of a page fault is seen.
    pub fn fault_rung(&self) -> FaultRung {
        self.faults.rung
    }

    /// Causes that are not told apart on this machine.
    pub fn cause_misses(&self) -> &[Miss] {
        &self.cause_misses
    }
}

impl Drop for SystemProbes {
    fn drop(&mut self) {
        super::close_together(std::mem::take(&mut self.tracepoints));
    }
}

fn attach_one(
    loaded: &mut Loaded,
    tracefs: &Tracefs,
    program: &str,
    category: &str,
    name: &str,
) -> Result<OwnedFd> {
    let id = tracefs.id(category, name)?;
    let program: &mut TracePoint = loaded.program(program)?;
    program.load().with_context(|| format!("the program for {category}:{name} does not load"))?;
    attach_tracepoint(program.fd()?.as_fd(), id)
        .with_context(|| format!("tracepoint {category}:{name} cannot be attached"))
}
