//! The memory system calls, and the two that set a filter, by the best rung that loads.
//!
//! A tracepoint of one system call makes the kernel take its slow way for all system calls of all processes, some
//! 50 to 70 ns each (`TIF_SYSCALL_TRACEPOINT`, kernel/entry/common.c). The ends of the kernel's own functions for these calls
//! cost nobody else anything.

use super::held::HeldLink;
use super::perf_link::attach_tracepoint;
use super::{Loaded, Tracefs, fd_info};
use anyhow::{Context, Result};
use aya::programs::links::FdLink;
use aya::programs::{FEntry, FExit, ProgramFd, TracePoint};
use std::os::fd::{AsFd, OwnedFd};

/// Calls that are timed: program `NAME_fentry` and `NAME_fexit`, or `NAME_enter` and `NAME_exit`.
const TIMED: [&str; 5] = ["mmap", "munmap", "mremap", "madvise", "brk"];
/// Calls whose beginning is of interest.
const BEGUN: [&str; 2] = ["prctl", "seccomp"];
/// Of the kernel's functions for system calls (arch/x86/include/asm/syscall_wrapper.h).
const PREFIX: &str = "__x64_sys_";

/// How memory system calls are seen, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallRung {
    /// At both ends of the kernel's functions: other system calls cost what they did.
    Functions,
    /// By the system calls' tracepoints.
    Tracepoints,
}

impl CallRung {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Functions => "fentry",
            Self::Tracepoints => "tracepoint",
        }
    }
}

/// Live links to all of these calls; dropped together.
pub(super) struct CallLinks {
    pub(super) rung: CallRung,
    _links: Vec<HeldLink>,
    /// Those that the kernel may skip.
    programs: Vec<OwnedFd>,
}

impl CallLinks {
    /// Attaches to them all, ends before beginnings, so that no call is begun whose end is not seen.
    pub(super) fn attach(loaded: &mut Loaded, tracefs: &Tracefs) -> Result<Self> {
        match attach_functions(loaded) {
            Ok(links) => return Ok(links),
            Err(error) => log::info!("system calls are seen by tracepoints: {error:#}"),
        }
        let links = attach_tracepoints(loaded, tracefs)?;
        Ok(Self { rung: CallRung::Tracepoints, _links: links, programs: Vec::new() })
    }

    /// How often the kernel did not run a program, because the same one was interrupted on that CPU (`recursion_misses`,
    /// kernel/bpf/trampoline.c). Behind a tracepoint nothing is interrupted.
    pub(super) fn skipped(&self) -> u64 {
        self.programs.iter().filter_map(|program| fd_info::number(program.as_fd(), "recursion_misses")).sum()
    }
}

/// All are loaded before any is attached: it is all of them or none.
fn attach_functions(loaded: &mut Loaded) -> Result<CallLinks> {
    let mut programs = Vec::new();
    for call in TIMED {
        programs.push(load_end(loaded, call)?);
        programs.push(load_beginning(loaded, call)?);
    }
    for call in BEGUN {
        programs.push(load_beginning(loaded, call)?);
    }
    let mut links = Vec::new();
    for call in TIMED {
        links.push(attach_end(loaded, call)?);
    }
    for call in TIMED.iter().chain(&BEGUN) {
        links.push(attach_beginning(loaded, call)?);
    }
    Ok(CallLinks { rung: CallRung::Functions, _links: links, programs })
}

fn load_beginning(loaded: &mut Loaded, call: &str) -> Result<OwnedFd> {
    let types = loaded.kernel_types()?;
    let program: &mut FEntry = loaded.program(&format!("{call}_fentry"))?;
    program.load(&format!("{PREFIX}{call}"), &types).with_context(|| format!("fentry of {PREFIX}{call}"))?;
    own(program.fd()?)
}

fn load_end(loaded: &mut Loaded, call: &str) -> Result<OwnedFd> {
    let types = loaded.kernel_types()?;
    let program: &mut FExit = loaded.program(&format!("{call}_fexit"))?;
    program.load(&format!("{PREFIX}{call}"), &types).with_context(|| format!("fexit of {PREFIX}{call}"))?;
    own(program.fd()?)
}

fn own(program: &ProgramFd) -> Result<OwnedFd> {
    Ok(program.as_fd().try_clone_to_owned()?)
}

fn attach_beginning(loaded: &mut Loaded, call: &str) -> Result<HeldLink> {
    let program: &mut FEntry = loaded.program(&format!("{call}_fentry"))?;
    let attached = program.attach().with_context(|| format!("fentry of {PREFIX}{call}"))?;
    let link = FdLink::from(program.take_link(attached)?);
    loaded.holder.hold_link(link)
}

fn attach_end(loaded: &mut Loaded, call: &str) -> Result<HeldLink> {
    let program: &mut FExit = loaded.program(&format!("{call}_fexit"))?;
    let attached = program.attach().with_context(|| format!("fexit of {PREFIX}{call}"))?;
    let link = FdLink::from(program.take_link(attached)?);
    loaded.holder.hold_link(link)
}

fn attach_tracepoints(loaded: &mut Loaded, tracefs: &Tracefs) -> Result<Vec<HeldLink>> {
    let ends = TIMED.map(|call| (call, "exit"));
    let beginnings = TIMED.iter().chain(&BEGUN).map(|call| (*call, "enter"));
    let all = ends.into_iter().chain(beginnings);
    all.map(|(call, side)| {
        let name = format!("sys_{side}_{call}");
        attach_one(loaded, tracefs, &format!("{call}_{side}"), "syscalls", &name)
    })
    .collect()
}

/// Attaches a program to a tracepoint.
pub(super) fn attach_one(
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
