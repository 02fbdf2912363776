//! What each stage of an allocation cost by allocscope, against the program's own clock: counts and bytes exactly,
//! call and release within 5 % (a call that moves pages 15 %), first touch within 15 % at 4 KiB pages and 10 % at 2 MiB
//! pages.
//!
//! The program's clock sees more than the tracer's of what it traces: a fault's exception, a trap, what the programs
//! do after they have read the clock. Of a fault this does not depend on what the fault does, so each run measures
//! it on the cheapest ones, and it explains the rest (`truth.rs` has more on it). Of a release of many pages, and of
//! a call that clears or moves them, it is nothing. A call that does neither takes some microseconds, and tracing
//! it makes it longer: there the tracer's time lies between the program's without and with tracing.
//!
//! A machine under load is slow in one of the two clocks at times: the best of five runs counts, for times alone.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use serde_json::Value;
use support::report::{Counts, Process};
use support::{PROGRAM, Truth, allocscope, run_workload};

const MIB: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
const RUNS: usize = 10;
/// Faults of a thread's stack and of what it reads the first time.
const FEW_PAGES: u64 = 24;

#[test]
fn pinned_thresholds_make_each_block_a_mapping() {
    agrees("--pin --sizes 24MiB,64MiB --count 6", &[24 * MIB, 64 * MIB]);
}

/// 1 MiB comes from the heap from the second block on, and its pages stay: there are few faults and no release.
#[test]
fn thresholds_that_adapt_are_followed() {
    agrees("--sizes 1MiB,64MiB --count 6", &[64 * MIB]);
    let (truth, report) = run_workload("", "blocks --sizes 1MiB --count 40");
    let process = report.process(truth.pid());
    let counts = process.counts("glibc", MIB);
    assert_eq!((counts.calls, counts.bytes), (40, 40 * MIB), "{report}");
    assert_eq!(counts.releases, 1, "{report}");
    assert_pages(process, MIB, truth.0["sizes"][0]["touch_faults"].as_u64().unwrap());
}

#[test]
fn what_another_thread_touches_is_the_blocks() {
    agrees("--pin --count 6 --other-thread", &[64 * MIB]);
}

/// After the fork each page is written to for a second time, and is a fault again.
#[test]
fn a_fork_makes_pages_be_touched_again() {
    agrees("--pin --count 4 --fork", &[64 * MIB]);
}

#[test]
fn huge_pages_are_counted_whole() {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let words = "blocks --pin --count 6 --huge-pages always";
    let (truth, report) = run_workload("", words);
    let (process, size) = (report.process(truth.pid()), &truth.0["sizes"][0]);
    let pages = number(size, "pages_touched");
    // The first page of each was touched by malloc.
    assert_eq!(process.of_class("glibc", 64 * MIB, "/touched_bytes") / PAGE_BYTES, pages - 6, "{report}");
    if setting.is_empty() || setting.contains("[never]") {
        return;
    }
    assert!(number(size, "touch_faults") < pages / 10, "{}", truth.0);
    near("first touch of huge pages", 0.10, || {
        let (truth, report) = run_workload("", words);
        let (process, size) = (report.process(truth.pid()), &truth.0["sizes"][0]);
        let outside_ns = outside_ns_per_fault(process, &truth) * number(size, "touch_faults") as f64;
        let touch_ns = process.stage_seconds("glibc", 64 * MIB, "touch") * 1e9;
        (touch_ns + outside_ns) / number(size, "touch_ns") as f64
    });
}

