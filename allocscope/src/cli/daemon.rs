//! The words of `daemon` into which processes, how many, and where they are told.

use std::net::{Ipv4Addr, SocketAddr};

use allocscope_common::config::{DEFAULT_MIN_SIZE, MAX_SLOTS};
use clap::Args;
use regex::Regex;

use super::DEFAULT_PORT;
use super::probe::ProbeArgs;
use super::trace::SlowArgs;
use super::value::{listen, pid_parser, regex, size};

/// `daemon`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope daemon --all
  allocscope daemon --pid 4242 --pid 4243 --listen 127.0.0.1:9999
  allocscope daemon --exe '^/opt/shop/' --min-size 1MiB")]
pub struct DaemonArgs {
    /// Which processes.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// The address to serve metrics at; port 0 takes any free port
    #[arg(long, short, value_name = "ADDR", default_value_t = default_listen(), value_parser = listen)]
    pub listen: SocketAddr,

    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Trace at most this many processes at a time; more are counted, not traced
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub max_processes: u32,

    /// Which single allocations are told.
    #[command(flatten)]
    pub slow: SlowArgs,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// Which processes `daemon` traces: exactly one kind.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SelectionArgs {
    /// This process; may be given more than once
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: Vec<u32>,

    /// Every process whose short name (at most 15 bytes) matches
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    pub comm: Option<Regex>,

    /// Every process whose executable's path matches
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    pub exe: Option<Regex>,

    /// Every process
    #[arg(long)]
    pub all: bool,
}

/// Where `daemon` listens unless told otherwise: reachable from this machine only.
fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::{kind, parse};
    use crate::failure::Exit;
    use clap::error::ErrorKind;

    #[test]
    fn selections_conflict_and_one_is_required() {
        assert_eq!(kind("allocscope daemon"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("allocscope daemon --all --pid 1"), ErrorKind::ArgumentConflict);
        assert_eq!(kind("allocscope daemon --comm a --exe b"), ErrorKind::ArgumentConflict);
        assert_eq!(kind("allocscope daemon --pid 1 --comm a"), ErrorKind::ArgumentConflict);
        assert_eq!(parse("allocscope daemon --pid 1 --comm a").unwrap_err().exit_code(), Exit::Usage as i32);
        assert!(parse("allocscope daemon --pid 1 --pid 2").is_ok());
    }

    #[test]
    fn limits() {
        assert!(parse("allocscope daemon --all --max-processes 65536").is_ok());
        assert_eq!(kind("allocscope daemon --all --max-processes 65537"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope daemon --all --max-processes 0"), ErrorKind::ValueValidation);
    }
}
