//! The words of `attach` into which process, for how long.

use std::time::Duration;

use clap::Args;

use super::trace::TraceArgs;
use super::value::{pid_parser, positive_time};

/// `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope attach --pid 4242
  allocscope attach --pid 4242 --duration 10s --min-size 1MiB --format json")]
pub struct AttachArgs {
    /// The process to trace
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: u32,

    /// Stop after this time, such as 30s or 5m; else on Ctrl-C or when the process ends
    #[arg(long, short, value_name = "TIME", value_parser = positive_time)]
    pub duration: Option<Duration>,

    /// Trace the children that the process forks from now on, too
    #[arg(long)]
    pub follow_children: bool,

    /// What to trace and how to tell it.
    #[command(flatten)]
    pub trace: TraceArgs,
}
