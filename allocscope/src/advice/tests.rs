//! Findings and non-findings over snapshots made by hand: a program that does something in each quarter of a second.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

use super::{Advisor, worth};
use crate::aggregate::{Coverage, Finding, FindingKind, ProcessSnapshot, Snapshot, Tier, ToolSnapshot};
use crate::target::{ProcessId, ProcessInfo};
use allocscope_common::cause::Cause;
use allocscope_common::counter::{ProcessCounters, Totals};
use allocscope_common::key::{Allocator, FaultKind, FaultScope, Series, Stage};
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Of a page fault and of a page's release, and of a call.
const FAULT_NS: u64 = 1_500;
const RELEASE_NS: u64 = 250;
const CALL_NS: u64 = 30_000;
const STEP: Duration = Duration::from_millis(250);
const RATIO: Option<f64> = Some(0.25);

/// What is known of a program so far.
struct Program {
    process: ProcessSnapshot,
    tool: ToolSnapshot,
}

impl Program {
    fn new(allocator: &str) -> Self {
        let info = ProcessInfo {
            id: ProcessId { pid: 7, start_ticks: 1 },
            comm: "program".to_owned(),
            exe: "/bin/program".into(),
            cgroup: String::new(),
            container: String::new(),
        };
        let coverage = Coverage {
            allocator: allocator.to_owned(),
            tier: Tier::LargePath,
            own_heap: false,
            sites_attached: 1,
            sites_planned: 1,
            misses: Vec::new(),
        };
        let process = ProcessSnapshot {
            info,
            coverage,
            alive: true,
            counters: ProcessCounters::default(),
            live: BTreeMap::new(),
            depths: BTreeMap::new(),
            series: BTreeMap::new(),
            findings: Vec::new(),
        };
        Self { process, tool: ToolSnapshot { huge_touch_ratio: RATIO, ..ToolSnapshot::default() } }
    }

    fn add(&mut self, series: Series, count: u64, bytes: u64, time_ns: u64) {
        let totals: &mut Totals = &mut self.process.series.entry(series).or_default().totals;
        totals.count += count;
        totals.bytes += bytes;
        totals.time_ns += time_ns;
    }

    fn stage(&mut self, allocator: Allocator, stage: Stage, size: u64, bytes: u64, time_ns: u64) {
        let size_class = allocscope_common::key::size_class(size);
        if stage != Stage::Touch {
            self.process.counters.call_window_ns += time_ns;
        }
        self.add(Series::Stage { allocator, stage, size_class }, 1, bytes, time_ns);
    }

    fn call(&mut self, allocator: Allocator, size: u64) {
        self.stage(allocator, Stage::Call, size, size, CALL_NS);
    }

    /// So many bytes made real by pages of 4 KiB, and told.
    fn touch(&mut self, allocator: Allocator, size: u64, touched: u64) {
        let faults = touched / PAGE;
        self.stage(allocator, Stage::Touch, size, touched, faults * FAULT_NS);
        self.add(
            Series::Fault { kind: FaultKind::Minor, scope: FaultScope::Large },
            faults,
            0,
            faults * FAULT_NS,
        );
    }

    fn release(&mut self, allocator: Allocator, size: u64, touched: u64) {
        self.stage(allocator, Stage::Release, size, size, touched / PAGE * RELEASE_NS);
    }

    /// A block that is mapped, touched and unmapped.
    fn cycle(&mut self, allocator: Allocator, size: u64) {
        self.call(allocator, size);
        self.touch(allocator, size, size);
        self.release(allocator, size, size);
    }
}

/// Ten seconds of a program, of which each step is told its number.
fn advise(mut program: Program, step: impl FnMut(&mut Program, u32)) -> Vec<Finding> {
    watch(&mut Advisor::of_run(), &mut program, 0..40, step)
}

