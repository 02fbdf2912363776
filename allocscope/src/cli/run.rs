//! The words of `run` into which command, and what it is compared with.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::budget::{self, Budget};
use super::trace::TraceArgs;
use super::value::environment;

const HELP: &str = "\
The command keeps its own standard streams and signals; allocscope exits as it does. With --budget, where the
command succeeds, allocscope exits with 120 if a limit is broken, else with 121 if one cannot be judged. A command
that fails has its own exit code, whatever came of the limits: they are told all the same.

Examples:
  allocscope run -- ./server --port 80
  allocscope run --min-size 1MiB --no-follow-children -- make -j4
  allocscope run --env LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 -- ./server
  allocscope run --budget 'first_touch_p99<5ms,large_allocs<1000,faults<1e6' --junit budget.xml -- ./bench";

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub struct RunArgs {
    /// Trace the command's children, too (the default)
    #[arg(long, overrides_with = "no_follow_children")]
    pub follow_children: bool,

    /// Trace the command itself only
    #[arg(long)]
    pub no_follow_children: bool,

    /// Set an environment variable for the command only; may be given more than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = environment)]
    pub env: Vec<(String, String)>,

    /// Compare the run with limits, such as first_touch_p99<5ms,large_allocs<1000 (see below)
    #[arg(long, short, value_name = "LIMITS")]
    pub budget: Option<Budget>,

    /// Write what came of the limits to a file as JUnit XML
    #[arg(long, value_name = "FILE", requires = "budget")]
    pub junit: Option<PathBuf>,

    /// What to trace and how to tell it.
    #[command(flatten)]
    pub trace: TraceArgs,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn after_help() -> String {
    format!("{HELP}\n\n{}", budget::HELP)
}

#[cfg(test)]
mod tests {
    use crate::cli::CommandArgs;
    use crate::cli::tests::parse;

    #[test]
    fn the_command_line_of_run_is_left_alone() {
        let cli = parse("allocscope run --format json -- ls -l --color -- x").unwrap();
        let CommandArgs::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "-l", "--color", "--", "x"]);
    }
}
