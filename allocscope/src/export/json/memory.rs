//! Allocations of a size class, page faults of a kind, and how long they took.

use super::seconds;
use crate::export::names::size_label;
use crate::export::quantile::{quantile_ns, timed};
use crate::export::rows::Row;
use crate::intake::SeriesReading;
use allocscope_common::key::{FaultKind, FaultScope};
use serde::Serialize;
use std::collections::BTreeMap;

/// An allocator's size class.
#[derive(Debug, Serialize)]
pub struct Allocations {
    /// The allocator's name.
    pub allocator: &'static str,
    /// The class as people read it: `64KiB`.
    pub size: String,
    /// The class' lower bound; its upper bound is twice that.
    pub size_bytes: u64,
    /// Allocations.
    pub count: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes given back.
    pub released_bytes: u64,
    /// Bytes made real by page faults, of what was released and of what is live.
    pub touched_bytes: u64,
    /// What is neither released nor known to be over: in no stage but `call`.
    pub live: Live,
    /// `call`, `touch` (per released range) and `release`; those without events are absent.
    pub stages: BTreeMap<&'static str, Timing>,
}

impl Allocations {
    pub(super) fn new(row: &Row<'_>) -> Self {
        let call = row.call.map(|series| series.totals).unwrap_or_default();
        Self {
            allocator: row.allocator.name(),
            size: size_label(row.size_class),
            size_bytes: 1u64.checked_shl(row.size_class.into()).unwrap_or(u64::MAX),
            count: call.count,
            bytes: call.bytes,
            released_bytes: row.release.map_or(0, |series| series.totals.bytes),
            touched_bytes: row.touched_bytes(),
            live: Live {
                ranges: row.live.ranges,
                bytes: row.live.bytes,
                touched_bytes: row.live.touched_bytes,
                touch_seconds: seconds(row.live.touch_ns as f64),
            },
            stages: row.stages().map(|(stage, series)| (stage.name(), Timing::new(series))).collect(),
        }
    }
}

/// Live ranges of a size class.
#[derive(Debug, Serialize)]
pub struct Live {
    /// How many.
    pub ranges: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Bytes made real by page faults so far.
    pub touched_bytes: u64,
    /// Time of these page faults.
    pub touch_seconds: f64,
}

/// Page faults of a kind and scope.
#[derive(Debug, Serialize)]
pub struct Faults {
    /// `minor` or `major`.
    pub kind: &'static str,
    /// `large` or `other`.
    pub scope: &'static str,
    /// Their number and time.
    #[serde(flatten)]
    pub timing: Timing,
}

impl Faults {
    pub(super) fn new((kind, scope, series): (FaultKind, FaultScope, &SeriesReading)) -> Self {
        Self { kind: kind.name(), scope: scope.name(), timing: Timing::new(series) }
    }
}

/// Events and their durations. Percentiles are off by at most 9.1 %.
#[derive(Debug, Serialize)]
pub struct Timing {
    /// Events.
    pub count: u64,
    /// Those whose duration is in the percentiles.
    pub timed: u64,
    /// Their time.
    pub time_seconds: f64,
    /// Median.
    pub p50_seconds: Option<f64>,
    /// 95th percentile.
    pub p95_seconds: Option<f64>,
    /// 99th percentile.
    pub p99_seconds: Option<f64>,
    /// The longest.
    pub max_seconds: f64,
}

impl Timing {
    pub(super) fn new(series: &SeriesReading) -> Self {
        let percentile = |q| quantile_ns(series, q).map(seconds);
        Self {
            count: series.totals.count,
            timed: timed(series),
            time_seconds: seconds(series.totals.time_ns as f64),
            p50_seconds: percentile(0.50),
            p95_seconds: percentile(0.95),
            p99_seconds: percentile(0.99),
            max_seconds: seconds(series.totals.max_ns as f64),
        }
    }
}
