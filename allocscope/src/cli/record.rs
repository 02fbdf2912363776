//! The words of `record` into what is recorded, and as what it is written.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use allocscope_common::config::DEFAULT_MIN_SIZE;
use clap::{Args, ValueEnum};

use super::probe::ProbeArgs;
use super::value::{pid_parser, positive_time, size};

/// `record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each allocation is recorded with the stack of its call; past some 3,800 a second on a CPU, one in 2, 4 or more, \
which then counts for as many. Times of allocations that are still live at the end are those so far.

Examples:
  allocscope record --pid 4242 --duration 30s -o large.pb.gz
  allocscope record --pid 4242 -d 10s --format svg --weight touch -o touch.svg
  allocscope record -o - --format folded -- ./server --port 80")]
pub struct RecordArgs {
    /// The process to record
    #[arg(long, short, value_name = "PID", value_parser = pid_parser(), required_unless_present = "command", conflicts_with = "command")]
    pub pid: Option<u32>,

    /// Stop after this time, such as 30s or 5m; else on Ctrl-C or when the process ends
    #[arg(long, short, value_name = "TIME", value_parser = positive_time)]
    pub duration: Option<Duration>,

    /// Where to write to; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,

    /// What to write: a profile for `go tool pprof`, stacks with their weights, or a flame graph
    #[arg(long, short, value_enum, default_value_t = ProfileFormatArg::Pprof)]
    pub format: ProfileFormatArg,

    /// What stacks are weighted by, in folded stacks and flame graphs; a profile has all
    #[arg(long, short, value_enum, default_value_t = WeightArg::Bytes)]
    pub weight: WeightArg,

    /// Smallest allocation to record, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Record the children of the process, too
    #[arg(long)]
    pub follow_children: bool,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,

    /// The command to start and record, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Values of `record --format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileFormatArg {
    /// profile.proto, packed by gzip
    Pprof,
    /// A line for each stack: functions, outermost first, and a number
    Folded,
    /// A flame graph
    Svg,
}

/// Values of `record --weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightArg {
    /// Bytes asked for
    Bytes,
    /// Nanoseconds in calls
    Call,
    /// Nanoseconds of first touch
    Touch,
    /// Nanoseconds of releases
    Release,
    /// Page faults of first touch
    Faults,
    /// Allocations
    Count,
}
