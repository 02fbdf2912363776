//! Why a process cannot be traced, into one sentence and an exit code.

use std::fmt;
use std::io;

use crate::failure::{Exit, Failure};

/// Why a process cannot be looked at or traced.
///
/// Not a [`std::error::Error`], so that `?` cannot turn it into an [`anyhow::Error`] without its exit
/// code: go through [`Failure`].
#[derive(Debug)]
pub enum TargetError {
    /// No process has this id, or it has ended and been reaped.
    NoSuchProcess {
        /// The id asked for.
        pid: u32,
    },
    /// It has ended, but its parent has not reaped it.
    Ended {
        /// The id asked for.
        pid: u32,
    },
    /// The id is of a thread that is not its process' first.
    Thread {
        /// The id asked for.
        tid: u32,
        /// The id of the process it is a thread of.
        process: u32,
    },
    /// A thread of the kernel: no memory, no code of its own.
    KernelThread {
        /// The id asked for.
        pid: u32,
    },
    /// Its executable is a 32-bit program.
    ThirtyTwoBit {
        /// The id asked for.
        pid: u32,
    },
    /// allocscope may not look at it.
    Denied {
        /// The id asked for.
        pid: u32,
    },
    /// A file that it maps cannot be opened any more.
    FileGone {
        /// The process that maps it.
        pid: u32,
        /// The path it was mapped by.
        path: String,
    },
    /// Anything else that went wrong with a file of /proc.
    Io {
        /// The id asked for; 0 where it is about no process.
        pid: u32,
        /// What went wrong.
        source: io::Error,
    },
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchProcess { pid } => {
                write!(f, "no process with pid {pid}: it may have ended, or live in another pid namespace")
            }
            Self::Ended { pid } => {
                write!(f, "process {pid} has ended and only waits for its parent to notice")
            }
            Self::Thread { tid, process } => {
                write!(f, "{tid} is a thread of process {process}; use --pid {process}")
            }
            Self::KernelThread { pid } => {
                write!(f, "{pid} is a kernel thread, which has no memory of its own to trace")
            }
            Self::ThirtyTwoBit { pid } => {
                write!(f, "process {pid} is a 32-bit program; only 64-bit ones can be traced")
            }
            Self::Denied { pid } => write!(
                f,
                "not allowed to look at process {pid}; run allocscope as root or give it CAP_SYS_PTRACE"
            ),
            Self::FileGone { pid, path } => {
                write!(
                    f,
                    "{} of process {pid} is deleted or replaced and cannot be opened",
                    path.escape_debug()
                )
            }
            Self::Io { pid: 0, source } => write!(f, "cannot read /proc: {source}"),
            Self::Io { pid, source } => write!(f, "cannot read /proc/{pid}: {source}"),
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let exit = match error {
            TargetError::NoSuchProcess { .. } | TargetError::Ended { .. } | TargetError::Thread { .. } => {
                Exit::NoSuchProcess
            }
            TargetError::KernelThread { .. } => Exit::NothingToTrace,
            TargetError::ThirtyTwoBit { .. } => Exit::ThirtyTwoBit,
            TargetError::Denied { .. } => Exit::Privilege,
            TargetError::FileGone { .. } => Exit::BadBinary,
            TargetError::Io { .. } => Exit::Internal,
        };
        Self { exit, message: error.to_string() }
    }
}
