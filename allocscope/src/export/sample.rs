//! For tests: a snapshot with something of everything, and a reader of the text format.

use crate::aggregate::{
    Coverage, Example, Figure, Finding, FindingKind, ProcessSnapshot, Setting, Snapshot, Tier, ToolSnapshot,
};
use crate::intake::{LiveTotals, SeriesReading};
use crate::site::Miss;
use crate::target::{ProcessId, ProcessInfo};
use allocscope_common::bucket::bucket_of_ns;
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::counter::{LossReason, ProbeClass, ProcessCounters};
use allocscope_common::depth::{DEPTH_BUCKETS, DepthCounts, depth_bucket};
use allocscope_common::key::{Allocator, FaultKind, FaultScope, Series, Stage};
use std::collections::BTreeMap;
use std::time::Duration;

/// A running Go server and a batch job that has ended.
pub fn snapshot() -> Snapshot {
    Snapshot {
        sequence: 7,
        elapsed: Duration::from_secs(10),
        processes: vec![server(), batch()],
        slowest: Vec::new(),
        examples: Vec::new(),
        lost: LossReason::ALL.iter().map(|&reason| (reason, 0)).collect(),
        retired_unscraped: 0,
        tool: ToolSnapshot {
            probe_price_ns: BTreeMap::from([
                (ProbeClass::UprobeEmulated, 400.0),
                (ProbeClass::PageFault, 100.0),
            ]),
            huge_touch_ratio: Some(0.25),
            processes_over_limit: 0,
            attached_via: Some("session"),
            page_sizes_known: true,
            page_faults_via: "tp_btf and memcg",
            system_calls_via: "tracepoint",
            pool_windows: 0,
            pool_window_seconds: 0.0,
            monotonic_began: Duration::ZERO,
            cpu_seconds: 0.25,
            resident_bytes: 12 << 20,
            map_bytes: 8 << 20,
        },
    }
}

/// A series of these durations, each of that many bytes.
pub fn series(durations_ns: &[u64], bytes: u64) -> SeriesReading {
    let mut series = SeriesReading::default();
    for &ns in durations_ns {
        series.totals.count += 1;
        series.totals.bytes += bytes;
        series.totals.time_ns += ns;
        series.totals.max_ns = series.totals.max_ns.max(ns);
        *series.buckets.entry(bucket_of_ns(ns)).or_default() += 1;
    }
    series
}

/// The server's first touch that took 24 ms and was told 100 s after boot.
pub fn example() -> Example {
    Example {
        pid: 4242,
        series: Series::Stage { allocator: Allocator::Go, stage: Stage::Touch, size_class: 26 },
        tid: 4243,
        goroutine: 17,
        ns: 24_000_000,
        at_ns: 100_000_000_003,
    }
}

/// A finding with a figure of each unit.
pub fn finding() -> Finding {
    let figure = |name, value| Figure { name, value };
    Finding {
        kind: FindingKind::ThresholdChurn,
        allocator: Allocator::Glibc,
        size_classes: vec![20, 26],
        recoverable: Some(0.28),
        summary: "memory is given back".to_owned(),
        figures: vec![
            figure("observed_seconds", 10.0),
            figure("releases", 99.0),
            figure("touch_seconds_per_second", 0.25),
            figure("kept_bytes", 134_217_728.0),
            figure("huge_touch_ratio", 0.25),
        ],
        setting: Setting {
            environment: vec![("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=134217728".to_owned())],
            text: "in the program: mallopt, and some more words that are here to fill the line, so that it goes on \
                   in the next one"
                .to_owned(),
        },
        risk: "more memory".to_owned(),
        check: "again".to_owned(),
    }
}

fn server() -> ProcessSnapshot {
    const SIZE: u64 = 64 << 20;
    let stage = |stage| Series::Stage { allocator: Allocator::Go, stage, size_class: 26 };
    let fault = |scope| Series::Fault { kind: FaultKind::Minor, scope };
    let mut untimed = series(&[1_500, 1_600, 9_000], 0);
    untimed.totals.count += 1;
    ProcessSnapshot {
        info: ProcessInfo {
            id: ProcessId { pid: 4242, start_ticks: 1000 },
            comm: "server".to_owned(),
            exe: "/usr/bin/server".into(),
            cgroup: "/system.slice/server.service".to_owned(),
            container: String::new(),
        },
        coverage: Coverage {
            allocator: "go1.22.10".to_owned(),
            tier: Tier::LargePath,
            own_heap: false,
            sites_attached: 3,
            sites_planned: 4,
            misses: vec![Miss {
                reason: "go_version_unknown",
                detail: "this Go version is newer than those tested".to_owned(),
            }],
        },
        alive: true,
        counters: ProcessCounters {
            hits: [20, 0, 0, 5, 0, 0],
            untimed_faults: [1, 0],
            ranges_filed: 2,
            ranges_ended: 1,
            partial_releases: 1,
            partial_release_ns: 3_000,
            odd_results: 0,
            stall_ns: stall_ns(),
            call_window_ns: 4_034_000,
            fault_in_call_ns: 1_000,
            fault_causes_ns: 2_000,
        },
        depths: BTreeMap::from([(Allocator::Go, depths())]),
        live: BTreeMap::from([(
            (Allocator::Go, 26),
            LiveTotals { ranges: 1, bytes: SIZE, touched_bytes: SIZE / 4, touch_ns: 6_000_000 },
        )]),
        series: BTreeMap::from([
            (stage(Stage::Call), series(&[16_000, 18_000], SIZE)),
            (stage(Stage::Touch), series(&[24_000_000], SIZE)),
            (stage(Stage::Release), series(&[4_000_000], SIZE)),
            (fault(FaultScope::Large), untimed),
            (fault(FaultScope::Other), series(&[700], 0)),
        ]),
        findings: Vec::new(),
    }
}