/// The call that enlarges it is the system's; what was touched before and since is told when it is freed.
#[test]
fn a_block_that_realloc_moves_keeps_what_was_touched() {
    let words = "blocks --pin --count 6 --grow";
    let (truth, report) = run_workload("", words);
    let (process, size) = (report.process(truth.pid()), &truth.0["sizes"][0]);
    let (old, new) = (process.counts("glibc", 64 * MIB), process.counts("glibc", 128 * MIB));
    assert_eq!((old.calls, old.touches, old.releases), (6, 0, 0), "{report}");
    assert_eq!((new.calls, new.touches, new.releases), (0, 6, 6), "{report}");
    assert_eq!(process.counts("mremap", 128 * MIB).calls, number(size, "grow_calls"), "{report}");
    assert_pages(process, 128 * MIB, number(size, "touch_faults"));
    near("release after it", 0.05, || {
        let (truth, report) = run_workload("", words);
        let released = report.process(truth.pid()).stage_seconds("glibc", 128 * MIB, "release");
        released * 1e9 / number(&truth.0["sizes"][0], "release_ns") as f64
    });
    // The program's clock sees what lies around the system call as well: the probes, and the C library's realloc.
    near("moving it", 0.15, || {
        let (truth, report) = run_workload("", words);
        let moved = report.process(truth.pid()).stage_seconds("mremap", 128 * MIB, "call");
        moved * 1e9 / number(&truth.0["sizes"][0], "grow_ns") as f64
    });
}

/// In the heap a block is enlarged where it is, or copied; either way each page that is touched is a block's.
#[test]
fn a_block_that_realloc_copies_is_two_blocks() {
    let (truth, report) = run_workload("", "blocks --sizes 1MiB --count 8 --grow");
    let (process, size) = (report.process(truth.pid()), &truth.0["sizes"][0]);
    assert_eq!(process.counts("glibc", MIB).calls, 8, "{report}");
    let touched = [MIB, 2 * MIB].map(|class| process.of_class("glibc", class, "/touched_bytes"));
    let pages = touched.iter().sum::<u64>() / PAGE_BYTES;
    assert!(pages.abs_diff(number(size, "touch_faults")) <= FEW_PAGES, "{report} {}", truth.0);
}

/// The kernel clears all pages in the call, and no page fault tells of them.
#[test]
fn a_mapping_made_real_by_its_call_costs_what_it_costs() {
    let words = "map --sizes 64MiB --count 5 --no-touch --populate";
    let (truth, report) = run_workload("", words);
    let process = report.process(truth.pid());
    assert_eq!(process.counts("mmap", 64 * MIB), Counts::whole(5, 64 * MIB), "{report}");
    assert_eq!(process.of_class("mmap", 64 * MIB, "/touched_bytes"), 5 * 64 * MIB, "{report}");
    for stage in ["call", "release"] {
        near(stage, 0.05, || {
            let (truth, report) = run_workload("", words);
            let seconds = report.process(truth.pid()).stage_seconds("mmap", 64 * MIB, stage);
            seconds * 1e9 / truth.sum_of_sizes(&format!("{stage}_ns")) as f64
        });
    }
}

/// First touch by another name: no page fault tells of it.
#[test]
fn a_mapping_that_is_populated_is_touched_by_that() {
    let words = "map --sizes 64MiB --count 5 --prefault";
    for flags in ["", "--page-faults counted"] {
        let (truth, report) = run_workload(flags, words);
        let process = report.process(truth.pid());
        assert_eq!(process.counts("mmap", 64 * MIB), Counts::whole(5, 64 * MIB), "{report}");
        assert_eq!(process.of_class("mmap", 64 * MIB, "/touched_bytes"), 5 * 64 * MIB, "{report}");
        assert!(process.faults("minor", "large") <= FEW_PAGES, "{report}");
    }
    near("populating", 0.05, || {
        let (truth, report) = run_workload("", words);
        let seconds = report.process(truth.pid()).stage_seconds("mmap", 64 * MIB, "touch");
        seconds * 1e9 / truth.sum_of_sizes("touch_ns") as f64
    });
}

