//! What a process tells of its own pools, arenas and regions by probes into one view for every exporter.

use crate::aggregate::ProcessSnapshot;
use allocscope_common::key::Series;
use allocscope_common::provider::ProviderEvent;
use serde::Serialize;
use std::fmt::Write as _;

use super::quantile::quantile_ns;
use super::table::{bytes, duration};

/// What one of its probes has told, from the start of tracing.
#[derive(Debug, Serialize)]
pub struct Told {
    /// The probe.
    pub probe: &'static str,
    /// How often it was passed.
    pub count: u64,
    /// Time that it told of.
    pub seconds: f64,
    /// Half of what it told of was shorter.
    pub p50_seconds: Option<f64>,
    /// 99 % were shorter.
    pub p99_seconds: Option<f64>,
    /// The longest.
    pub max_seconds: f64,
    /// Bytes that it told of; absent where its size is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What each probe of a process has told, those first that were made first; empty where none was passed.
pub fn told(process: &ProcessSnapshot) -> Vec<Told> {
    let of_event = |&event| {
        let reading = process.series.get(&Series::Provider(event))?;
        let quantile = |q| quantile_ns(reading, q).map(|ns| ns / 1e9);
        Some(Told {
            probe: event.name(),
            count: reading.totals.count,
            seconds: reading.totals.time_ns as f64 / 1e9,
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
            max_seconds: reading.totals.max_ns as f64 / 1e9,
            bytes: (event != ProviderEvent::Breaker).then_some(reading.totals.bytes),
        })
    };
    ProviderEvent::ALL.iter().filter_map(of_event).collect()
}

/// A block of the report; empty where there is nothing to tell.
pub fn text(process: &ProcessSnapshot) -> String {
    let told = told(process);
    let mut text =
        if told.is_empty() { "" } else { "\nPools, arenas and regions, as the program tells\n" }.to_owned();
    for Told { probe, count, seconds, p99_seconds, max_seconds, bytes: size, .. } in &told {
        let time = |seconds: f64| duration(seconds * 1e9);
        let p99 = p99_seconds.map_or_else(|| "-".to_owned(), time);
        let size = size.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {probe}: {count} times{size}, {}, p99 {p99}, max {}",
            time(*seconds),
            time(*max_seconds)
        );
    }
    text
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
    }
}
