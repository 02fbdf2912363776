//! What was counted of a Go process' runtime (`--go-runtime`) into one view for every exporter.

use crate::aggregate::ProcessSnapshot;
use crate::intake::SeriesReading;
use allocscope_common::go_runtime::RuntimeEvent;
use allocscope_common::key::Series;
use serde::Serialize;
use std::fmt::Write as _;

use super::quantile::quantile_ns;
use super::table::{bytes, duration};

/// A process' runtime. Counts go from the start of tracing.
#[derive(Debug, Serialize)]
pub struct GoRuntime {
    /// Collections that came to the end of their marking.
    pub gc_cycles: u64,
    /// Times that the world was stopped, by what for: `gc`, `other`, or before Go 1.21 `unknown`.
    pub stop_the_world: Vec<Timed>,
    /// Goroutines that marked in return for memory.
    pub gc_assist: Timed,
    /// Bytes given back to the system by the scavenger.
    pub scavenged_bytes: u64,
    /// `sync.Pool.Get` that found nothing on its own processor.
    pub pool_slow_gets: u64,
    /// `sync.Pool.Get` that called `New`.
    pub pool_new: u64,
    /// Times that all pools were cleaned.
    pub pool_cleanups: u64,
    /// Pools that had something then, summed.
    pub pools_cleaned: u64,
    /// What was counted while every `Get` was.
    pub pool_sample: PoolSample,
}

/// Durations of one kind.
#[derive(Debug, Serialize)]
pub struct Timed {
    /// What it is for; `None` where there is one kind only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How many.
    pub count: u64,
    /// Their time.
    pub seconds: f64,
    /// Half were shorter.
    pub p50_seconds: Option<f64>,
    /// 99 % were shorter.
    pub p99_seconds: Option<f64>,
    /// The longest.
    pub max_seconds: f64,
}

/// `sync.Pool` in the windows in which every `Get` is counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PoolSample {
    /// All gets.
    pub gets: u64,
    /// Those that found nothing on their own processor.
    pub slow_gets: u64,
    /// Those that called `New`.
    pub new: u64,
    /// The share of gets that did not call `New`; `None` without gets.
    pub hit_ratio: Option<f64>,
}

/// The stops, and the name of what each is for.
pub const STOPS: [(RuntimeEvent, &str); 3] = [
    (RuntimeEvent::StopGc, "gc"),
    (RuntimeEvent::StopOther, "other"),
    (RuntimeEvent::StopUnknown, "unknown"),
];

impl GoRuntime {
    /// `None` where nothing of it was seen.
    pub fn of(process: &ProcessSnapshot) -> Option<Self> {
        let mut series = process.series.keys();
        series.any(|series| matches!(series, Series::Runtime(_))).then(|| Self::read(process))
    }

    fn read(process: &ProcessSnapshot) -> Self {
        let totals = |event| reading(process, event).map(|reading| reading.totals).unwrap_or_default();
        let count = |event| totals(event).count;
        let stops = STOPS.iter().filter(|(event, _)| count(*event) > 0);
        Self {
            gc_cycles: count(RuntimeEvent::Cycle),
            stop_the_world: stops.map(|&(event, reason)| Timed::of(process, event, Some(reason))).collect(),
            gc_assist: Timed::of(process, RuntimeEvent::Assist, None),
            scavenged_bytes: totals(RuntimeEvent::Scavenge).bytes,
            pool_slow_gets: count(RuntimeEvent::PoolSlowGet),
            pool_new: count(RuntimeEvent::PoolNew),
            pool_cleanups: count(RuntimeEvent::PoolCleanup),
            pools_cleaned: totals(RuntimeEvent::PoolCleanup).bytes,
            pool_sample: PoolSample::of(
                count(RuntimeEvent::SampledGet),
                count(RuntimeEvent::SampledSlowGet),
                count(RuntimeEvent::SampledNew),
            ),
        }
    }

