//! Every metric family: name, type, unit, labels and help, declared once.
//!
//! A process' series carry its `pid` and `comm`; whatever else is known of it is on
//! `allocscope_process_info`, to be joined in queries.

use prometheus::proto::MetricType;

/// A metric family as it is declared.
#[derive(Debug)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// The unit, which the name carries too.
    pub unit: Unit,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Base units as Prometheus wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Things counted.
    None,
}

macro_rules! families {
    ($($const:ident = $kind:ident $unit:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $const: Family = Family {
                name: $name,
                kind: MetricType::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// Every family, in the order of this page.
        pub const ALL: &[&Family] = &[$(&$const),*];
    };
}

families! {
    ALLOCATION_DURATION = HISTOGRAM Seconds "allocscope_allocation_duration_seconds"
        ["pid", "comm", "allocator", "stage", "size"]
        "Time of a large allocation's stages: the call, first touch per released range (all its page faults, and calls that populate it), the release. size is the lower bound of a power-of-two class.";
    ALLOCATIONS = COUNTER None "allocscope_allocations_total" ["pid", "comm", "allocator", "size"]
        "Large allocations.";
    ALLOCATED_BYTES = COUNTER Bytes "allocscope_allocated_bytes_total" ["pid", "comm", "allocator", "size"]
        "Bytes asked for by large allocations.";
    TOUCHED_BYTES = COUNTER Bytes "allocscope_allocation_touched_bytes_total" ["pid", "comm", "allocator", "size"]
        "Bytes that page faults made real in large ranges which were released since; of live ones see allocscope_live_touched_bytes.";
    LIVE_BYTES = GAUGE Bytes "allocscope_live_bytes" ["pid", "comm", "allocator", "size"]
        "Bytes asked for by large allocations that were not released yet.";
    LIVE_TOUCHED_BYTES = GAUGE Bytes "allocscope_live_touched_bytes" ["pid", "comm", "allocator", "size"]
        "Bytes that page faults made real so far in large ranges that were not released yet.";
    LIVE_TOUCH = GAUGE Seconds "allocscope_live_touch_seconds" ["pid", "comm", "allocator", "size"]
        "Time of the page faults so far in large ranges that were not released yet.";
    RELEASED_BYTES = COUNTER Bytes "allocscope_released_bytes_total" ["pid", "comm", "allocator", "size"]
        "Bytes of large allocations that were given back.";
    STACK_FRAMES = HISTOGRAM None "allocscope_allocation_stack_frames" ["pid", "comm", "allocator"]
        "Frames on the stack at the calls of large allocations, by frame pointers; with --stack-depth only.";
    PAGE_FAULTS = COUNTER None "allocscope_page_faults_total" ["pid", "comm", "kind", "scope"]
        "Page faults; scope is large inside of a live large range, other elsewhere.";
    PAGE_FAULT_DURATION = HISTOGRAM Seconds "allocscope_page_fault_duration_seconds"
        ["pid", "comm", "kind", "scope"]
        "Time to serve a page fault, of those whose start was seen.";
    STALL = COUNTER Seconds "allocscope_stall_seconds_total" ["pid", "comm", "cause"]
        "Time of large allocations' calls, of releases and of all page faults, by what it went to; each moment once.";
    UNTIMED_PAGE_FAULTS = COUNTER None "allocscope_untimed_page_faults_total" ["pid", "comm", "kind"]
        "Page faults whose start was not seen: they are counted without a duration.";
    FINDING = GAUGE None "allocscope_finding" ["pid", "comm", "kind"]
        "Seconds per second that the process would save by what a finding of the kind advises, over the last minutes; 0 without one.";
    FINDING_ACTIVE = GAUGE None "allocscope_finding_active" ["pid", "comm", "kind"]
        "Findings of the kind, those that save memory and no time as well.";
    LIVE_RANGES = GAUGE None "allocscope_live_ranges" ["pid", "comm"]
        "Large ranges that were allocated and not released yet.";
    PARTIAL_RELEASES = COUNTER None "allocscope_partial_releases_total" ["pid", "comm"]
        "Releases of a part of a large range.";
    PROCESS_INFO = GAUGE None "allocscope_process_info"
        ["pid", "comm", "exe", "allocator", "tier", "container", "cgroup"]
        "1 for each traced process, with what is known of it.";
    PROCESS_UP = GAUGE None "allocscope_process_up" ["pid", "comm"]
        "1 while the traced process runs, 0 after it ended and until its final counts were scraped.";
    SITES = GAUGE None "allocscope_sites" ["pid", "comm", "state"]
        "Probe sites of a process' allocator: planned, and really attached.";
    MISSES = GAUGE None "allocscope_misses" ["pid", "comm", "reason"]
        "Things of a process that are not traced, by reason.";
    PROBE_HITS = COUNTER None "allocscope_probe_hits_total" ["pid", "comm", "class"]
        "Probes that the process ran into, by what they cost.";
    PROBE_COST = COUNTER Seconds "allocscope_probe_cost_seconds_total" ["pid", "comm"]
        "Estimated time that tracing has cost the process: hits times the price measured at start-up.";
    PROBE_PRICE = GAUGE Seconds "allocscope_probe_price_seconds" ["class"]
        "Time that one probe hit costs a traced process, measured at start-up.";
    LOST = COUNTER None "allocscope_lost_total" ["reason"]
        "Events or details that the kernel side could not keep, by reason.";
    PROCESSES = GAUGE None "allocscope_processes" []
        "Processes being traced.";
    PROCESSES_OVER_LIMIT = COUNTER None "allocscope_processes_over_limit_total" []
        "Processes that were not traced because the maximum number was reached.";
    RETIRED_UNSCRAPED = COUNTER None "allocscope_processes_retired_unscraped_total" []
        "Ended processes that were let go before a scrape has shown their final counts.";
    MAP_BYTES = GAUGE Bytes "allocscope_map_bytes" []
        "Kernel memory held by allocscope's maps, as far as the kernel tells.";
    GO_CYCLES = COUNTER None "allocscope_go_gc_cycles_total" ["pid", "comm"]
        "Collections of a Go program that came to the end of their marking.";
    GO_STOP_DURATION = HISTOGRAM Seconds "allocscope_go_stop_the_world_duration_seconds" ["pid", "comm", "reason"]
        "Time from when Go's world is told to stop until it is told to run; reason is gc, other, or unknown before Go 1.21.";
    GO_ASSIST_DURATION = HISTOGRAM Seconds "allocscope_go_gc_assist_duration_seconds" ["pid", "comm"]
        "Time that a goroutine marks, or waits for marking, in return for memory.";
    GO_SCAVENGED_BYTES = COUNTER Bytes "allocscope_go_scavenged_bytes_total" ["pid", "comm"]
        "Bytes that a Go program gave back to the system and kept the addresses of.";
    GO_POOL_SLOW_GETS = COUNTER None "allocscope_go_pool_slow_gets_total" ["pid", "comm"]
        "Gets of a sync.Pool that found nothing on their own processor.";
    GO_POOL_NEW = COUNTER None "allocscope_go_pool_new_total" ["pid", "comm"]
        "Gets of a sync.Pool that called New.";
    GO_POOL_CLEANUPS = COUNTER None "allocscope_go_pool_cleanups_total" ["pid", "comm"]
        "Times that all sync.Pools were cleaned, once a collection.";
    GO_POOLS_CLEANED = COUNTER None "allocscope_go_pools_cleaned_total" ["pid", "comm"]
        "The sync.Pools that had something to clean, summed over the cleanups.";
    GO_POOL_SAMPLED_GETS = COUNTER None "allocscope_go_pool_sampled_gets_total" ["pid", "comm"]
        "Gets of a sync.Pool in the windows in which every one is counted.";
    GO_POOL_SAMPLED_SLOW_GETS = COUNTER None "allocscope_go_pool_sampled_slow_gets_total" ["pid", "comm"]
        "Of the gets in those windows the ones that found nothing on their own processor.";
    GO_POOL_SAMPLED_NEW = COUNTER None "allocscope_go_pool_sampled_new_total" ["pid", "comm"]
        "Of the gets in those windows the ones that called New: 1 less its share is the hit rate.";
    GO_POOL_WINDOWS = COUNTER None "allocscope_go_pool_windows_total" []
        "Windows in which every get of a sync.Pool was counted.";
    GO_POOL_WINDOW_SECONDS = COUNTER Seconds "allocscope_go_pool_window_seconds_total" []
        "Time of those windows: over the time traced their duty, in which each get takes as long as a probe costs more.";
    PROVIDER_EVENTS = COUNTER None "allocscope_provider_events_total" ["pid", "comm", "probe"]
        "What a program told of its own pools, arenas and regions, by probe; otel_alloc and otel_free: samples of otel_memory.";
    PROVIDER_SECONDS = COUNTER Seconds "allocscope_provider_event_seconds_total" ["pid", "comm", "probe"]
        "Time that these probes told of; otel_alloc and otel_free tell of none and have no such series.";
    PROVIDER_BYTES = COUNTER Bytes "allocscope_provider_event_bytes_total" ["pid", "comm", "probe"]
        "Bytes that these probes told of, by otel_alloc those that the samples stand for; none by breaker and otel_free.";
    BUILD_INFO = GAUGE None "allocscope_build_info" ["version"]
        "1, with the version of allocscope.";
    CPU_SECONDS = COUNTER Seconds "process_cpu_seconds_total" []
        "Total user and system CPU time spent by allocscope itself, in seconds.";
    RESIDENT_MEMORY = GAUGE Bytes "process_resident_memory_bytes" []
        "Resident memory size of allocscope itself, in bytes.";
}

/// The `size` label of a class: its lower bound as people read it, such as `64KiB` or `1MiB`.
pub fn size_label(size_class: u8) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = UNITS.get(usize::from(size_class / 10)).copied().unwrap_or("?");
    format!("{}{unit}", 1u32 << (size_class % 10))
}

/// Longest label value, in bytes: paths and cgroups are under the control of whoever starts processes.
const LABEL_BYTES: usize = 256;

/// A label value of bounded length. Of a long one the end is kept, which tells more of a path.
pub fn label_value(text: &str) -> String {
    if text.len() <= LABEL_BYTES {
        return text.to_owned();
    }
    let start = text.ceil_char_boundary(text.len() - (LABEL_BYTES - "...".len()));
    format!("...{}", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::core::Desc;
    use std::collections::{BTreeSet, HashMap};

    #[test]
    fn names_are_unique_valid_and_end_as_prometheus_wants() {
        let mut seen = BTreeSet::new();
        for family in ALL {
            assert!(seen.insert(family.name), "{} twice", family.name);
            let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new()).unwrap();
            assert_eq!(
                family.kind == MetricType::COUNTER,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            let base = family.name.trim_end_matches("_total");
            assert_eq!(family.unit == Unit::Seconds, base.ends_with("_seconds"), "{}", family.name);
            assert_eq!(family.unit == Unit::Bytes, base.ends_with("_bytes"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }

    /// OpenMetrics: no sample of one family may be taken for one of another.
    #[test]
    fn no_suffix_makes_two_families_one() {
        let base = |family: &Family| {
            let suffix = ["_total", "_info"].into_iter().find_map(|suffix| family.name.strip_suffix(suffix));
            suffix.unwrap_or(family.name)
        };
        let bases: BTreeSet<_> = ALL.iter().map(|family| base(family)).collect();
        assert_eq!(bases.len(), ALL.len());
        for suffix in ["_total", "_created", "_info", "_bucket", "_count", "_sum", "_gcount", "_gsum"] {
            for name in &bases {
                assert!(!name.ends_with(suffix), "{name}");
            }
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        let labels: Vec<_> = [0, 9, 10, 16, 20, 26, 30, 63].map(size_label).into();
        assert_eq!(labels, ["1B", "512B", "1KiB", "64KiB", "1MiB", "64MiB", "1GiB", "8EiB"]);
    }

    #[test]
    fn label_values_are_bounded() {
        assert_eq!(label_value("/bin/app"), "/bin/app");
        let long = format!("/start/{}/end", "\u{e9}".repeat(400));
        let value = label_value(&long);
        assert!(value.len() <= LABEL_BYTES);
        assert!(value.starts_with("...\u{e9}") && value.ends_with("/end"));
    }
}
