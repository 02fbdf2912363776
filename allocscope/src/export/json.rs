//! A [`Snapshot`] into one line of JSON.
//!
//! A run writes one document a line (NDJSON), one each interval and a last one with `"final": true`.
//! Counts go from the start of tracing. Times are seconds, sizes bytes. Fields are only added; where one
//! would change its meaning, `schema` grows. A percentile is null where no duration is known.

use super::go_runtime::GoRuntime;
use super::names::size_label;
use super::provider::{Told, told};
use super::quantile::{quantile_ns, timed};
use super::rows::{Row, attributed_faults, faults, rows};
use crate::aggregate::{Coverage, Finding, ProcessSnapshot, SlowAllocation, Snapshot, ToolSnapshot};
use crate::intake::SeriesReading;
use allocscope_common::cause::Cause;
use allocscope_common::counter::ProbeClass;
use allocscope_common::depth::{DEPTH_BOUNDS, DepthCounts};
use allocscope_common::key::FaultKind;
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

/// One process.
#[derive(Debug, Serialize)]
pub struct Process<'a> {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot: tells it from a later process with its pid.
    pub start_ticks: u64,
    /// The kernel's short name for it.
    pub comm: &'a str,
    /// Its executable.
    pub exe: String,
    /// Its cgroup; may be empty.
    pub cgroup: &'a str,
    /// Its container's id; may be empty.
    pub container: &'a str,
    /// Whether it was running.
    pub alive: bool,
    /// What of it is seen.
    pub coverage: CoverageView<'a>,
    /// Large allocations by allocator and size class.
    pub allocations: Vec<Allocations>,
    /// Page faults by kind and scope.
    pub faults: Vec<Faults>,
    /// Page faults without a known duration, by kind.
    pub untimed_faults: BTreeMap<&'static str, u64>,
    /// Large ranges that are not released yet.
    pub live_ranges: u64,
    /// Releases of a part of a range.
    pub partial_releases: u64,
    /// Time of those.
    pub partial_release_seconds: f64,
    /// Time of large allocations' calls, of releases and of all page faults, each nanosecond once.
    pub window_seconds: f64,
    /// Where it went: these sum to it.
    pub causes: BTreeMap<&'static str, f64>,
    /// What its Go runtime did; absent where that is not traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub go_runtime: Option<GoRuntime>,
    /// What it told of its own pools, arenas and regions, and what it sampled; empty where it tells nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provider: Vec<Told>,
    /// The slowest allocations, the slowest first.
    pub slow_allocations: Vec<SlowView>,
    /// Calls by frames on the stack, by allocator; empty unless asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stack_frames: BTreeMap<&'static str, StackFrames>,
    /// What tracing has cost the process.
    pub cost: Cost,
    /// What could be saved, the largest saving first.
    pub findings: Vec<FindingView<'a>>,
}

/// Something that a process could save. Savings of one process overlap.
#[derive(Debug, Serialize)]
pub struct FindingView<'a> {
    /// `threshold_churn`, `huge_pages`, `over_allocation` or `release_storm`.
    pub kind: &'static str,
    /// Whose memory it is about.
    pub allocator: &'static str,
    /// Lower bounds of the size classes it is about.
    pub sizes: Vec<String>,
    /// Time to be saved in each second; null where none is claimed.
    pub recoverable_seconds_per_second: Option<f64>,
    /// What happens.
    pub summary: &'a str,
    /// The numbers it rests on; each name ends with its unit.
    pub figures: BTreeMap<&'static str, f64>,
    /// Environment variables that end it; empty where the program has to change.
    pub environment: BTreeMap<&'static str, &'a str>,
    /// The same in words.
    pub setting: &'a str,
    /// What may become worse.
    pub risk: &'a str,
    /// How to see whether it helped.
    pub check: &'a str,
}

/// A slow allocation. Times that are not known are null.
#[derive(Debug, Serialize)]
pub struct SlowView {
    /// The allocator.
    pub allocator: &'static str,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// When its call was over, or its memory filed, in seconds since boot.
    pub at_seconds: f64,
    /// The thread.
    pub tid: u32,
    /// The goroutine's number; absent outside of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goroutine: Option<u64>,
    /// Time of the call.
    pub call_seconds: Option<f64>,
    /// Time of first touch so far.
    pub touch_seconds: Option<f64>,
    /// Time of the release.
    pub release_seconds: Option<f64>,
    /// Page faults so far.
    pub faults: u64,
    /// Where the time of these stages went: the sum is theirs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cause_seconds: BTreeMap<&'static str, f64>,
    /// The functions that asked for it, the innermost first; in the last report only.
    pub frames: Vec<String>,
}

