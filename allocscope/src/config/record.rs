//! The words of `record` into what it does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::{Color, Format, SlowOptions, TraceOptions, usage};
use crate::cli::record::{ProfileFormatArg, RecordArgs, WeightArg};
use crate::failure::Failure;

/// What `record` does.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordConfig {
    /// Which process.
    pub subject: Recorded,
    /// When to stop, if not on a signal or with the process; not 0.
    pub duration: Option<Duration>,
    /// Where to write to; `None` is standard output.
    pub output: Option<PathBuf>,
    /// What to write.
    pub format: ProfileFormat,
    /// What stacks are weighted by.
    pub weight: Weight,
    /// What to trace.
    pub trace: TraceOptions,
}

/// Which process is recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// A running one; not 0.
    Pid(u32),
    /// One that is started for it.
    Command {
        /// The program: a path, or a name to look up in `PATH`.
        program: OsString,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileFormat {
    /// profile.proto, packed by gzip.
    Pprof,
    /// Folded stacks.
    Folded,
    /// A flame graph.
    Svg,
}

/// One of a profile's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Bytes asked for.
    Bytes,
    /// Nanoseconds in calls.
    Call,
    /// Nanoseconds of first touch.
    Touch,
    /// Nanoseconds of releases.
    Release,
    /// Page faults of first touch.
    Faults,
    /// Allocations.
    Count,
}

impl From<ProfileFormatArg> for ProfileFormat {
    fn from(format: ProfileFormatArg) -> Self {
        match format {
            ProfileFormatArg::Pprof => Self::Pprof,
            ProfileFormatArg::Folded => Self::Folded,
            ProfileFormatArg::Svg => Self::Svg,
        }
    }
}

impl From<WeightArg> for Weight {
    fn from(weight: WeightArg) -> Self {
        match weight {
            WeightArg::Bytes => Self::Bytes,
            WeightArg::Call => Self::Call,
            WeightArg::Touch => Self::Touch,
            WeightArg::Release => Self::Release,
            WeightArg::Faults => Self::Faults,
            WeightArg::Count => Self::Count,
        }
    }
}

pub(super) fn config(args: RecordArgs, color: Color) -> Result<RecordConfig, Failure> {
    let mut words = args.command.into_iter();
    let subject = match (args.pid, words.next().filter(|program| !program.is_empty())) {
        (Some(pid), _) => Recorded::Pid(pid),
        (None, Some(program)) => Recorded::Command { program, arguments: words.collect() },
        (None, None) => return Err(usage("`record` needs --pid, or a command after `--`".to_owned())),
    };
    let follow_children = args.follow_children;
    Ok(RecordConfig {
        subject,
        duration: args.duration,
        output: (args.output.as_os_str() != "-").then_some(args.output),
        format: args.format.into(),
        weight: args.weight.into(),
        trace: TraceOptions {
            min_size_bytes: args.min_size,
            interval: None,
            format: Format::Table,
            listen: None,
            follow_children,
            slow: SlowOptions { slow: None, stack_depth: false },
            probe: args.probe.into(),
            color,
        },
    })
}
