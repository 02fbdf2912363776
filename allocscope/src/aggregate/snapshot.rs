//! What every exporter gets.

use super::{Example, Finding, SlowAllocation};
use crate::intake::{LiveReading, SeriesReading};
use crate::site::Miss;
use crate::target::ProcessInfo;
use allocscope_common::cause::CAUSES;
use allocscope_common::counter::{LossReason, ProbeClass, ProcessCounters};
use allocscope_common::depth::DepthCounts;
use allocscope_common::key::{Allocator, Series};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything there is to tell at one moment. Histograms are whole: viewers compute percentiles.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which snapshot of this run it is, from 1; a scrape that was answered names the one it showed.
    pub sequence: u64,
    /// Time since tracing began.
    pub elapsed: Duration,
    /// Traced processes, by pid and start; those that ended are kept until they were scraped once more.
    pub processes: Vec<ProcessSnapshot>,
    /// The slowest allocations, the slowest first; of the last snapshot of a run, those of each process.
    pub slowest: Vec<SlowAllocation>,
    /// Examples of what the series of processes count.
    pub examples: Vec<Example>,
    /// What the kernel side lost; every reason is present.
    pub lost: BTreeMap<LossReason, u64>,
    /// Ended processes whose final counts were given up before a scrape showed them.
    pub retired_unscraped: u64,
    /// About allocscope itself.
    pub tool: ToolSnapshot,
}

/// One process.
#[derive(Clone, Debug)]
pub struct ProcessSnapshot {
    /// Who it is.
    pub info: ProcessInfo,
    /// What of it is traced.
    pub coverage: Coverage,
    /// Whether it was running when last heard of.
    pub alive: bool,
    /// Its counters.
    pub counters: ProcessCounters,
    /// Its live ranges.
    pub live: LiveReading,
    /// Its series.
    pub series: BTreeMap<Series, SeriesReading>,
    /// Calls by frames on the stack, where that is counted.
    pub depths: BTreeMap<Allocator, DepthCounts>,
    /// What `advice` has to say of it; empty until that was asked.
    pub findings: Vec<Finding>,
}

/// Which of a process' allocations are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The allocator or runtime it uses, such as `go1.22.10` or `glibc`; bounded by what is known to exist.
    pub allocator: String,
    /// The best tier that is attached.
    pub tier: Tier,
    /// Its runtime manages its own heap and is probed (Go): anonymous mappings are heap memory then.
    pub own_heap: bool,
    /// Sites attached.
    pub sites_attached: usize,
    /// Sites planned.
    pub sites_planned: usize,
    /// What is not seen.
    pub misses: Vec<Miss>,
}

/// How much of an allocator is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Memory system calls and page faults.
    Kernel,
    /// What the program itself tells of its own pools, arenas and regions as well.
    Provider,
    /// The allocator's exported functions, small allocations included, filtered by the kernel side.
    Filtered,
    /// The allocator's own large-object path as well.
    LargePath,
}

impl Tier {
    /// The name in metrics, JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Provider => "provider",
            Self::Filtered => "filtered",
            Self::LargePath => "large-path",
        }
    }
}

/// About allocscope itself.
#[derive(Clone, Debug, Default)]
pub struct ToolSnapshot {
    /// What one hit of each probe class costs the traced process, in nanoseconds, measured at start-up;
    /// a class that could not be measured is absent.
    pub probe_price_ns: BTreeMap<ProbeClass, f64>,
    /// Time of first touch by 2 MiB pages in parts of that by 4 KiB pages, both of the same memory, measured at
    /// start-up; `None` where the machine has no huge pages to give.
    pub huge_touch_ratio: Option<f64>,
    /// Processes not traced because `--max-processes` was reached.
    pub processes_over_limit: u64,
    /// How uprobes were attached: `session`, `multi` or `perf`; `None` where none was.
    pub attached_via: Option<&'static str>,
    /// Whether the kernel tells the size of the pages that faults are served with; else each counts as 4 KiB.
    pub page_sizes_known: bool,
    /// How page faults are seen; empty where that is not known.
    pub page_faults_via: &'static str,
    /// How memory system calls are seen; empty where that is not known.
    pub system_calls_via: &'static str,
    /// Windows in which every get of a `sync.Pool` was counted.
    pub pool_windows: u64,
    /// Their time, in seconds.
    pub pool_window_seconds: f64,
    /// The Unix time at which the clock of [`Example::at_ns`] stood at 0.
    pub monotonic_began: Duration,
    /// CPU time that allocscope has used, in seconds.
    pub cpu_seconds: f64,
    /// Its resident memory, in bytes.
    pub resident_bytes: u64,
    /// Bytes of kernel memory held by its maps, as far as the kernel tells.
    pub map_bytes: u64,
}

impl ProcessSnapshot {
    /// What tracing has cost the process so far, in seconds: hits times price, of the classes whose
    /// price is known.
    pub fn probe_cost_seconds(&self, tool: &ToolSnapshot) -> f64 {
        cost_seconds(&self.counters, &tool.probe_price_ns)
    }

    /// Where the time of its calls, releases and page faults went, by [`allocscope_common::cause::Cause`], in nanoseconds.
    pub fn causes_ns(&self) -> [u64; CAUSES] {
        self.counters.causes_ns(self.faults_ns())
    }

    /// Their time, each nanosecond once: what the causes sum to.
    pub fn windows_ns(&self) -> u64 {
        self.counters.windows_ns(self.faults_ns())
    }

    fn faults_ns(&self) -> u64 {
        let faults = self.series.iter().filter(|(series, _)| matches!(series, Series::Fault { .. }));
        faults.fold(0, |sum: u64, (_, reading)| sum.saturating_add(reading.totals.time_ns))
    }

    /// Whether it ran into probes of which the price is not known.
    pub fn has_unpriced_hits(&self, tool: &ToolSnapshot) -> bool {
        let is_hit = |class: &&ProbeClass| self.counters.hits[**class as usize] > 0;
        ProbeClass::ALL.iter().filter(is_hit).any(|class| !tool.probe_price_ns.contains_key(class))
    }
}

/// Hits times price (in nanoseconds), in seconds.
pub fn cost_seconds(counters: &ProcessCounters, price_ns: &BTreeMap<ProbeClass, f64>) -> f64 {
    let cost_ns = |(&class, price_ns): (&ProbeClass, &f64)| counters.hits[class as usize] as f64 * price_ns;
    price_ns.iter().map(cost_ns).sum::<f64>() / 1e9
}
