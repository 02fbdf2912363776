//! A process' series into the rows that people read: an allocator's size class with its three stages.

use crate::aggregate::ProcessSnapshot;
use crate::intake::{LiveTotals, SeriesReading};
use allocscope_common::key::{Allocator, FaultKind, FaultScope, Series, Stage};
use std::collections::BTreeMap;

/// One allocator and size class of a process.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The allocator.
    pub allocator: Allocator,
    /// Log2 of the size, rounded down.
    pub size_class: u8,
    /// The allocator's calls; absent where there were none.
    pub call: Option<&'a SeriesReading>,
    /// First touch, per released range.
    pub touch: Option<&'a SeriesReading>,
    /// Releases.
    pub release: Option<&'a SeriesReading>,
    /// What is not released yet.
    pub live: LiveTotals,
}

impl<'a> Row<'a> {
    fn empty(allocator: Allocator, size_class: u8) -> Self {
        Self { allocator, size_class, call: None, touch: None, release: None, live: LiveTotals::default() }
    }

    /// Stages that have events, in the order in which an allocation goes through them.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, &'a SeriesReading)> {
        let stages = [(Stage::Call, self.call), (Stage::Touch, self.touch), (Stage::Release, self.release)];
        stages.into_iter().filter_map(|(stage, series)| Some((stage, series?)))
    }

    /// Bytes that the calls asked for.
    pub fn asked_bytes(&self) -> u64 {
        self.call.map_or(0, |series| series.totals.bytes)
    }

    /// Bytes that page faults made real, of what was released and of what is live.
    pub fn touched_bytes(&self) -> u64 {
        self.touch.map_or(0, |series| series.totals.bytes).saturating_add(self.live.touched_bytes)
    }

    /// Time of all stages, in nanoseconds.
    pub fn time_ns(&self) -> u64 {
        self.stages().fold(0, |sum, (_, series)| sum.saturating_add(series.totals.time_ns))
    }
}

/// The rows of a process, by allocator and size.
pub fn rows(process: &ProcessSnapshot) -> Vec<Row<'_>> {
    let mut rows: BTreeMap<(Allocator, u8), Row<'_>> = BTreeMap::new();
    for (series, reading) in &process.series {
        let Series::Stage { allocator, stage, size_class } = *series else {
            continue;
        };
        let row = rows.entry((allocator, size_class)).or_insert_with(|| Row::empty(allocator, size_class));
        match stage {
            Stage::Call => row.call = Some(reading),
            Stage::Touch => row.touch = Some(reading),
            Stage::Release => row.release = Some(reading),
        }
    }
    for (&(allocator, size_class), &live) in &process.live {
        rows.entry((allocator, size_class)).or_insert_with(|| Row::empty(allocator, size_class)).live = live;
    }
    rows.into_values().collect()
}

/// The page faults of a process, by kind and scope.
pub fn faults(process: &ProcessSnapshot) -> impl Iterator<Item = (FaultKind, FaultScope, &SeriesReading)> {
    process.series.iter().filter_map(|(series, reading)| match *series {
        Series::Fault { kind, scope } => Some((kind, scope, reading)),
        Series::Stage { .. } | Series::Runtime(_) | Series::Provider(_) => None,
    })
}

/// Page faults of a process: in large ranges, and all.
pub fn attributed_faults(process: &ProcessSnapshot) -> (u64, u64) {
    faults(process).fold((0, 0), |(large, all), (_, scope, reading)| {
        let count = reading.totals.count;
        (large + if scope == FaultScope::Large { count } else { 0 }, all + count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;

    #[test]
    fn stages_of_a_class_come_together() {
        let snapshot = sample::snapshot();
        let rows = rows(&snapshot.processes[0]);
        assert_eq!(rows.len(), 1);
        let stages: Vec<_> = rows[0].stages().map(|(stage, series)| (stage, series.totals.count)).collect();
        assert_eq!(stages, [(Stage::Call, 2), (Stage::Touch, 1), (Stage::Release, 1)]);
        assert_eq!(rows[0].time_ns(), 28_034_000);
    }

    #[test]
    fn faults_are_counted_by_scope() {
        assert_eq!(attributed_faults(&sample::snapshot().processes[0]), (4, 5));
        assert_eq!(attributed_faults(&sample::snapshot().processes[1]), (0, 0));
    }
}
