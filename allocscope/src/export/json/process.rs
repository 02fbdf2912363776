//! A process: what it did, what of it is seen, and what that cost it.

use super::finding::FindingView;
use super::memory::{Allocations, Faults};
use super::seconds;
use super::slow::SlowView;
use crate::aggregate::{Coverage, ProcessSnapshot, Snapshot, ToolSnapshot};
use crate::export::go_runtime::GoRuntime;
use crate::export::provider::{Told, told};
use crate::export::rows::{attributed_faults, faults, rows};
use allocscope_common::cause::Cause;
use allocscope_common::counter::ProbeClass;
use allocscope_common::depth::{DEPTH_BOUNDS, DepthCounts};
use allocscope_common::key::FaultKind;
use serde::Serialize;
use std::collections::BTreeMap;

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

impl<'a> Process<'a> {
    pub(super) fn new(process: &'a ProcessSnapshot, snapshot: &Snapshot) -> Self {
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
            faults: faults(process).map(Faults::new).collect(),
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

fn causes(process: &ProcessSnapshot) -> BTreeMap<&'static str, f64> {
    let causes_ns = process.causes_ns();
    let told = |&cause: &Cause| (cause.name(), seconds(causes_ns[cause as usize] as f64));
    Cause::ALL.iter().map(told).collect()
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

impl StackFrames {
    pub(super) fn new(counts: &DepthCounts) -> Self {
        let mut below = 0;
        let at_most = DEPTH_BOUNDS.iter().zip(counts.buckets).map(|(&bound, count)| {
            below += count;
            (bound, below)
        });
        Self { at_most: at_most.collect(), count: counts.calls(), frames: counts.frames }
    }
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

impl<'a> CoverageView<'a> {
    pub(super) fn new(coverage: &'a Coverage, (faults_attributed, faults_seen): (u64, u64)) -> Self {
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

/// Something that is not seen.
#[derive(Debug, Serialize)]
pub struct Miss<'a> {
    /// The reason's short name.
    pub reason: &'static str,
    /// One sentence.
    pub detail: &'a str,
}

/// What tracing has cost a process.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Probe hits by class.
    pub hits: BTreeMap<&'static str, u64>,
    /// Hits times price, of the classes whose price is known.
    pub estimated_seconds: f64,
}

impl Cost {
    pub(super) fn new(process: &ProcessSnapshot, tool: &ToolSnapshot) -> Self {
        let hits = |&class: &ProbeClass| (class.name(), process.counters.hits[class as usize]);
        Self {
            hits: ProbeClass::ALL.iter().map(hits).collect(),
            estimated_seconds: process.probe_cost_seconds(tool),
        }
    }
}