fn watch(
    advisor: &mut Advisor,
    program: &mut Program,
    steps: std::ops::Range<u32>,
    mut step: impl FnMut(&mut Program, u32),
) -> Vec<Finding> {
    let mut look = |program: &Program, elapsed| {
        let processes = vec![program.process.clone()];
        let mut snapshot = Snapshot { elapsed, processes, tool: program.tool.clone(), ..Snapshot::default() };
        advisor.advise(&mut snapshot);
        snapshot.processes.remove(0).findings
    };
    let mut findings = look(program, STEP * steps.start);
    for number in steps {
        step(program, number);
        findings = look(program, STEP * (number + 1));
    }
    findings
}

fn find(findings: &[Finding], kind: FindingKind) -> Option<&Finding> {
    findings.iter().find(|finding| finding.kind == kind)
}

fn kinds(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.kind.name()).collect()
}

fn figure(finding: &Finding, name: &str) -> f64 {
    finding.figures.iter().find(|figure| figure.name == name).unwrap().value
}

fn assert_near(value: f64, expected: f64) {
    assert!((value / expected - 1.0).abs() < 0.01, "{value} for {expected}");
}

/// What a cycle of a block of `size` bytes takes, in seconds.
fn cycle_seconds(size: u64) -> f64 {
    (CALL_NS + size / PAGE * (FAULT_NS + RELEASE_NS)) as f64 / 1e9
}

#[test]
fn churn_is_found_with_its_time_and_the_thresholds_that_end_it() {
    let findings = advise(Program::new("glibc"), |program, _| program.cycle(Allocator::Glibc, 64 * MIB));
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_eq!((churn.allocator, churn.size_classes.as_slice()), (Allocator::Glibc, &[26][..]));
    assert_near(churn.recoverable.unwrap(), 4.0 * cycle_seconds(64 * MIB));
    assert_near(figure(churn, "releases"), 40.0);
    assert_near(figure(churn, "touch_seconds_per_second"), 4.0 * 16384.0 * 1.5e-6);
    assert_near(figure(churn, "release_seconds_per_second"), 4.0 * 16384.0 * 0.25e-6);
    let tunables = "glibc.malloc.mmap_threshold=134217728:glibc.malloc.trim_threshold=268435456:\
                    glibc.malloc.arena_max=1";
    assert_eq!(churn.setting.environment, [("GLIBC_TUNABLES", tunables.to_owned())]);
    assert!(churn.setting.text.contains("up to 2.34"), "{}", churn.setting.text);
    assert!(churn.risk.contains("64 MiB") && churn.risk.contains("lock"), "{}", churn.risk);
}