/// Calls by frames on the stack.
#[derive(Debug, Serialize)]
pub struct StackFrames {
    /// Calls.
    pub count: u64,
    /// Frames, summed.
    pub frames: u64,
    /// Calls with at most so many frames.
    pub at_most: BTreeMap<u64, u64>,
}

/// Which of a process' allocations are seen.
#[derive(Debug, Serialize)]
pub struct CoverageView<'a> {
    /// The allocator or runtime.
    pub allocator: &'a str,
    /// `kernel` or `large-path`.
    pub tier: &'static str,
    /// Probe sites attached.
    pub sites_attached: usize,
    /// Probe sites planned.
    pub sites_planned: usize,
    /// Page faults in large ranges.
    pub faults_attributed: u64,
    /// All page faults.
    pub faults_seen: u64,
    /// What is not seen.
    pub misses: Vec<Miss<'a>>,
}

/// Something that is not seen.
#[derive(Debug, Serialize)]
pub struct Miss<'a> {
    /// The reason's short name.
    pub reason: &'static str,
    /// One sentence.
    pub detail: &'a str,
}

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

/// What tracing has cost a process.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Probe hits by class.
    pub hits: BTreeMap<&'static str, u64>,
    /// Hits times price, of the classes whose price is known.
    pub estimated_seconds: f64,
}

/// About allocscope itself.
#[derive(Debug, Serialize)]
pub struct Tool {
    /// Its version.
    pub version: &'static str,
    /// Price of a probe hit by class, in seconds; classes that could not be measured are absent.
    pub probe_price_seconds: BTreeMap<&'static str, f64>,
    /// Time of first touch by 2 MiB pages in parts of that by 4 KiB pages; null where there are none to be had.
    pub huge_touch_ratio: Option<f64>,
    /// Processes not traced because of the maximum number.
    pub processes_over_limit: u64,
    /// How uprobes were attached: `session`, `multi` or `perf`; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_via: Option<&'static str>,
    /// Whether huge pages are counted whole in `touched_bytes`; else each page fault is one of 4 KiB.
    pub page_sizes_known: bool,
    /// How page faults are seen, see `allocscope doctor`.
    pub page_faults_via: &'static str,
    /// How memory system calls are seen, see `allocscope doctor`.
    pub system_calls_via: &'static str,
    /// CPU time used.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Kernel memory of its maps.
    pub map_bytes: u64,
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

impl<'a> Process<'a> {
    fn new(process: &'a ProcessSnapshot, snapshot: &Snapshot) -> Self {
        let ProcessSnapshot { info, counters, .. } = process;
        let slow = snapshot.slowest.iter().filter(|slow| slow.pid == info.id.pid);
        let untimed = |&kind: &FaultKind| (kind.name(), counters.untimed_faults[kind as usize]);
        Self {
            pid: info.id.pid,
            start_ticks: info.id.start_ticks,
            comm: &info.comm,
            exe: info.exe.to_string_lossy().into_owned(),
            cgroup: &info.cgroup,
            container: &info.container,
            alive: process.alive,
            coverage: CoverageView::new(&process.coverage, attributed_faults(process)),
            allocations: rows(process).iter().map(Allocations::new).collect(),
            faults: faults(process)
                .map(|(kind, scope, series)| Faults {
                    kind: kind.name(),
                    scope: scope.name(),
                    timing: Timing::new(series),
                })
                .collect(),
            untimed_faults: FaultKind::ALL.iter().map(untimed).collect(),
            live_ranges: counters.ranges_filed.saturating_sub(counters.ranges_ended),
            partial_releases: counters.partial_releases,
            partial_release_seconds: seconds(counters.partial_release_ns as f64),
            window_seconds: seconds(process.windows_ns() as f64),
            causes: causes(process),
            slow_allocations: slow.map(SlowView::new).collect(),
            stack_frames: process
                .depths
                .iter()
                .map(|(allocator, counts)| (allocator.name(), StackFrames::new(counts)))
                .collect(),
            go_runtime: GoRuntime::of(process),
            provider: told(process),
            cost: Cost::new(process, &snapshot.tool),
            findings: process.findings.iter().map(FindingView::new).collect(),
        }
    }
}

impl<'a> FindingView<'a> {
    fn new(finding: &'a Finding) -> Self {
        let environment = &finding.setting.environment;
        Self {
            kind: finding.kind.name(),
            allocator: finding.allocator.name(),
            sizes: finding.size_classes.iter().map(|&class| size_label(class)).collect(),
            recoverable_seconds_per_second: finding.recoverable,
            summary: &finding.summary,
            figures: finding.figures.iter().map(|figure| (figure.name, figure.value)).collect(),
            environment: environment.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            setting: &finding.setting.text,
            risk: &finding.risk,
            check: &finding.check,
        }
    }
}

impl SlowView {
    fn new(slow: &SlowAllocation) -> Self {
        let time = |ns: Option<u64>| ns.map(|ns| seconds(ns as f64));
        let causes_ns = slow.causes_ns();
        let causes = Cause::ALL.iter().map(|&cause| (cause.name(), causes_ns[cause as usize]));
        Self {
            allocator: slow.allocator.name(),
            size_bytes: slow.size,
            at_seconds: seconds(slow.filed_ns as f64),
            tid: slow.tid,
            goroutine: (slow.goroutine != 0).then_some(slow.goroutine),
            call_seconds: time(slow.call_ns),
            touch_seconds: time(slow.touch_ns),
            release_seconds: time(slow.release_ns),
            faults: slow.faults,
            cause_seconds: causes
                .filter(|&(_, ns)| ns > 0)
                .map(|(name, ns)| (name, seconds(ns as f64)))
                .collect(),
            frames: slow.frames.clone(),
        }
    }
}

impl StackFrames {
    fn new(counts: &DepthCounts) -> Self {
        let mut below = 0;
        let at_most = DEPTH_BOUNDS.iter().zip(counts.buckets).map(|(&bound, count)| {
            below += count;
            (bound, below)
        });
        Self { at_most: at_most.collect(), count: counts.calls(), frames: counts.frames }
    }
}

fn causes(process: &ProcessSnapshot) -> BTreeMap<&'static str, f64> {
    let causes_ns = process.causes_ns();
    let told = |&cause: &Cause| (cause.name(), seconds(causes_ns[cause as usize] as f64));
    Cause::ALL.iter().map(told).collect()
}

