//! The words of `advise` into what it does.

use super::run::command_of;
use super::{AttachConfig, Color, RunConfig, SlowOptions, TraceOptions};
use crate::cli::advise::AdviseArgs;
use crate::failure::Failure;

/// What `advise` does.
#[derive(Clone, Debug, PartialEq)]
pub struct AdviseConfig {
    /// Whom to observe.
    pub subject: AdviseSubject,
    /// Whether findings are told by the exit code.
    pub fail_on_finding: bool,
}

/// Whom `advise` observes.
#[derive(Clone, Debug, PartialEq)]
pub enum AdviseSubject {
    /// A process, for a time.
    Process(AttachConfig),
    /// A command, to its end.
    Command(RunConfig),
}

pub(super) fn config(args: AdviseArgs, color: Color) -> Result<AdviseConfig, Failure> {
    let trace = TraceOptions {
        min_size_bytes: args.min_size,
        interval: None,
        format: args.format.into(),
        listen: None,
        follow_children: args.pid.is_none(),
        slow: SlowOptions { slow: None, stack_depth: false },
        probe: args.probe.into(),
        color,
    };
    let subject = match args.pid {
        Some(pid) => AdviseSubject::Process(AttachConfig { pid, duration: Some(args.duration), trace }),
        None => {
            let (program, arguments) = command_of(args.command)?;
            AdviseSubject::Command(RunConfig {
                program,
                arguments,
                environment: args.env,
                budget: None,
                junit: None,
                trace,
            })
        }
    };
    Ok(AdviseConfig { subject, fail_on_finding: args.fail_on_finding })
}