/// The kernel tells of no page fault what page of these it took; the mapping itself says which they are.
#[test]
fn explicit_huge_pages_are_counted_whole() {
    let _pages = SetAside::more(8);
    for flags in ["", "--page-faults counted"] {
        let (truth, report) = run_workload(flags, "map --sizes 16MiB --count 5 --huge-pages explicit");
        let process = report.process(truth.pid());
        assert_eq!(process.counts("mmap", 16 * MIB), Counts::whole(5, 16 * MIB), "{report}");
        assert_eq!(process.of_class("mmap", 16 * MIB, "/touched_bytes"), 5 * 16 * MIB, "{report}");
        assert!(process.faults("minor", "large") <= 5 * 8 + FEW_PAGES, "{report}");
    }
}

/// Explicit huge pages of 2 MiB that the machine has beyond those that it had.
struct SetAside {
    before: String,
}

impl SetAside {
    const COUNT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn more(pages: u64) -> Self {
        let before = std::fs::read_to_string(Self::COUNT).unwrap();
        let wanted = before.trim().parse::<u64>().unwrap() + pages;
        std::fs::write(Self::COUNT, wanted.to_string()).unwrap();
        assert_eq!(std::fs::read_to_string(Self::COUNT).unwrap().trim(), wanted.to_string());
        Self { before }
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        std::fs::write(Self::COUNT, &self.before).ok();
    }
}

/// Of a mapping that is cut, the parts' releases are told apart; together they are the program's.
#[test]
fn releases_of_parts_are_the_programs() {
    near("unmapping in parts", 0.05, || {
        let (truth, report) = run_workload("", "remap --rounds 4");
        let process = report.process(truth.pid());
        let whole: f64 = [16, 64].iter().map(|mib| process.stage_seconds("mmap", mib * MIB, "release")).sum();
        let parts = process.0["partial_release_seconds"].as_f64().unwrap();
        (whole + parts) * 1e9 / truth.number("unmap_ns") as f64
    });
    near("discarding", 0.05, || {
        let (truth, report) = run_workload("", "remap --rounds 4");
        let seconds = report.process(truth.pid()).stage_seconds("madvise", 16 * MIB, "release");
        seconds * 1e9 / truth.number("discard_ns") as f64
    });
}

#[test]
fn shrinking_the_heap_costs_what_it_costs() {
    near("brk", 0.05, || {
        let (truth, report) = run_workload("", "brk --step 64MiB --steps 4 --rounds 2");
        let seconds = report.process(truth.pid()).stage_seconds("brk", 64 * MIB, "release");
        seconds * 1e9 / truth.number("shrink_ns") as f64
    });
}

/// A program that allocates once and frees nothing is told in full as well.
#[test]
fn what_is_never_freed_is_told_as_live() {
    let (truth, report) = run_workload("", "blocks --pin --count 3 --keep");
    let process = report.process(truth.pid());
    let counts = process.counts("glibc", 64 * MIB);
    assert_eq!((counts.calls, counts.touches, counts.releases), (3, 0, 0), "{report}");
    let live = |name: &str| process.of_class("glibc", 64 * MIB, &format!("/live/{name}"));
    assert_eq!((live("ranges"), live("bytes")), (3, 3 * 64 * MIB), "{report}");
    assert_eq!(live("touched_bytes"), process.of_class("glibc", 64 * MIB, "/touched_bytes"));
    assert_pages(process, 64 * MIB, truth.0["sizes"][0]["touch_faults"].as_u64().unwrap());
    let row = process.0["allocations"].as_array().unwrap();
    let row = row.iter().find(|row| row["allocator"] == "glibc").unwrap();
    let large = process.fault_seconds("minor", "large");
    assert!(row["live"]["touch_seconds"].as_f64().unwrap() > large * 0.8, "{report}");
}