impl<'a> CoverageView<'a> {
    fn new(coverage: &'a Coverage, (faults_attributed, faults_seen): (u64, u64)) -> Self {
        Self {
            allocator: &coverage.allocator,
            tier: coverage.tier.name(),
            sites_attached: coverage.sites_attached,
            sites_planned: coverage.sites_planned,
            faults_attributed,
            faults_seen,
            misses: coverage
                .misses
                .iter()
                .map(|miss| Miss { reason: miss.reason, detail: &miss.detail })
                .collect(),
        }
    }
}

impl Allocations {
    fn new(row: &Row<'_>) -> Self {
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

impl Timing {
    fn new(series: &SeriesReading) -> Self {
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

impl Cost {
    fn new(process: &ProcessSnapshot, tool: &ToolSnapshot) -> Self {
        let hits = |&class: &ProbeClass| (class.name(), process.counters.hits[class as usize]);
        Self {
            hits: ProbeClass::ALL.iter().map(hits).collect(),
            estimated_seconds: process.probe_cost_seconds(tool),
        }
    }
}

impl Tool {
    fn new(tool: &ToolSnapshot) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            probe_price_seconds: tool
                .probe_price_ns
                .iter()
                .map(|(class, &price_ns)| (class.name(), seconds(price_ns)))
                .collect(),
            huge_touch_ratio: tool.huge_touch_ratio,
            processes_over_limit: tool.processes_over_limit,
            attached_via: tool.attached_via,
            page_sizes_known: tool.page_sizes_known,
            page_faults_via: tool.page_faults_via,
            system_calls_via: tool.system_calls_via,
            cpu_seconds: tool.cpu_seconds,
            resident_bytes: tool.resident_bytes,
            map_bytes: tool.map_bytes,
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
