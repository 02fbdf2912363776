//! The report and the live table of a sample, and of what is wide, lost, absent or hostile.

use super::*;
use crate::export::sample;
use allocscope_common::counter::{LossReason, ProbeClass};

#[test]
fn the_report_is_this_text() {
    let snapshot = sample::snapshot();
    let report = report(&snapshot.processes[0], &snapshot);
    assert_eq!(report, GOLDEN_REPORT, "\n{report}");
}

#[test]
fn the_live_table_is_this_text() {
    let live = live(&sample::snapshot());
    assert_eq!(live, GOLDEN_LIVE, "\n{live}");
}

#[test]
fn wide_numbers_fit_the_width() {
    let mut snapshot = sample::snapshot();
    for series in snapshot.processes[0].series.values_mut() {
        series.totals.count = 9_999_999_999;
        series.totals.bytes = u64::MAX;
        series.totals.time_ns = 99_999_000_000_000;
    }
    for line in report(&snapshot.processes[0], &snapshot).lines().chain(live(&snapshot).lines()) {
        assert!(line.len() <= WIDTH, "{} columns: {line}", line.len());
    }
}

#[test]
fn losses_and_unpriced_classes_are_named() {
    let mut snapshot = sample::snapshot();
    snapshot.lost.insert(LossReason::RangesFull, 12);
    snapshot.lost.insert(LossReason::SeriesFull, 3);
    snapshot.tool.probe_price_ns.remove(&ProbeClass::PageFault);
    let report = report(&snapshot.processes[0], &snapshot);
    assert!(report.contains("\nlost: series_full 3, ranges_full 12\n"), "{report}");
    assert!(report.contains("(without page_fault: price unknown)"), "{report}");
}

#[test]
fn causes_sum_to_the_time_of_the_windows() {
    let process = &sample::snapshot().processes[0];
    assert_eq!(process.windows_ns(), 4_045_800);
    assert_eq!(process.causes_ns().iter().sum::<u64>(), process.windows_ns());
}

#[test]
fn nothing_seen_is_said() {
    let mut snapshot = sample::snapshot();
    snapshot.processes[0].series.clear();
    let report = report(&snapshot.processes[0], &snapshot);
    assert!(report.contains("no large allocation was seen") && report.contains("none was seen"));
    assert_eq!(live(&Snapshot::default()), "no process is traced\n\nlost: nothing\n");
}

#[test]
fn control_sequences_do_not_reach_the_terminal() {
    let mut snapshot = sample::snapshot();
    snapshot.processes[0].info.comm = "\u{1b}[2Jx\u{202e}".to_owned();
    snapshot.processes[0].info.exe = "/tmp/a\nb".into();
    let text = live(&snapshot) + &report(&snapshot.processes[0], &snapshot);
    assert!(text.starts_with("?[2Jx? (pid 4242), /tmp/a?b, "));
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
}

const GOLDEN_REPORT: &str = "\
server (pid 4242), /usr/bin/server, after 10.0s

Large allocations (touch: all page faults of a released range)
| allocator |  size | count |  bytes | stage   | events |    p50 |    p95 |    p99 |    max |  total | share |
|-----------|-------|-------|--------|---------|--------|--------|--------|--------|--------|--------|-------|
| go        | 64MiB |     2 | 128MiB | call    |      2 | 15.9us | 18.0us | 18.0us | 18.0us | 34.0us |  0.1% |
|           |       |       |        | touch   |      1 | 24.0ms | 24.0ms | 24.0ms | 24.0ms | 24.0ms | 85.6% |
|           |       |       |        | release |      1 | 4.00ms | 4.00ms | 4.00ms | 4.00ms | 4.00ms | 14.3% |
total 28.0ms: call 34.0us (0.1%), touch 24.0ms (85.6%), release 4.00ms (14.3%)

Touched, of what was asked for (by page faults; live: not released, not in the table above)
| allocator |  size | asked for | touched | ratio | live | live bytes | live touched | live touch time |
|-----------|-------|-----------|---------|-------|------|------------|--------------|-----------------|
| go        | 64MiB |    128MiB | 80.0MiB | 62.5% |    1 |    64.0MiB |      16.0MiB |          6.00ms |

Stack frames at large allocations (by frame pointers)
go: <=15: 1, <=64: 1

Page faults
| kind  | scope | count |   time |    p50 |    p99 |    max |
|-------|-------|-------|--------|--------|--------|--------|
| minor | large |     4 | 12.1us | 1.57us | 9.00us | 9.00us |
| minor | other |     1 |  700ns |  700ns |  700ns |  700ns |

Where the time of calls, releases and all page faults went
| cause      |   time | share |
|------------|--------|-------|
| alloc      | 4.01ms | 99.2% |
| zeroing    | 21.0us |  0.5% |
| page_fault | 10.8us |  0.3% |
| runnable   | 2.00us |  0.0% |

Coverage
allocator: go1.22.10, tier large-path, probe sites attached: 3 of 4
page faults in large ranges: 4 of 5 seen (80.0%)
page faults without a duration: 1 minor
releases of a part of a range: 1 in 3.00us
large ranges not released: 1
missed: this Go version is newer than those tested (go_version_unknown)
lost: nothing

What tracing cost the process
| probe class     | hits | price |   cost |
|-----------------|------|-------|--------|
| uprobe_emulated |   20 | 400ns | 8.00us |
| page_fault      |    5 | 100ns |  500ns |
tracing cost: about 8.50us, 0.000% of one CPU

Advice
none
";

const GOLDEN_LIVE: &str = "\
server (pid 4242), /usr/bin/server, after 10.0s
| allocator |  size | count |  bytes | stage   | events |    p50 |    p95 |    p99 |    max |  total | share |
|-----------|-------|-------|--------|---------|--------|--------|--------|--------|--------|--------|-------|
| go        | 64MiB |     2 | 128MiB | call    |      2 | 15.9us | 18.0us | 18.0us | 18.0us | 34.0us |  0.1% |
|           |       |       |        | touch   |      1 | 24.0ms | 24.0ms | 24.0ms | 24.0ms | 24.0ms | 85.6% |
|           |       |       |        | release |      1 | 4.00ms | 4.00ms | 4.00ms | 4.00ms | 4.00ms | 14.3% |
page faults: minor/large 4 in 12.1us, minor/other 1 in 700ns
tracing cost: about 8.50us, 0.000% of one CPU

batch (pid 4300, ended), /usr/bin/batch, after 10.0s
| allocator | size | count |   bytes | stage | events |   p50 |   p95 |   p99 |   max | total |  share |
|-----------|------|-------|---------|-------|--------|-------|-------|-------|-------|-------|--------|
| mmap      | 1MiB |     1 | 1.00MiB | call  |      1 | 2.50s | 2.50s | 2.50s | 2.50s | 2.50s | 100.0% |
page faults: none
tracing cost: about 0ns, 0.000% of one CPU

lost: nothing
";