    /// A block of the report.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Go runtime: {} collections, {} given back to the system",
            self.gc_cycles,
            bytes(self.scavenged_bytes),
        );
        for stop in &self.stop_the_world {
            let _ = writeln!(text, "  world stopped ({}): {}", stop.reason.unwrap_or_default(), stop.text());
        }
        if self.gc_assist.count > 0 {
            let _ = writeln!(text, "  assists: {}", self.gc_assist.text());
        }
        if self.pool_slow_gets > 0 {
            let _ = writeln!(
                text,
                "  sync.Pool: {} gets were slow, {} called New; cleaned {} times, {} pools in all",
                self.pool_slow_gets, self.pool_new, self.pool_cleanups, self.pools_cleaned,
            );
        }
        if let Some(hit_ratio) = self.pool_sample.hit_ratio {
            let _ = writeln!(
                text,
                "  sync.Pool: {:.2} % of {} gets in sampled windows did not call New",
                hit_ratio * 100.0,
                self.pool_sample.gets,
            );
        }
        text
    }
}

/// The series of `event`.
pub fn reading(process: &ProcessSnapshot, event: RuntimeEvent) -> Option<&SeriesReading> {
    process.series.get(&Series::Runtime(event))
}

impl Timed {
    fn of(process: &ProcessSnapshot, event: RuntimeEvent, reason: Option<&'static str>) -> Self {
        let empty = SeriesReading::default();
        let reading = reading(process, event).unwrap_or(&empty);
        let quantile = |q| quantile_ns(reading, q).map(|ns| ns / 1e9);
        Self {
            reason,
            count: reading.totals.count,
            seconds: reading.totals.time_ns as f64 / 1e9,
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
            max_seconds: reading.totals.max_ns as f64 / 1e9,
        }
    }

    fn text(&self) -> String {
        let time = |seconds: f64| duration(seconds * 1e9);
        let quantile = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), time);
        format!(
            "{} times, {}, p50 {}, p99 {}, max {}",
            self.count,
            time(self.seconds),
            quantile(self.p50_seconds),
            quantile(self.p99_seconds),
            time(self.max_seconds),
        )
    }
}

impl PoolSample {
    fn of(gets: u64, slow_gets: u64, new: u64) -> Self {
        // A get that began before its window can end in it.
        let hits = gets.saturating_sub(new);
        Self { gets, slow_gets, new, hit_ratio: (gets > 0).then(|| hits as f64 / gets as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use allocscope_common::counter::Totals;

    fn process(events: &[(RuntimeEvent, u64, u64)]) -> ProcessSnapshot {
        let mut process = sample::snapshot().processes.remove(0);
        for &(event, count, bytes) in events {
            let totals = Totals { count, bytes, time_ns: 0, max_ns: 0 };
            let reading = SeriesReading { totals, ..SeriesReading::default() };
            process.series.insert(Series::Runtime(event), reading);
        }
        process
    }

    #[test]
    fn a_process_without_a_runtime_has_no_view() {
        assert!(GoRuntime::of(&process(&[])).is_none());
    }

    #[test]
    fn the_hit_ratio_is_that_of_the_windows() {
        let view = GoRuntime::of(&process(&[
            (RuntimeEvent::Cycle, 3, 0),
            (RuntimeEvent::Scavenge, 2, 4 << 20),
            (RuntimeEvent::PoolSlowGet, 70, 0),
            (RuntimeEvent::PoolNew, 60, 0),
            (RuntimeEvent::SampledGet, 200, 0),
            (RuntimeEvent::SampledSlowGet, 20, 0),
            (RuntimeEvent::SampledNew, 10, 0),
        ]))
        .unwrap();
        assert_eq!((view.gc_cycles, view.scavenged_bytes, view.pool_new), (3, 4 << 20, 60));
        assert_eq!(view.pool_sample.hit_ratio, Some(0.95));
        let text = view.text();
        assert!(text.contains("3 collections, 4.00MiB"), "{text}");
        assert!(text.contains("95.00 % of 200 gets"), "{text}");
    }
}
