//! What the kernel side has counted since tracing began, summed over CPUs and decoded.

use super::LiveReading;
use allocscope_common::counter::{LOSS_REASONS, ProcessCounters, Totals};
use allocscope_common::depth::DepthCounts;
use allocscope_common::key::{Allocator, Series};
use std::collections::BTreeMap;

/// One reading of all maps. Counts only grow, except that a slot given to a new process starts at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// By process slot.
    pub slots: BTreeMap<u32, SlotReading>,
    /// By [`allocscope_common::counter::LossReason`] as a number.
    pub lost: [u64; LOSS_REASONS],
}

/// What was counted for one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotReading {
    /// Counters that every process has.
    pub counters: ProcessCounters,
    /// Its live ranges.
    pub live: LiveReading,
    /// Its series.
    pub series: BTreeMap<Series, SeriesReading>,
    /// Calls by frames on the stack, where that is counted.
    pub depths: BTreeMap<Allocator, DepthCounts>,
}

/// One series: totals and the whole histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesReading {
    /// Count, bytes, time and maximum.
    pub totals: Totals,
    /// Counts by bucket (see [`allocscope_common::bucket`]); buckets without a count are absent.
    /// Their sum is below `totals.count` where durations were unknown or the bucket map was full.
    pub buckets: BTreeMap<u32, u64>,
}