/// Calls of a few microseconds: by the program's clock untraced and traced, and the tracer's time between.
#[test]
fn a_short_call_takes_at_least_what_it_takes_untraced() {
    let words = "blocks --pin --sizes 1MiB --count 400";
    let call_ns = |truth: &Truth| number(&truth.0["sizes"][0], "call_ns") as f64;
    let mut seen = Vec::new();
    while seen.len() < RUNS {
        let untraced_ns = call_ns(&Truth::in_output(&allocscope(&format!("workload {words}")).stdout));
        let (truth, report) = run_workload("", words);
        let seconds = report.process(truth.pid()).stage_seconds("glibc", MIB, "call");
        let times = [untraced_ns, seconds * 1e9, call_ns(&truth)].map(|ns| ns / 400.0);
        eprintln!("a call untraced, by the tracer, traced: {times:.0?} ns");
        if times[0] * 0.95 <= times[1] && times[1] <= times[2] {
            return;
        }
        seen.push(times);
    }
    panic!("{PROGRAM}: {seen:.0?}");
}

/// Counts of `workload blocks` in these classes exactly, and times by the rules of this file.
fn agrees(flags: &str, sizes: &[u64]) {
    let words = format!("blocks {flags}");
    let (truth, report) = run_workload("", &words);
    for &size in sizes {
        let (process, told) = (report.process(truth.pid()), of_size(&truth, size));
        let (count, counts) = (number(told, "count"), process.counts("glibc", size_class(size)));
        let expected = Counts::whole(count, size);
        assert_eq!((counts.calls, counts.bytes), (expected.calls, expected.bytes), "{report}");
        assert_eq!((counts.touches, counts.releases), (count, count), "{report}");
        assert_pages(process, size_class(size), number(told, "touch_faults"));
        assert_eq!(report.losses(), [], "{report}");
    }
    for &size in sizes {
        near(&format!("{flags}, release of {size}"), 0.05, || {
            let (truth, report) = run_workload("", &words);
            let released = report.process(truth.pid()).stage_seconds("glibc", size_class(size), "release");
            released * 1e9 / number(of_size(&truth, size), "release_ns") as f64
        });
        near(&format!("{flags}, first touch of {size}"), 0.15, || touch_ratio(&words, size));
    }
}

/// In CPU time.
fn touch_ratio(words: &str, size: u64) -> f64 {
    let (truth, report) = run_workload("", words);
    let (process, told) = (report.process(truth.pid()), of_size(&truth, size));
    let outside_ns = outside_ns_per_fault(process, &truth) * number(told, "touch_faults") as f64;
    let touch_ns = process.stage_seconds("glibc", size_class(size), "touch") * 1e9;
    (touch_ns + outside_ns) / number(told, "touch_cpu_ns") as f64
}

/// What the program's clock has more of a fault than the tracer's, by the mapping that the program only reads.
fn outside_ns_per_fault(process: Process<'_>, truth: &Truth) -> f64 {
    let calibration = &truth.0["calibration"];
    let seen_ns = process.stage_seconds("mmap", number(calibration, "bytes"), "touch") * 1e9;
    (number(calibration, "cpu_ns") as f64 - seen_ns) / number(calibration, "pages") as f64
}

/// Pages that a class touched are the faults of the program's thread, but for a few of other memory.
fn assert_pages(process: Process<'_>, class: u64, faults: u64) {
    let pages = process.of_class("glibc", class, "/touched_bytes") / PAGE_BYTES;
    assert!(faults.abs_diff(pages) <= FEW_PAGES, "{pages} pages, {faults} faults: {}", process.0);
}

/// Takes a ratio until it is near one, at most [`RUNS`] times.
fn near(what: &str, limit: f64, mut ratio: impl FnMut() -> f64) {
    let mut ratios = Vec::new();
    while ratios.len() < RUNS {
        ratios.push(ratio());
        eprintln!("{what}: tracer's time over the program's {ratios:.3?}");
        if ratios.iter().any(|ratio| (ratio - 1.0).abs() <= limit) {
            return;
        }
    }
    panic!("{what}: tracer's time over the program's is {ratios:.3?}");
}

fn of_size(truth: &Truth, size: u64) -> &Value {
    let sizes = truth.0["sizes"].as_array().unwrap();
    sizes.iter().find(|told| told["size_bytes"] == size).unwrap()
}

fn size_class(size: u64) -> u64 {
    1 << size.ilog2()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}
