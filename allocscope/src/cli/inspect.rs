//! The words of `inspect` into what to look at.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::FormatArg;
use super::value::pid_parser;

/// `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope inspect 4242
  allocscope inspect ./server --format json
  allocscope inspect ./4242                      a file with a number for a name")]
pub struct InspectArgs {
    /// A process id, or an executable or shared library
    #[arg(value_name = "PID|FILE", required_unless_present = "pid")]
    pub subject: Option<OsString>,

    /// The process to look at, as the other commands name it
    #[arg(long, short, value_name = "PID", value_parser = pid_parser(), conflicts_with = "subject")]
    pub pid: Option<u32>,

    /// A folder of separate debug files, searched by build-id before the system's; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Show the plan of --allow-small-cost
    #[arg(long)]
    pub allow_small_cost: bool,

    /// Show the plan of --go-runtime
    #[arg(long)]
    pub go_runtime: bool,

    /// How to write the result
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,
}
