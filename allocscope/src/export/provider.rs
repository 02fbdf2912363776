//! What a process tells of its own memory by probes into one view for every exporter: of its pools, arenas and regions,
//! and of the allocations that it samples.

use crate::aggregate::ProcessSnapshot;
use allocscope_common::key::Series;
use allocscope_common::provider::ProviderEvent;
use serde::Serialize;

use super::quantile::quantile_ns;
use super::table::{bytes, duration};

/// What one of its probes has told, from the start of tracing.
#[derive(Debug, Serialize)]
pub struct Told {
    /// The probe.
    pub probe: &'static str,
    /// How often it was passed.
    pub count: u64,
    /// Time that it told of; a sample tells of none.
    pub seconds: Option<f64>,
    /// Half of what it told of was shorter.
    pub p50_seconds: Option<f64>,
    /// 99 % were shorter.
    pub p99_seconds: Option<f64>,
    /// The longest; likewise.
    pub max_seconds: Option<f64>,
    /// Bytes that it told of, for samples those that they stand for; absent where its size is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether it is of allocations that the program samples.
    #[serde(skip)]
    is_sample: bool,
}

/// What each probe of a process has told, those first that were made first; empty where none was passed.
pub fn told(process: &ProcessSnapshot) -> Vec<Told> {
    let of_event = |&event| {
        let reading = process.series.get(&Series::Provider(event))?;
        let quantile = |q| quantile_ns(reading, q).map(|ns| ns / 1e9);
        let seconds = |ns: u64| (!event.is_sample()).then_some(ns as f64 / 1e9);
        Some(Told {
            probe: event.name(),
            count: reading.totals.count,
            seconds: seconds(reading.totals.time_ns),
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
            max_seconds: seconds(reading.totals.max_ns),
            bytes: event.has_bytes().then_some(reading.totals.bytes),
            is_sample: event.is_sample(),
        })
    };
    ProviderEvent::ALL.iter().filter_map(of_event).collect()
}

/// A block of the report for each provider; empty where there is nothing to tell.
pub fn text(process: &ProcessSnapshot) -> String {
    let (samples, own): (Vec<_>, Vec<_>) = told(process).into_iter().partition(|told| told.is_sample);
    block("Pools, arenas and regions, as the program tells", &own, line)
        + &block("Allocations that the program samples", &samples, sample_line)
}

fn block(title: &str, told: &[Told], line: impl Fn(&Told) -> String) -> String {
    if told.is_empty() {
        return String::new();
    }
    format!("\n{title}\n{}", told.iter().map(line).collect::<String>())
}

fn line(told: &Told) -> String {
    let time = |seconds: f64| duration(seconds * 1e9);
    let p99 = told.p99_seconds.map_or_else(|| "-".to_owned(), time);
    let size = told.bytes.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
    let [sum, max] = [told.seconds, told.max_seconds].map(|seconds| time(seconds.unwrap_or_default()));
    format!("  {}: {} times{size}, {sum}, p99 {p99}, max {max}\n", told.probe, told.count)
}

fn sample_line(told: &Told) -> String {
    let size = told.bytes.map(|size| format!(", which stand for {}", bytes(size))).unwrap_or_default();
    format!("  {}: {} samples{size}\n", told.probe, told.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use crate::intake::SeriesReading;
    use allocscope_common::counter::Totals;

    #[test]
    fn each_probe_that_was_passed_is_told() {
        let mut process = sample::snapshot().processes.remove(0);
        assert_eq!((told(&process).len(), text(&process)), (0, String::new()));
        for (event, count, bytes) in
            [(ProviderEvent::RegionMap, 2, 128 << 20), (ProviderEvent::Breaker, 1, 2)]
        {
            let totals = Totals { count, bytes, time_ns: 3_000, max_ns: 2_000 };
            let reading = SeriesReading { totals, ..SeriesReading::default() };
            process.series.insert(Series::Provider(event), reading);
        }
        let text = text(&process);
        assert!(text.contains("region_map: 2 times, 128MiB, 3.00us, p99 -, max 2.00us"), "{text}");
        assert!(text.contains("breaker: 1 times, 3.00us"), "{text}");
        assert!(!text.contains("samples"), "{text}");
    }

    #[test]
    fn samples_take_no_time() {
        let mut process = sample::snapshot().processes.remove(0);
        for (event, count, bytes) in [(ProviderEvent::OtelAlloc, 3, 2 << 20), (ProviderEvent::OtelFree, 2, 0)]
        {
            let totals = Totals { count, bytes, ..Totals::default() };
            process
                .series
                .insert(Series::Provider(event), SeriesReading { totals, ..SeriesReading::default() });
        }
        assert_eq!(
            text(&process),
            "\nAllocations that the program samples\n  otel_alloc: 3 samples, which stand for 2.00MiB\n  \
             otel_free: 2 samples\n"
        );
        let document = serde_json::to_value(told(&process)).unwrap();
        let alloc = &document[0];
        assert_eq!(
            (&alloc["probe"], &alloc["count"], &alloc["bytes"]),
            (&"otel_alloc".into(), &3.into(), &(2 << 20).into())
        );
        for time in ["seconds", "p50_seconds", "p99_seconds", "max_seconds"] {
            assert!(alloc[time].is_null() && alloc.get(time).is_some(), "{document}");
        }
        assert_eq!((&document[1]["count"], document[1].get("bytes")), (&2.into(), None));
    }
}
