//! The probes that every traced process shares: memory system calls, processes, page faults.

use super::faults::{FaultLinks, FaultRung};
use super::held::HeldLink;
use super::perf_link::attach_tracepoint;
use super::{Loaded, Tracefs, causes};
use crate::failure::{Exit, Failure};
use crate::site::Miss;
use anyhow::{Context, Error, Result};
use aya::programs::{RawTracePoint, TracePoint};
use std::os::fd::AsFd;

/// Program, category and tracepoint.
const TRACEPOINTS: [(&str, &str, &str); 13] = [
    ("process_fork", "task", "task_newtask"),
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

/// Program and tracepoint, where the event's record is not needed: cheaper to pass and to detach.
const RAW_TRACEPOINTS: [(&str, &str); 2] =
    [("process_exec", "sched_process_exec"), ("process_exit", "sched_process_exit")];

/// Links that are alive; dropped together.
pub struct SystemProbes {
    _tracepoints: Vec<HeldLink>,
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
            tracepoints.push(attach_one(loaded, &tracefs, program, category, name).map_err(refused)?);
        }
        for (program, name) in RAW_TRACEPOINTS {
            attach_raw(loaded, program, name).map_err(refused)?;
        }
        let faults = FaultLinks::attach(loaded, &tracefs)?;
        let cause_misses = causes::attach(loaded);
        Ok(Self { _tracepoints: tracepoints, faults, cause_misses })
    }

    /// How page faults are seen.
    pub fn fault_rung(&self) -> FaultRung {
        self.faults.rung
    }

    /// Causes that are not told apart on this machine.
    pub fn cause_misses(&self) -> &[Miss] {
        &self.cause_misses
    }
}

fn refused(error: Error) -> Error {
    Failure::error(Exit::Kernel, format!("{error:#}; run `allocscope doctor`"))
}

fn attach_raw(loaded: &mut Loaded, program: &str, name: &str) -> Result<()> {
    let program: &mut RawTracePoint = loaded.program(program)?;
    program.load().with_context(|| format!("the program for {name} does not load"))?;
    program.attach(name).with_context(|| format!("raw tracepoint {name} cannot be attached"))?;
    Ok(())
}

fn attach_one(
    loaded: &mut Loaded,
    tracefs: &Tracefs,
    program: &str,
    category: &str,
    name: &str,
) -> Result<HeldLink> {
    let id = tracefs.id(category, name)?;
    let program: &mut TracePoint = loaded.program(program)?;
    program.load().with_context(|| format!("the program for {category}:{name} does not load"))?;
    let link = attach_tracepoint(program.fd()?.as_fd(), id)
        .with_context(|| format!("tracepoint {category}:{name} cannot be attached"))?;
    Ok(loaded.holder.hold(link))
}
