//! The words of `advise` into whom to observe, and how findings are told.

use std::ffi::OsString;
use std::time::Duration;

use allocscope_common::config::DEFAULT_MIN_SIZE;
use clap::Args;

use super::FormatArg;
use super::probe::ProbeArgs;
use super::value::{environment, pid_parser, positive_time, size};

/// `advise`.
#[derive(Debug, Args)]
#[command(after_help = "\
Findings: threshold_churn, huge_pages, over_allocation, release_storm. Each says what it would save, what that
rests on, the setting for the allocator at hand, its risk and how to check it. Below a hundredth of a CPU, ten
events and a second of observation nothing is told. Findings are not an error unless --fail-on-finding is given;
a command's own failure comes first.

Examples:
  allocscope advise --pid 4242
  allocscope advise --pid 4242 --duration 1m --format json
  allocscope advise -- ./server --port 80")]
#[command(group(clap::ArgGroup::new("subject").required(true).args(["pid", "command"])))]
pub struct AdviseArgs {
    /// The process to observe
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: Option<u32>,

    /// How long to observe it, such as 30s or 5m; a command is observed to its end
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = positive_time, conflicts_with = "command")]
    pub duration: Duration,

    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Set an environment variable for the command only, such as a setting that was advised; may be given more
    /// than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = environment, requires = "command")]
    pub env: Vec<(String, String)>,

    /// How to write the findings
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,

    /// Exit with code 11 where there are findings
    #[arg(long)]
    pub fail_on_finding: bool,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,

    /// The command and its arguments; its children are observed too
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
