//! A process into its metrics, family by family.

use super::families::Families;
use crate::aggregate::{FindingKind, ProcessSnapshot, Snapshot};
use crate::export::go_runtime::GoRuntime;
use crate::export::names::{self, label_value, size_label};
use allocscope_common::cause::Cause;
use allocscope_common::counter::ProbeClass;
use allocscope_common::key::{FaultKind, FaultScope, Series};
use std::collections::BTreeMap;

/// A process and the two label values that all its series have.
pub(super) struct Process<'a> {
    pub(super) process: &'a ProcessSnapshot,
    pid: String,
    comm: String,
}

impl<'a> Process<'a> {
    pub(super) fn new(process: &'a ProcessSnapshot) -> Self {
        Self { process, pid: process.info.id.pid.to_string(), comm: label_value(&process.info.comm) }
    }

    pub(super) fn tell(&self, snapshot: &Snapshot, families: &mut Families) {
        self.tell_info(families);
        self.tell_coverage(families);
        self.tell_counters(snapshot, families);
        self.tell_faults(families);
        self.tell_findings(families);
        for (series, reading) in &self.process.series {
            self.tell_series(series, reading, snapshot, families);
        }
        for (allocator, counts) in &self.process.depths {
            families.add_depths(&self.labels(&[allocator.name()]), counts);
        }
        self.tell_live(families);
        if let Some(runtime) = GoRuntime::of(self.process) {
            self.tell_runtime(&runtime, families);
        }
    }

    /// `pid`, `comm` and the label values after them.
    pub(super) fn labels<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        let mut labels = vec![self.pid.as_str(), self.comm.as_str()];
        labels.extend(more);
        labels
    }

    fn tell_info(&self, families: &mut Families) {
        let ProcessSnapshot { info, coverage, alive, .. } = self.process;
        let exe = label_value(&info.exe.to_string_lossy());
        let (allocator, container) = (label_value(&coverage.allocator), label_value(&info.container));
        let cgroup = label_value(&info.cgroup);
        let labels = self.labels(&[&exe, &allocator, coverage.tier.name(), &container, &cgroup]);
        families.add(&names::PROCESS_INFO, &labels, 1.0);
        families.add(&names::PROCESS_UP, &self.labels(&[]), f64::from(u8::from(*alive)));
    }

    fn tell_coverage(&self, families: &mut Families) {
        let coverage = &self.process.coverage;
        families.add(&names::SITES, &self.labels(&["planned"]), coverage.sites_planned as f64);
        families.add(&names::SITES, &self.labels(&["attached"]), coverage.sites_attached as f64);
        let mut misses: BTreeMap<&str, u32> = BTreeMap::new();
        for miss in &coverage.misses {
            *misses.entry(miss.reason).or_default() += 1;
        }
        for (reason, count) in misses {
            families.add(&names::MISSES, &self.labels(&[reason]), f64::from(count));
        }
    }

    fn tell_counters(&self, snapshot: &Snapshot, families: &mut Families) {
        let counters = &self.process.counters;
        for &class in ProbeClass::ALL {
            let hits = counters.hits[class as usize] as f64;
            families.add(&names::PROBE_HITS, &self.labels(&[class.name()]), hits);
        }
        for &kind in FaultKind::ALL {
            let untimed = counters.untimed_faults[kind as usize] as f64;
            families.add(&names::UNTIMED_PAGE_FAULTS, &self.labels(&[kind.name()]), untimed);
        }
        let causes_ns = self.process.causes_ns();
        for &cause in Cause::ALL {
            let time_ns = causes_ns[cause as usize];
            families.add(&names::STALL, &self.labels(&[cause.name()]), time_ns as f64 / 1e9);
        }
        let labels = self.labels(&[]);
        let live = counters.ranges_filed.saturating_sub(counters.ranges_ended);
        families.add(&names::LIVE_RANGES, &labels, live as f64);
        families.add(&names::PARTIAL_RELEASES, &labels, counters.partial_releases as f64);
        families.add(&names::PROBE_COST, &labels, self.process.probe_cost_seconds(&snapshot.tool));
    }

    /// Page faults of every kind and scope, those that never came as 0: a rate of a counter that
    /// appears with its first event does not see that event.
    fn tell_faults(&self, families: &mut Families) {
        for (&kind, &scope) in
            FaultKind::ALL.iter().flat_map(|kind| FaultScope::ALL.iter().map(move |scope| (kind, scope)))
        {
            let series = self.process.series.get(&Series::Fault { kind, scope });
            let count = series.map_or(0, |series| series.totals.count);
            families.add(&names::PAGE_FAULTS, &self.labels(&[kind.name(), scope.name()]), count as f64);
        }
    }

    /// Every kind, so that an alert ends where a finding does; none for a process without large allocations,
    /// of which there is nothing to find.
    fn tell_findings(&self, families: &mut Families) {
        let is_stage = |series: &Series| matches!(series, Series::Stage { .. });
        if !self.process.series.keys().any(is_stage) {
            return;
        }
        for kind in FindingKind::ALL {
            let labels = self.labels(&[kind.name()]);
            let found = self.process.findings.iter().filter(|finding| finding.kind == kind);
            let seconds = found.clone().filter_map(|finding| finding.recoverable).fold(0.0, |sum, s| sum + s);
            families.add(&names::FINDING, &labels, seconds);
            families.add(&names::FINDING_ACTIVE, &labels, found.count() as f64);
        }
    }

    fn tell_live(&self, families: &mut Families) {
        for (&(allocator, size_class), live) in &self.process.live {
            let size = size_label(size_class);
            let labels = self.labels(&[allocator.name(), &size]);
            families.add(&names::LIVE_BYTES, &labels, live.bytes as f64);
            families.add(&names::LIVE_TOUCHED_BYTES, &labels, live.touched_bytes as f64);
            families.add(&names::LIVE_TOUCH, &labels, live.touch_ns as f64 / 1e9);
        }
    }

    /// All of them as soon as there is one, those that never came as 0.
    fn tell_runtime(&self, runtime: &GoRuntime, families: &mut Families) {
        let labels = self.labels(&[]);
        for (family, value) in [
            (&names::GO_CYCLES, runtime.gc_cycles),
            (&names::GO_SCAVENGED_BYTES, runtime.scavenged_bytes),
            (&names::GO_POOL_SLOW_GETS, runtime.pool_slow_gets),
            (&names::GO_POOL_NEW, runtime.pool_new),
            (&names::GO_POOL_CLEANUPS, runtime.pool_cleanups),
            (&names::GO_POOLS_CLEANED, runtime.pools_cleaned),
            (&names::GO_POOL_SAMPLED_GETS, runtime.pool_sample.gets),
            (&names::GO_POOL_SAMPLED_SLOW_GETS, runtime.pool_sample.slow_gets),
            (&names::GO_POOL_SAMPLED_NEW, runtime.pool_sample.new),
        ] {
            families.add(family, &labels, value as f64);
        }
    }
}
