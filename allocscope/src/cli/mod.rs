//! The command line into a [`Cli`]: every flag checked for form, none acted upon.

pub mod advise;
pub mod attach;
pub mod budget;
pub mod daemon;
mod help;
pub mod inspect;
pub mod pooled;
pub mod probe;
pub mod record;
pub mod run;
pub mod trace;
mod value;
pub mod workload;

use advise::AdviseArgs;
use attach::AttachArgs;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use daemon::DaemonArgs;
use inspect::InspectArgs;
use record::RecordArgs;
use run::RunArgs;
use workload::Workload;

/// The port that `daemon` listens on unless told otherwise. Prometheus' list of default ports starts
/// at 9100 and is filled upwards, so this one is well above the crowded part (to be entered there before a
/// release); it is also clear of Kubernetes' (10248 to 10259), Zabbix' (10050, 10051) and the ephemeral ports
/// (from 32768).
pub const DEFAULT_PORT: u16 = 10_789;

/// Shows what large allocations really cost a running process: the allocator's call, the page faults
/// of first touch, and the release.
#[derive(Debug, Parser)]
#[command(name = "allocscope", version, after_help = help::after_help(), subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Say more about what is done; twice for still more
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub verbose: u8,

    /// When to use colour; `auto` is for terminals, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = ColorArg::Auto, value_name = "WHEN", global = true, help_heading = "Global options")]
    pub color: ColorArg,

    /// What to do.
    #[command(subcommand)]
    pub command: CommandArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum CommandArgs {
    /// Trace a running process and report what its large allocations cost
    Attach(AttachArgs),
    /// Start a command and trace it from its first instruction on
    Run(RunArgs),
    /// Observe a process or a command and tell what would make it faster, with the numbers behind it
    Advise(AdviseArgs),
    /// Trace many processes and serve their metrics to Prometheus
    Daemon(DaemonArgs),
    /// Record which code pays for its large allocations: a profile or a flame graph
    Record(RecordArgs),
    /// Show which allocator a process or file uses and where probes would go
    Inspect(InspectArgs),
    /// Check what this machine allows: kernel, privileges, settings
    Doctor(DoctorArgs),
    /// Run a bundled workload that knows its own costs and prints them as JSON
    #[command(subcommand)]
    Workload(Workload),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, in roff
    Man(ManArgs),
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// A subcommand, for its own page
    pub command: Option<String>,
}

/// Values of `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On terminals, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Values of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people
    Table,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    pub(super) fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    pub(super) fn kind(line: &str) -> ErrorKind {
        parse(line).unwrap_err().kind()
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }
}
