//! The words about probes, which all commands that trace have, into how they are put.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::value::percent;

/// How probes are put, in all commands that trace.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Attach uprobes this way only; else the best that the kernel has is used
    #[arg(long, value_enum, value_name = "WAY")]
    pub attach_via: Option<AttachViaArg>,

    /// A folder of separate debug files, searched by build-id before the system's; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Probe malloc's family and free themselves, so that whatever is large is seen, and when it is freed: each call
    /// of a probed function is slowed down, small ones too, by as much as is told at the start (of glibc, malloc
    /// stays free of that unless --min-size is 1032 or less)
    #[arg(long)]
    pub allow_small_cost: bool,

    /// Trace Go's runtime as well: stops of the world, assists, collections, what goes back to the system, and
    /// sync.Pool, whose every Get is probed for 100 ms every 10 s
    #[arg(long)]
    pub go_runtime: bool,

    /// Where tracing costs a process more than this percentage of one CPU, take its uprobes out, and if that is
    /// not enough leave it alone; the report says so
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub max_overhead: Option<f64>,

    /// What is done for each page fault: counting alone costs the fewest nanoseconds, and then no first touch has
    /// a duration
    #[arg(long, value_enum, default_value = "timed", value_name = "WHAT")]
    pub page_faults: PageFaultsArg,

    /// Do not watch the scheduler: time off the CPU then counts with what the thread was at, and no context switch
    /// of any program on the machine costs the tenth of a microsecond more that watching takes
    #[arg(long)]
    pub no_off_cpu: bool,
}

/// Values of `--page-faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PageFaultsArg {
    /// Counted, attributed to the allocation it is in, and timed
    Timed,
    /// Counted and attributed
    Counted,
}

/// Values of `--attach-via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachViaArg {
    /// Uprobe sessions (kernel 6.13)
    Session,
    /// uprobe_multi links (kernel 6.6)
    Multi,
    /// Perf events: slow to detach
    Perf,
}