/// A quarter of the time others had the CPU: it is not said to be saved.
#[test]
fn time_in_which_others_had_the_cpu_is_left_out() {
    let findings = advise(Program::new("glibc"), |program, _| {
        program.cycle(Allocator::Glibc, 64 * MIB);
        let quarter_ns = (cycle_seconds(64 * MIB) * 1e9) as u64 / 4;
        program.process.counters.stall_ns[Cause::Runnable as usize] += quarter_ns;
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_near(churn.recoverable.unwrap(), 0.75 * 4.0 * cycle_seconds(64 * MIB));
    assert_near(figure(churn, "waited_for_cpu_ratio"), 0.25);
}

#[test]
fn smaller_blocks_need_neither_a_new_glibc_nor_one_arena() {
    let findings = advise(Program::new("glibc"), |program, _| {
        (0..8).for_each(|_| program.cycle(Allocator::Glibc, 5 * MIB));
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    let tunables = "glibc.malloc.mmap_threshold=8388608:glibc.malloc.trim_threshold=16777216";
    assert_eq!(churn.setting.environment, [("GLIBC_TUNABLES", tunables.to_owned())]);
    assert!(!churn.setting.text.contains("arena"), "{}", churn.setting.text);
}

/// Four blocks of 16 MiB are live at a time: of forty, four have to be got, and four must fit below the threshold.
#[test]
fn what_is_live_at_once_is_no_churn_and_is_kept() {
    let findings = advise(Program::new("glibc"), |program, step| {
        program.call(Allocator::Glibc, 16 * MIB);
        if step >= 4 {
            program.touch(Allocator::Glibc, 16 * MIB, 16 * MIB);
            program.release(Allocator::Glibc, 16 * MIB, 16 * MIB);
        }
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_near(figure(churn, "releases"), 32.0);
    assert_near(figure(churn, "kept_bytes"), (5 * 16 * MIB) as f64);
    let tunables = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456";
    assert_eq!(churn.setting.environment[0].1, tunables);
}

/// What is all held and then all released would have had to be got anyway, however large.
#[test]
fn what_is_held_to_the_end_is_no_churn() {
    let findings = advise(Program::new("glibc"), |program, step| match step {
        0..20 => program.call(Allocator::Glibc, 64 * MIB),
        _ => {
            program.touch(Allocator::Glibc, 64 * MIB, 64 * MIB);
            program.release(Allocator::Glibc, 64 * MIB, 64 * MIB);
        }
    });
    assert_eq!(kinds(&findings), ["huge_pages"]);
}

/// A thousand cycles, all between two snapshots: what was live meanwhile is not known.
#[test]
fn a_burst_is_no_churn() {
    for bursts in [1, 3] {
        let findings = advise(Program::new("glibc"), |program, step| {
            if step % 10 == 5 && step / 10 < bursts {
                (0..100).for_each(|_| program.cycle(Allocator::Glibc, MIB));
            }
        });
        assert_eq!(kinds(&findings), Vec::<&str>::new());
    }
}

#[test]
fn four_bursts_are_a_habit() {
    let findings = advise(Program::new("glibc"), |program, step| {
        if step % 10 == 5 {
            (0..100).for_each(|_| program.cycle(Allocator::Glibc, MIB));
        }
    });
    assert_eq!(kinds(&findings), ["threshold_churn"]);
}

/// Just above and just below a hundredth of a CPU, and ten and nine cycles.
#[test]
fn what_is_told_begins_at_the_thresholds() {
    let churn = |size: u64, cycles: u32| {
        let findings = advise(Program::new("glibc"), |program, step| {
            if step % 4 == 0 && step / 4 < cycles {
                program.cycle(Allocator::Glibc, size);
            }
        });
        find(&findings, FindingKind::ThresholdChurn).map(|finding| finding.recoverable.unwrap())
    };
    let pages = |seconds: f64| (seconds * 1e9) as u64 / (FAULT_NS + RELEASE_NS) * PAGE;
    let above = churn(pages(worth::RECOVERABLE * 1.01), 10).unwrap();
    assert!(above >= worth::RECOVERABLE, "{above}");
    assert_eq!(churn(pages(worth::RECOVERABLE * 0.98) - CALL_NS / 1750 * PAGE, 10), None);
    assert!(churn(64 * MIB, 10).is_some());
    assert_eq!(churn(64 * MIB, 9), None);
}

#[test]
fn a_second_must_have_been_watched() {
    let after = |steps| {
        let mut program = Program::new("glibc");
        let busy = |program: &mut Program, _| (0..4).for_each(|_| program.cycle(Allocator::Glibc, 64 * MIB));
        !watch(&mut Advisor::of_run(), &mut program, 0..steps, busy).is_empty()
    };
    assert!(after(4));
    assert!(!after(3));
}

/// With thresholds set, blocks come from the heap: calls and, once, first touches.
#[test]
fn pinned_thresholds_are_no_finding() {
    let findings = advise(Program::new("glibc"), |program, step| {
        (0..100).for_each(|_| program.call(Allocator::Glibc, 64 * MIB));
        if step == 1 {
            program.touch(Allocator::Glibc, 64 * MIB, 64 * MIB);
        }
    });
    assert_eq!(findings, []);
}

/// One buffer, touched once and read into for ten seconds; and nothing at all.
#[test]
fn a_reader_and_an_idle_process_are_no_finding() {
    let findings = advise(Program::new("glibc"), |program, step| {
        if step == 0 {
            program.call(Allocator::Glibc, MIB);
            program.touch(Allocator::Glibc, MIB, MIB);
        }
    });
    assert_eq!(findings, []);
    assert_eq!(advise(Program::new("glibc"), |_, _| {}), []);
    let mut nothing = Snapshot::default();
    Advisor::of_run().advise(&mut nothing);
    assert!(nothing.processes.is_empty());
}

/// Objects' pages are given back by `madvise` and faulted in again: in all but the first cycle for nothing.
fn purged(program: &mut Program, allocator: Allocator, size: u64) {
    program.call(allocator, size);
    program.touch(allocator, size, size);
    program.release(Allocator::Madvise, size, size);
}

#[test]
fn purging_is_found_with_the_setting_of_its_allocator() {
    let cases = [
        ("jemalloc", Allocator::Jemalloc, "MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1"),
        ("mimalloc", Allocator::Mimalloc, "MIMALLOC_PURGE_DELAY", "-1"),
        ("tcmalloc", Allocator::Tcmalloc, "TCMALLOC_RELEASE_RATE", "0"),
        ("go1.22.10", Allocator::Go, "GODEBUG", "madvdontneed=0"),
    ];
    for (name, allocator, variable, value) in cases {
        let findings = advise(Program::new(name), |program, _| purged(program, allocator, 16 * MIB));
        let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
        assert_eq!(churn.allocator, allocator);
        assert_eq!(churn.setting.environment, [(variable, value.to_owned())]);
        let expected = 4.0 * cycle_seconds(16 * MIB) - 4.0 * CALL_NS as f64 / 1e9;
        assert_near(churn.recoverable.unwrap(), expected);
    }
}

/// Objects that never come to the same addresses again: their touches are told of live ones only.
#[test]
fn unmapping_by_an_allocator_is_found_where_objects_move() {
    let findings = advise(Program::new("mimalloc"), |program, _| {
        program.call(Allocator::Mimalloc, 64 * MIB);
        let faults = 64 * MIB / PAGE;
        let live = program.process.live.entry((Allocator::Mimalloc, 26)).or_default();
        live.touched_bytes += 64 * MIB;
        live.touch_ns += faults * FAULT_NS;
        program.release(Allocator::Mmap, 64 * MIB, 64 * MIB);
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_eq!(churn.allocator, Allocator::Mimalloc);
    let of_each = cycle_seconds(64 * MIB) - CALL_NS as f64 / 1e9;
    assert_near(churn.recoverable.unwrap(), 4.0 * of_each);
}

#[test]
fn a_heap_that_only_grows_or_shrinks_once_is_no_churn() {
    let grown = advise(Program::new("jemalloc"), |program, step| match step {
        0..20 => {
            program.call(Allocator::Jemalloc, MIB);
            program.touch(Allocator::Jemalloc, MIB, MIB);
        }
        _ => program.release(Allocator::Madvise, MIB, MIB),
    });
    assert_eq!(grown, []);
}

/// glibc's heap trimmed at its top after each round, and grown again.
#[test]
fn trimming_is_found_as_glibcs() {
    let findings = advise(Program::new("glibc"), |program, _| {
        program.stage(Allocator::Brk, Stage::Call, 24 * MIB, 24 * MIB, 5_000);
        program.call(Allocator::Glibc, 24 * MIB);
        program.touch(Allocator::Glibc, 24 * MIB, 24 * MIB);
        program.release(Allocator::Brk, 24 * MIB, 24 * MIB);
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_eq!((churn.allocator, churn.setting.environment[0].0), (Allocator::Glibc, "GLIBC_TUNABLES"));
}

#[test]
fn mappings_are_their_allocators_or_the_programs_own() {
    for (name, family) in [
        ("glibc", Allocator::Mmap),
        ("musl", Allocator::Musl),
        ("jemalloc", Allocator::Jemalloc),
        ("mimalloc", Allocator::Mimalloc),
        ("tcmalloc", Allocator::Tcmalloc),
    ] {
        let findings = advise(Program::new(name), |program, _| program.cycle(Allocator::Mmap, 16 * MIB));
        assert_eq!(find(&findings, FindingKind::ThresholdChurn).unwrap().allocator, family);
    }
    let mut unseen = Program::new("glibc");
    unseen.process.coverage.tier = Tier::Kernel;
    let findings = advise(unseen, |program, _| program.cycle(Allocator::Mmap, 16 * MIB));
    assert_eq!(find(&findings, FindingKind::ThresholdChurn).unwrap().allocator, Allocator::Glibc);
}

#[test]
fn stacks_files_and_reserved_addresses_are_no_memory() {
    for allocator in [Allocator::Stack, Allocator::File, Allocator::Reserve] {
        let findings = advise(Program::new("glibc"), |program, _| program.cycle(allocator, 64 * MIB));
        assert_eq!(findings, []);
    }
}

/// Of 64 MiB at the worst alignment 31 huge pages are whole.
#[test]
fn huge_pages_save_what_they_cover() {
    let findings = advise(Program::new("glibc"), |program, _| program.cycle(Allocator::Glibc, 64 * MIB));
    let huge = find(&findings, FindingKind::HugePages).unwrap();
    assert_near(huge.recoverable.unwrap(), 4.0 * 16384.0 * 1.5e-6 * 31.0 / 32.0 * 0.75);
    assert_eq!(huge.setting.environment, [("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1".to_owned())]);
}

#[test]
fn huge_pages_are_not_advised_where_they_do_not_help() {
    let is_advised = |size: u64, touched: u64, ratio: Option<f64>| {
        let mut program = Program::new("glibc");
        program.tool.huge_touch_ratio = ratio;
        let findings = advise(program, |program, _| {
            for _ in 0..8 {
                program.call(Allocator::Glibc, size);
                program.touch(Allocator::Glibc, size, touched);
                program.release(Allocator::Glibc, size, touched);
            }
        });
        find(&findings, FindingKind::HugePages).is_some()
    };
    assert!(is_advised(64 * MIB, 64 * MIB, RATIO));
    assert!(is_advised(4 * MIB, 4 * MIB, RATIO));
    assert!(!is_advised(4 * MIB - PAGE, 4 * MIB - PAGE, RATIO), "small blocks");
    assert!(is_advised(64 * MIB, 32 * MIB, RATIO));
    assert!(!is_advised(64 * MIB, 31 * MIB, RATIO), "touched in parts");
    assert!(!is_advised(64 * MIB, 64 * MIB, None), "none to be had");
    assert!(!is_advised(64 * MIB, 64 * MIB, Some(1.1)), "slower");
}

/// The same bytes made real by a 512th of the faults, of 100 us each.
#[test]
fn huge_pages_are_not_advised_to_who_has_them() {
    let findings = advise(Program::new("glibc"), |program, _| {
        let faults = 32;
        program.call(Allocator::Glibc, 64 * MIB);
        program.stage(Allocator::Glibc, Stage::Touch, 64 * MIB, 64 * MIB, faults * 100_000);
        let large = Series::Fault { kind: FaultKind::Minor, scope: FaultScope::Large };
        program.add(large, faults, 0, faults * 100_000);
        program.release(Allocator::Glibc, 64 * MIB, 64 * MIB);
    });
    assert_eq!(find(&findings, FindingKind::HugePages), None);
}

#[test]
fn over_allocation_claims_no_time() {
    let advised = |size: u64, touched: u64, cycles: u32| {
        let findings = advise(Program::new("glibc"), |program, step| {
            if step < cycles {
                program.call(Allocator::Glibc, size);
                program.touch(Allocator::Glibc, size, touched);
                program.release(Allocator::Glibc, size, touched);
            }
        });
        find(&findings, FindingKind::OverAllocation).cloned()
    };
    let finding = advised(256 * MIB, 64 * MIB, 40).unwrap();
    assert_eq!((finding.recoverable, finding.size_classes.as_slice()), (None, &[28][..]));
    assert_near(figure(&finding, "touched_ratio"), 0.25);
    assert_near(figure(&finding, "untouched_bytes"), (192 * MIB) as f64);
    assert_eq!(advised(256 * MIB, 65 * MIB, 40), None, "more is touched");
    assert_eq!(advised(64 * MIB, PAGE, 40), None, "less than 64 MiB untouched");
    assert!(advised(64 * MIB + PAGE, PAGE, 10).is_some());
    assert_eq!(advised(64 * MIB + PAGE, PAGE, 9), None, "too few");
    assert!(advised(256 * MIB, 0, 40).is_some(), "nothing touched at all");
}

#[test]
fn a_storm_is_release_time_or_what_others_waited_for() {
    let storm = |blocks: u32, waited_ns: u64| {
        let findings = advise(Program::new("glibc"), |program, _| {
            (0..blocks).for_each(|_| program.cycle(Allocator::Glibc, 4 * MIB));
            program.process.counters.stall_ns[Cause::MmapLock as usize] += waited_ns;
        });
        find(&findings, FindingKind::ReleaseStorm).cloned()
    };
    // A release takes 256 us: 0.05 s in each second are 195 of them, or 49 in a quarter.
    let finding = storm(49, 0).unwrap();
    assert_near(finding.recoverable.unwrap(), 49.0 * 4.0 * 256e-6);
    assert_eq!(figure(&finding, "mmap_lock_seconds_per_second"), 0.0);
    assert_eq!(storm(48, 0), None);
    // Ten releases take a hundredth of a CPU, as long as threads waited.
    let finding = storm(10, 2_500_000).unwrap();
    assert_near(finding.recoverable.unwrap(), 10.0 * 4.0 * 256e-6 + 0.01);
    assert_eq!(storm(10, 2_400_000), None);
    assert_eq!(storm(9, 100_000_000), None);
}

/// What goes on for ten minutes is told after ten as after five; some minutes after its end it is not.
#[test]
fn a_daemons_findings_go_when_their_cause_does() {
    let mut advisor = Advisor::of_last(Duration::from_secs(60));
    let mut program = Program::new("glibc");
    let churn = |program: &mut Program, _| program.cycle(Allocator::Glibc, 64 * MIB);
    let idle = |_: &mut Program, _| {};
    let minute = 240;
    let early = watch(&mut advisor, &mut program, 0..minute, churn);
    let late = watch(&mut advisor, &mut program, minute..10 * minute, churn);
    for findings in [early, late] {
        let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
        assert_near(churn.recoverable.unwrap(), 4.0 * cycle_seconds(64 * MIB));
    }
    assert_eq!(watch(&mut advisor, &mut program, 10 * minute..12 * minute, idle), []);
    assert_eq!(advisor.processes.len(), 1);
    advisor.advise(&mut Snapshot { elapsed: Duration::from_secs(999), ..Snapshot::default() });
    assert_eq!(advisor.processes.len(), 0);
}

/// A process that ends does not get cheaper with time.
#[test]
fn seconds_are_those_of_its_life() {
    let mut ended = false;
    let findings = advise(Program::new("glibc"), |program, step| {
        ended |= step >= 20;
        program.process.alive = !ended;
        if !ended {
            program.cycle(Allocator::Glibc, 64 * MIB);
        }
    });
    let churn = find(&findings, FindingKind::ThresholdChurn).unwrap();
    assert_near(figure(churn, "observed_seconds"), 5.0);
    assert_near(churn.recoverable.unwrap(), 4.0 * cycle_seconds(64 * MIB));
}

#[test]
fn no_number_breaks_it() {
    let mut program = Program::new("glibc");
    let findings = watch(&mut Advisor::of_run(), &mut program, 0..8, |program, step| {
        for &allocator in Allocator::ALL {
            for stage in [Stage::Call, Stage::Touch, Stage::Release] {
                for size_class in [0, 12, 63] {
                    let series = Series::Stage { allocator, stage, size_class };
                    let totals = &mut program.process.series.entry(series).or_default().totals;
                    let value = if step % 3 == 2 { 0 } else { u64::MAX / 2 };
                    *totals = Totals { count: value, bytes: value, time_ns: value, max_ns: value };
                }
            }
        }
    });
    assert!(findings.iter().all(|finding| finding.recoverable.is_none_or(f64::is_finite)), "{findings:?}");
}
