//! A parsed command line into a validated [`Config`]: what the core works from, free of clap.

mod advise;
mod attach;
mod daemon;
mod inspect;
mod probe;
mod record;
mod run;
mod trace;

use crate::cli::workload::Workload;
use crate::cli::{Cli, ColorArg, CommandArgs, CompletionsArgs, FormatArg, ManArgs};
use crate::failure::{Exit, Failure};

pub use crate::cli::budget::{Budget, Item, Measure, Timed, Unit as BudgetUnit};
pub use advise::{AdviseConfig, AdviseSubject};
pub use attach::AttachConfig;
pub use daemon::{DaemonConfig, Selection};
pub use inspect::{InspectConfig, Subject};
pub use probe::{AttachVia, PageFaults, ProbeOptions};
pub use record::{ProfileFormat, RecordConfig, Recorded, Weight};
pub use run::RunConfig;
pub use trace::{SlowOptions, TraceOptions};

/// One run of the program.
#[derive(Debug)]
pub struct Config {
    /// How often `-v` was given.
    pub verbosity: u8,
    /// Whether output may have colour.
    pub color: Color,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Trace a running process.
    Attach(AttachConfig),
    /// Start a command and trace it.
    Run(RunConfig),
    /// Tell what would make a process faster.
    Advise(AdviseConfig),
    /// Serve metrics of many processes.
    Daemon(DaemonConfig),
    /// Record a profile.
    Record(RecordConfig),
    /// Show a plan without attaching.
    Inspect(InspectConfig),
    /// Check the machine.
    Doctor(DoctorConfig),
    /// Be a workload.
    Workload(Workload),
    /// Print a completion script.
    Completions(CompletionsArgs),
    /// Print a manual page.
    Man(ManArgs),
}

/// What `doctor` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorConfig {
    /// How to write the result.
    pub format: Format,
    /// Whether the result may have colour.
    pub color: Color,
}

/// How to write what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// On terminals, unless `NO_COLOR` is set to anything but the empty string.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour what goes to a stream. `is_terminal` tells what the stream is, `no_color`
    /// is the value of that environment variable.
    pub fn enabled(self, is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
        match self {
            Self::Auto => is_terminal && no_color.is_none_or(|value| value.is_empty()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl TryFrom<Cli> for Config {
    type Error = Failure;

    /// Fails with [`Exit::Usage`] where flags contradict each other in a way that clap cannot see.
    fn try_from(cli: Cli) -> Result<Self, Failure> {
        let color = Color::from(cli.color);
        let command = match cli.command {
            CommandArgs::Attach(args) => Command::Attach(attach::config(args, color)),
            CommandArgs::Run(args) => Command::Run(run::config(args, color)?),
            CommandArgs::Advise(args) => Command::Advise(advise::config(args, color)?),
            CommandArgs::Daemon(args) => Command::Daemon(DaemonConfig::try_from(args)?),
            CommandArgs::Record(args) => Command::Record(record::config(args, color)?),
            CommandArgs::Inspect(args) => Command::Inspect(inspect::config(args, color)?),
            CommandArgs::Doctor(args) => Command::Doctor(DoctorConfig { format: args.format.into(), color }),
            CommandArgs::Workload(workload) => Command::Workload(workload),
            CommandArgs::Completions(args) => Command::Completions(args),
            CommandArgs::Man(args) => Command::Man(args),
        };
        Ok(Self { verbosity: cli.verbose, color, command })
    }
}

impl From<ColorArg> for Color {
    fn from(color: ColorArg) -> Self {
        match color {
            ColorArg::Auto => Self::Auto,
            ColorArg::Always => Self::Always,
            ColorArg::Never => Self::Never,
        }
    }
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Table => Self::Table,
            FormatArg::Json => Self::Json,
        }
    }
}

fn usage(message: String) -> Failure {
    Failure { exit: Exit::Usage, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::ffi::OsStr;

    pub(super) fn config(line: &str) -> Result<Config, Failure> {
        Config::try_from(Cli::try_parse_from(line.split_whitespace()).unwrap())
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let config = config("allocscope doctor --color never -vv").unwrap();
        assert_eq!((config.verbosity, config.color), (2, Color::Never));
    }

    #[test]
    fn colour_honours_no_color() {
        assert!(Color::Auto.enabled(true, None));
        assert!(Color::Auto.enabled(true, Some(OsStr::new(""))));
        assert!(!Color::Auto.enabled(true, Some(OsStr::new("1"))));
        assert!(!Color::Auto.enabled(false, None));
        assert!(Color::Always.enabled(false, Some(OsStr::new("1"))));
        assert!(!Color::Never.enabled(true, None));
    }
}
