//! What went wrong, as one sentence and a documented exit code.

use std::fmt;

/// Exit codes other than 0. `allocscope --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything not listed below.
    Internal = 1,
    /// Bad flags: unknown, conflicting or malformed. clap's own code.
    Usage = 2,
    /// The process does not exist.
    NoSuchProcess = 3,
    /// Not root, or a capability is missing.
    Privilege = 4,
    /// The kernel lacks BTF, the BPF ring buffer or another thing allocscope cannot do without.
    Kernel = 5,
    /// There is nothing to trace in the target.
    NothingToTrace = 6,
    /// The target's binary cannot be read: deleted, replaced, truncated or not an ELF file.
    BadBinary = 7,
    /// The target is a 32-bit process.
    ThirtyTwoBit = 8,
    /// The address to listen on is in use or cannot be bound.
    PortInUse = 9,
    /// The traced process ended before `--duration` was over; the report was printed.
    EndedEarly = 10,
    /// `advise --fail-on-finding`: there are findings.
    Found = 11,
    /// `run --budget`: the command succeeded and broke the budget.
    OverBudget = 120,
    /// `run --budget`: the command succeeded, and a part of the budget could not be judged.
    Unjudged = 121,
    /// `run`: allocscope itself failed.
    RunFailed = 125,
    /// `run`: the command could not be executed.
    NotExecutable = 126,
    /// `run`: the command was not found.
    NotFound = 127,
    /// Interrupted twice: stopped without a report.
    Interrupted = 130,
}

/// A failure that a user can act on.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One sentence: what, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure as an [`anyhow::Error`], which keeps the exit code.
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { exit, message: message.into() })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code that an error carries, or [`Exit::Internal`].
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Internal, |failure| failure.exit)
}
