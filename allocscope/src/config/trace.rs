//! The words that commands share into what is traced and how it is told.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Color, Format, ProbeOptions};
use crate::cli::trace::{SlowArgs, TraceArgs};

/// What `attach` and `run` share.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// The smallest allocation of interest; 0 takes all that the large path serves.
    pub min_size_bytes: u64,
    /// Time between reports, 100 ms to 1 h; without it, one report at the end.
    pub interval: Option<Duration>,
    /// How to write reports.
    pub format: Format,
    /// Where to serve metrics meanwhile.
    pub listen: Option<SocketAddr>,
    /// Whether children are traced from their fork on.
    pub follow_children: bool,
    /// Which single allocations are told.
    pub slow: SlowOptions,
    /// How probes are put.
    pub probe: ProbeOptions,
    /// Whether reports may have colour.
    pub color: Color,
}

/// Which single allocations are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowOptions {
    /// Those that take as long, and the slowest; `None` where none are.
    pub slow: Option<Duration>,
    /// Whether stack depths are counted.
    pub stack_depth: bool,
}

/// What is slow unless the command line tells: as long as a frame of a display, and longer than a disk needs.
pub(super) const DEFAULT_SLOW: Duration = Duration::from_millis(10);

impl From<SlowArgs> for SlowOptions {
    fn from(args: SlowArgs) -> Self {
        Self { slow: args.slow, stack_depth: args.stack_depth }
    }
}

pub(super) fn options(args: TraceArgs, follow_children: bool, color: Color) -> TraceOptions {
    TraceOptions {
        min_size_bytes: args.min_size,
        interval: args.interval,
        format: args.format.into(),
        listen: args.listen,
        follow_children,
        slow: SlowOptions { slow: args.slow.slow.or(Some(DEFAULT_SLOW)), stack_depth: args.slow.stack_depth },
        probe: args.probe.into(),
        color,
    }
}