fn stall_ns() -> [u64; CAUSES] {
    let mut ns = [0; CAUSES];
    ns[Cause::Alloc as usize] = 4_012_000;
    ns[Cause::Zeroing as usize] = 21_000;
    ns[Cause::PageFault as usize] = 1_000;
    ns[Cause::Runnable as usize] = 2_000;
    ns
}

/// Two calls, of 12 and 40 frames.
fn depths() -> DepthCounts {
    let mut counts = DepthCounts { buckets: [0; DEPTH_BUCKETS], frames: 52 };
    [12, 40].into_iter().for_each(|frames| counts.buckets[depth_bucket(frames)] += 1);
    counts
}

fn batch() -> ProcessSnapshot {
    ProcessSnapshot {
        info: ProcessInfo {
            id: ProcessId { pid: 4300, start_ticks: 2000 },
            comm: "batch".to_owned(),
            exe: "/usr/bin/batch".into(),
            cgroup: String::new(),
            container: "0123456789ab".to_owned(),
        },
        coverage: Coverage {
            allocator: "glibc".to_owned(),
            tier: Tier::Kernel,
            own_heap: false,
            sites_attached: 0,
            sites_planned: 0,
            misses: Vec::new(),
        },
        alive: false,
        counters: ProcessCounters::default(),
        depths: BTreeMap::new(),
        live: BTreeMap::new(),
        series: BTreeMap::from([(
            Series::Stage { allocator: Allocator::Mmap, stage: Stage::Call, size_class: 20 },
            series(&[2_500_000_000], 1 << 20),
        )]),
        findings: Vec::new(),
    }
}

/// The text format 0.0.4, read strictly.
pub mod exposition {
    use std::collections::{BTreeMap, BTreeSet};

    /// A family as it was read.
    #[derive(Default)]
    pub struct Family {
        /// Of the HELP line.
        pub help: String,
        /// Of the TYPE line.
        pub kind: String,
        /// Sample name with labels but `le`, `le`, value.
        pub samples: Vec<(String, Option<String>, f64)>,
    }

    /// Families by name; panics on anything that is not well formed or appears twice.
    pub fn parse(text: &str) -> BTreeMap<String, Family> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut current = String::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                let known =
                    families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
                assert!(known.is_none(), "{name} twice");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current);
                families.get_mut(name).unwrap().kind = kind.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(seen.insert(series.to_owned()), "{series} twice");
                assert!(series.starts_with(&current), "{series} after {current}");
                let (series, bound) = split_bound(series);
                families.get_mut(&current).unwrap().samples.push((series, bound, value.parse().unwrap()));
            }
        }
        families
    }

    fn split_bound(series: &str) -> (String, Option<String>) {
        let Some((before, rest)) = series.split_once(",le=\"") else {
            return (series.to_owned(), None);
        };
        let (bound, after) = rest.split_once('"').unwrap();
        (format!("{before}{after}"), Some(bound.to_owned()))
    }

    /// Buckets grow, end with `+Inf`, and that is the count.
    pub fn check_histograms(families: &BTreeMap<String, Family>) {
        for (name, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
            let mut last: BTreeMap<String, (f64, f64)> = BTreeMap::new();
            let mut counts = BTreeMap::new();
            for (series, bound, value) in &family.samples {
                if let Some(labels) = series.strip_prefix(&format!("{name}_bucket")) {
                    let bound: f64 = bound.as_ref().unwrap().parse().unwrap();
                    let before = last.insert(labels.to_owned(), (bound, *value)).unwrap_or((0.0, 0.0));
                    assert!(bound > before.0 && *value >= before.1, "{series} le {bound}");
                } else if let Some(labels) = series.strip_prefix(&format!("{name}_count")) {
                    counts.insert(labels.to_owned(), (f64::INFINITY, *value));
                } else {
                    assert!(series.starts_with(&format!("{name}_sum")));
                }
            }
            assert!(!counts.is_empty());
            assert_eq!(last, counts, "{name}");
        }
    }
}
