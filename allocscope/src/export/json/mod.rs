//! A [`Snapshot`] into one line of JSON.
//!
//! A run writes one document a line (NDJSON), one each interval and a last one with `"final": true`.
//! Counts go from the start of tracing. Times are seconds, sizes bytes. Fields are only added; where one
//! would change its meaning, `schema` grows. A percentile is null where no duration is known.

mod finding;
mod memory;
mod process;
mod slow;
mod tool;

pub use finding::FindingView;
pub use memory::{Allocations, Faults, Live, Timing};
pub use process::{Cost, CoverageView, Miss, Process, StackFrames};
pub use slow::SlowView;
pub use tool::Tool;

use crate::aggregate::Snapshot;
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of the document.
pub const SCHEMA: u32 = 1;

/// One line, ended by a newline.
pub fn line(snapshot: &Snapshot, is_final: bool) -> String {
    // Cannot fail: all keys are strings and nothing is written to but memory.
    let mut line = serde_json::to_string(&Document::new(snapshot, is_final)).unwrap_or_default();
    line.push('\n');
    line
}

/// The document.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether it is the last one of the run.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Time since tracing began.
    pub elapsed_seconds: f64,
    /// By pid.
    pub processes: Vec<Process<'a>>,
    /// What the kernel side lost, by reason; every reason is present.
    pub lost: BTreeMap<&'static str, u64>,
    /// About allocscope itself.
    pub tool: Tool,
}

impl<'a> Document<'a> {
    /// The document of a snapshot.
    pub fn new(snapshot: &'a Snapshot, is_final: bool) -> Self {
        Self {
            schema: SCHEMA,
            is_final,
            elapsed_seconds: snapshot.elapsed.as_secs_f64(),
            processes: snapshot.processes.iter().map(|process| Process::new(process, snapshot)).collect(),
            lost: snapshot.lost.iter().map(|(reason, &count)| (reason.name(), count)).collect(),
            tool: Tool::new(&snapshot.tool),
        }
    }
}

fn seconds(ns: f64) -> f64 {
    ns / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use serde_json::{Value, json};

    fn parsed(snapshot: &Snapshot, is_final: bool) -> Value {
        let line = line(snapshot, is_final);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n'));
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn the_document_is_the_one_described() {
        let document = parsed(&sample::snapshot(), true);
        assert_eq!(document["schema"], 1);
        assert_eq!(document["final"], true);
        assert_eq!(document["elapsed_seconds"], 10.0);
        assert_eq!(document["lost"]["event_ring_full"], 0);
        assert_eq!(
            document["tool"]["probe_price_seconds"],
            json!({"page_fault": 1e-7, "uprobe_emulated": 4e-7})
        );
        let server = &document["processes"][0];
        assert_eq!(server["pid"], 4242);
        assert_eq!(server["exe"], "/usr/bin/server");
        assert_eq!(
            server["coverage"],
            json!({
                "allocator": "go1.22.10", "tier": "large-path", "sites_attached": 3, "sites_planned": 4,
                "faults_attributed": 4, "faults_seen": 5,
                "misses": [{"reason": "go_version_unknown", "detail": "this Go version is newer than those tested"}],
            })
        );
        assert_eq!(server["untimed_faults"], json!({"minor": 1, "major": 0}));
        assert_eq!(server["cost"]["hits"]["uprobe_emulated"], 20);
        assert_eq!(server["live_ranges"], 1);
        assert_eq!(document["processes"][1]["alive"], false);
    }

    #[test]
    fn rows_carry_counts_and_percentiles() {
        let document = parsed(&sample::snapshot(), false);
        assert_eq!(document["final"], false);
        let row = &document["processes"][0]["allocations"][0];
        assert_eq!((&row["allocator"], &row["size"]), (&json!("go"), &json!("64MiB")));
        assert_eq!(row["size_bytes"], 64 << 20);
        assert_eq!(row["bytes"], 128 << 20);
        assert_eq!(row["released_bytes"], 64 << 20);
        assert_eq!(row["touched_bytes"], 80 << 20);
        assert_eq!(
            row["live"],
            json!({"ranges": 1, "bytes": 64 << 20, "touched_bytes": 16 << 20, "touch_seconds": 0.006})
        );
        assert_eq!(
            row["stages"]["touch"],
            json!({
                "count": 1, "timed": 1, "time_seconds": 0.024, "p50_seconds": 0.024, "p95_seconds": 0.024,
                "p99_seconds": 0.024, "max_seconds": 0.024,
            })
        );
        let fault = &document["processes"][0]["faults"][0];
        assert_eq!((&fault["kind"], &fault["scope"]), (&json!("minor"), &json!("large")));
        assert_eq!((&fault["count"], &fault["timed"]), (&json!(4), &json!(3)));
    }

    #[test]
    fn findings_carry_their_numbers_and_settings() {
        let mut snapshot = sample::snapshot();
        snapshot.processes[0].findings = vec![sample::finding()];
        let document = parsed(&snapshot, true);
        let finding = &document["processes"][0]["findings"][0];
        assert_eq!((&finding["kind"], &finding["allocator"]), (&json!("threshold_churn"), &json!("glibc")));
        assert_eq!(finding["sizes"], json!(["1MiB", "64MiB"]));
        assert_eq!(finding["recoverable_seconds_per_second"], 0.28);
        assert_eq!(finding["figures"]["kept_bytes"], 134_217_728.0);
        assert_eq!(
            finding["environment"],
            json!({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=134217728"})
        );
        assert_eq!(document["processes"][1]["findings"], json!([]));
    }

    #[test]
    fn unknown_durations_are_null_and_odd_text_stays_on_its_line() {
        let mut snapshot = sample::snapshot();
        snapshot.processes[0].info.comm = "a\n\"\u{1b}[31m".to_owned();
        for series in snapshot.processes[0].series.values_mut() {
            series.buckets.clear();
        }
        let document = parsed(&snapshot, false);
        assert_eq!(document["processes"][0]["comm"], "a\n\"\u{1b}[31m");
        assert_eq!(document["processes"][0]["faults"][0]["p50_seconds"], Value::Null);
    }
}
