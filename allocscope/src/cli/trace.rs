//! The words that `attach` and `run` share into what to trace, and how to tell it.

use std::net::SocketAddr;
use std::time::Duration;

use allocscope_common::config::DEFAULT_MIN_SIZE;
use clap::Args;

use super::FormatArg;
use super::probe::ProbeArgs;
use super::value::{interval, listen, positive_time, size};

/// What `attach` and `run` share.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Report this often (100ms to 1h); without it, once at the end
    #[arg(long, short, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,

    /// How to write reports
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,

    /// Serve metrics to Prometheus meanwhile, at an address such as 127.0.0.1:10789
    #[arg(long, short, value_name = "ADDR", value_parser = listen)]
    pub listen: Option<SocketAddr>,

    /// Which single allocations are told.
    #[command(flatten)]
    pub slow: SlowArgs,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// Single allocations, in all commands that trace.
#[derive(Debug, Args)]
pub struct SlowArgs {
    /// List each allocation whose call, first touch or release takes at least as long, with its stack; and, as long
    /// as there are few of these, the slowest ones. Metrics have them as exemplars
    #[arg(long, value_name = "TIME", value_parser = positive_time)]
    pub slow: Option<Duration>,

    /// Count how deep the stack is when large memory is allocated, by frame pointers: code without them shows few
    #[arg(long)]
    pub stack_depth: bool,
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::kind;
    use clap::error::ErrorKind;

    #[test]
    fn what_to_trace_is_required_and_checked() {
        assert_eq!(kind("allocscope attach --pid 0"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach --pid -1"), ErrorKind::UnknownArgument);
        assert_eq!(kind("allocscope attach --pid 1 --min-size huge"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach --pid 1 --duration 0s"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("allocscope run"), ErrorKind::MissingRequiredArgument);
    }
}
