//! The probes that every traced process shares: memory system calls, processes, page faults.

use super::calls::{self, CallLinks, CallRung};
use super::faults::{FaultLinks, FaultRung};
use super::held::HeldLink;
use super::{Loaded, Tracefs, causes};
use crate::failure::{Exit, Failure};
use crate::site::Miss;
use anyhow::{Context, Error, Result};
use aya::programs::RawTracePoint;

/// Program and tracepoint, where the event's record is not needed: cheaper to pass and to detach.
const RAW_TRACEPOINTS: [(&str, &str); 2] =
    [("process_exec", "sched_process_exec"), ("process_exit", "sched_process_exit")];

/// Links that are alive; dropped together.
pub struct SystemProbes {
    _fork: HeldLink,
    calls: CallLinks,
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
        let fork = calls::attach_one(loaded, &tracefs, "process_fork", "task", "task_newtask");
        let fork = fork.map_err(refused)?;
        let calls = CallLinks::attach(loaded, &tracefs).map_err(refused)?;
        for (program, name) in RAW_TRACEPOINTS {
            attach_raw(loaded, program, name).map_err(refused)?;
        }
        let faults = FaultLinks::attach(loaded, &tracefs)?;
        let cause_misses = causes::attach(loaded);
        Ok(Self { _fork: fork, calls, faults, cause_misses })
    }

    /// How memory system calls are seen.
    pub fn call_rung(&self) -> CallRung {
        self.calls.rung
    }

    /// How often the kernel did not run a program at a system call.
    pub fn skipped_calls(&self) -> u64 {
        self.calls.skipped()
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
