//! A [`Snapshot`] into text for people: a live table, and the report at the end of a run.
//!
//! Plain ASCII, at most [`WIDTH`] columns but for names that are longer. Text from outside (names of
//! processes, paths) cannot carry terminal control sequences.

use super::findings::findings;
use super::go_runtime::GoRuntime;
use super::names::size_label;
use super::quantile::quantile_ns;
use super::rows::{Row, attributed_faults, faults, rows};
use super::{provider, touched};
use crate::aggregate::{ProcessSnapshot, SlowAllocation, Snapshot};
use crate::intake::SeriesReading;
use allocscope_common::cause::Cause;
use allocscope_common::counter::ProbeClass;
use allocscope_common::depth::DEPTH_BOUNDS;
use allocscope_common::key::{FaultKind, Stage};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::cmp::Reverse;
use std::fmt::Write;

/// Columns that a table fits into.
pub const WIDTH: usize = 120;

/// Slow allocations in a report, and functions that are told of each.
const SLOW_LISTED: usize = 5;
const FRAMES_LISTED: usize = 8;

/// All processes as they are now, for a screen that is redrawn: allocations, and in a line each the
/// page faults, what was lost and what tracing costs.
pub fn live(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for process in &snapshot.processes {
        let _ = writeln!(text, "{}", headline(process, snapshot));
        text += &allocations(process);
        let _ = writeln!(text, "{}", fault_line(process));
        let _ = writeln!(text, "{}\n", cost_line(process, snapshot));
    }
    if snapshot.processes.is_empty() {
        text += "no process is traced\n\n";
    }
    text + &lost(snapshot)
}

/// Everything there is to tell of a process.
pub fn report(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let mut text = headline(process, snapshot);
    text += "\n\nLarge allocations (touch: all page faults of a released range)\n";
    text += &allocations(process);
    text += &stage_totals(process);
    text += &touched::section(process, snapshot.tool.page_sizes_known);
    text += &slowest(process, snapshot);
    text += &stack_frames(process);
    text += "\nPage faults\n";
    text += &fault_table(process);
    text += "\nWhere the time of calls, releases and all page faults went\n";
    text += &cause_table(process);
    text += &GoRuntime::of(process).map_or_else(String::new, |runtime| format!("\n{}", runtime.text()));
    text += &provider::text(process);
    text += "\nCoverage\n";
    text += &coverage(process);
    text += &lost(snapshot);
    text += "\nWhat tracing cost the process\n";
    text += &cost_table(process, snapshot);
    let _ = writeln!(text, "{}", cost_line(process, snapshot));
    text += "\nAdvice\n";
    text += &findings(process);
    text
}

/// Nanoseconds with a sensible unit and three digits: `812ns`, `16.2us`, `24.0ms`, `2.50s`.
pub fn duration(ns: f64) -> String {
    scaled(ns, 1000.0, &["ns", "us", "ms", "s"])
}

/// Bytes with a sensible unit and three digits: `512B`, `64.0KiB`, `1.50GiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be printed as four digits.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

pub(super) fn headline(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let state = if process.alive { "" } else { ", ended" };
    let elapsed = duration(snapshot.elapsed.as_nanos() as f64);
    let exe = plain(&process.info.exe.to_string_lossy());
    format!("{} (pid {}{state}), {exe}, after {elapsed}", plain(&process.info.comm), process.info.id.pid)
}

/// A line for each stage of each allocator's size class.
fn allocations(process: &ProcessSnapshot) -> String {
    let rows = rows(process);
    if rows.iter().all(|row| row.stages().next().is_none()) {
        return "no large allocation was seen\n".to_owned();
    }
    let all_ns = total_ns(&rows);
    let mut table = new_table(&[
        "allocator",
        "size",
        "count",
        "bytes",
        "stage",
        "events",
        "p50",
        "p95",
        "p99",
        "max",
        "total",
        "share",
    ]);
    for row in &rows {
        let call = row.call.map(|series| series.totals).unwrap_or_default();
        let mut class = [
            row.allocator.name().to_owned(),
            size_label(row.size_class),
            call.count.to_string(),
            bytes(call.bytes),
        ];
        for (stage, series) in row.stages() {
            // The class is named on its first line only.
            let mut cells: Vec<String> = class.iter_mut().map(std::mem::take).collect();
            cells.extend([stage.name().to_owned(), series.totals.count.to_string()]);
            cells.extend([0.50, 0.95, 0.99].map(|q| percentile(series, q)));
            cells.push(longest(series));
            cells.extend([duration(series.totals.time_ns as f64), share(series.totals.time_ns, all_ns)]);
            table.add_row(cells);
        }
    }
    finish(table, &[0, 4])
}

/// Time of each stage over all classes.
fn stage_totals(process: &ProcessSnapshot) -> String {
    let rows = rows(process);
    let all_ns = total_ns(&rows);
    if all_ns == 0 {
        return String::new();
    }
    let part = |&stage: &Stage| {
        let of_stage = rows.iter().flat_map(Row::stages).filter(|&(found, _)| found == stage);
        let ns = of_stage.fold(0u64, |sum, (_, series)| sum.saturating_add(series.totals.time_ns));
        format!("{stage} {} ({})", duration(ns as f64), share(ns, all_ns))
    };
    let parts: Vec<_> = Stage::ALL.iter().map(part).collect();
    format!("total {}: {}\n", duration(all_ns as f64), parts.join(", "))
}

/// The slowest allocations with the functions that asked for them; nothing where none was slow.
fn slowest(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let slow = snapshot.slowest.iter().filter(|slow| slow.pid == process.info.id.pid);
    for slow in slow.take(SLOW_LISTED) {
        if text.is_empty() {
            text += "\nSlowest allocations\n";
        }
        let stage = |name: &str, ns: Option<u64>| Some(format!("{name} {}", duration(ns? as f64)));
        let stages =
            [stage("call", slow.call_ns), stage("touch", slow.touch_ns), stage("release", slow.release_ns)];
        let stages: Vec<_> = stages.into_iter().flatten().collect();
        let at = slow.filed_ns as f64 / 1e9;
        let goroutine = match slow.goroutine {
            0 => String::new(),
            number => format!(", goroutine {number}"),
        };
        let _ = writeln!(
            text,
            "{} of {}: {}; {} faults, thread {}{goroutine}, {at:.3} s after boot",
            bytes(slow.size),
            slow.allocator,
            stages.join(", "),
            slow.faults,
            slow.tid,
        );
        text += &slow_causes(slow);
        for frame in slow.frames.iter().take(FRAMES_LISTED) {
            let _ = writeln!(text, "    {}", plain(frame));
        }
    }
    text
}

fn slow_causes(slow: &SlowAllocation) -> String {
    let causes_ns = slow.causes_ns();
    let told = Cause::ALL.iter().map(|&cause| (cause, causes_ns[cause as usize]));
    let mut told: Vec<_> = told.filter(|&(_, ns)| ns > 0).collect();
    told.sort_by_key(|&(_, ns)| Reverse(ns));
    let parts: Vec<_> = told.iter().map(|&(cause, ns)| format!("{cause} {}", duration(ns as f64))).collect();
    if parts.is_empty() { String::new() } else { format!("    where it went: {}\n", parts.join(", ")) }
}

/// Calls by frames on the stack; nothing where that is not counted.
fn stack_frames(process: &ProcessSnapshot) -> String {
    let mut text = String::new();
    for (allocator, counts) in &process.depths {
        if text.is_empty() {
            text += "\nStack frames at large allocations (by frame pointers)\n";
        }
        let mut parts: Vec<_> = DEPTH_BOUNDS.iter().map(|bound| format!("<={bound}")).collect();
        parts.push("more".to_owned());
        let parts = parts.iter().zip(counts.buckets).filter(|&(_, count)| count > 0);
        let parts: Vec<_> = parts.map(|(bound, count)| format!("{bound}: {count}")).collect();
        let _ = writeln!(text, "{allocator}: {}", parts.join(", "));
    }
    text
}

fn total_ns(rows: &[Row<'_>]) -> u64 {
    rows.iter().fold(0, |sum, row| sum.saturating_add(row.time_ns()))
}

fn fault_table(process: &ProcessSnapshot) -> String {
    let mut table = new_table(&["kind", "scope", "count", "time", "p50", "p99", "max"]);
    for (kind, scope, series) in faults(process) {
        table.add_row([
            kind.name().to_owned(),
            scope.name().to_owned(),
            series.totals.count.to_string(),
            duration(series.totals.time_ns as f64),
            percentile(series, 0.50),
            percentile(series, 0.99),
            longest(series),
        ]);
    }
    if table.is_empty() { "none was seen\n".to_owned() } else { finish(table, &[0, 1]) }
}

/// Causes that took any time, the dearest first.
fn cause_table(process: &ProcessSnapshot) -> String {
    let (causes_ns, all_ns) = (process.causes_ns(), process.windows_ns());
    let mut told: Vec<_> = Cause::ALL.iter().map(|&cause| (causes_ns[cause as usize], cause)).collect();
    told.retain(|&(ns, _)| ns > 0);
    told.sort_by_key(|&(ns, cause)| (Reverse(ns), cause));
    let mut table = new_table(&["cause", "time", "share"]);
    for (ns, cause) in told {
        table.add_row([cause.name().to_owned(), duration(ns as f64), share(ns, all_ns)]);
    }
    if table.is_empty() { "no time was seen\n".to_owned() } else { finish(table, &[0]) }
}

fn fault_line(process: &ProcessSnapshot) -> String {
    let part = |(kind, scope, series): (FaultKind, _, &SeriesReading)| {
        format!("{kind}/{scope} {} in {}", series.totals.count, duration(series.totals.time_ns as f64))
    };
    let parts: Vec<_> = faults(process).map(part).collect();
    if parts.is_empty() {
        "page faults: none".to_owned()
    } else {
        format!("page faults: {}", parts.join(", "))
    }
}

fn coverage(process: &ProcessSnapshot) -> String {
    let (coverage, counters) = (&process.coverage, &process.counters);
    let (large, seen) = attributed_faults(process);
    let mut text = format!(
        "allocator: {}, tier {}, probe sites attached: {} of {}\n",
        plain(&coverage.allocator),
        coverage.tier.name(),
        coverage.sites_attached,
        coverage.sites_planned,
    );
    let _ = writeln!(text, "page faults in large ranges: {large} of {seen} seen ({})", share(large, seen));
    for &kind in FaultKind::ALL {
        let untimed = counters.untimed_faults[kind as usize];
        if untimed > 0 {
            let _ = writeln!(text, "page faults without a duration: {untimed} {kind}");
        }
    }
    if counters.partial_releases > 0 {
        let time = duration(counters.partial_release_ns as f64);
        let _ = writeln!(text, "releases of a part of a range: {} in {time}", counters.partial_releases);
    }
    let live = counters.ranges_filed.saturating_sub(counters.ranges_ended);
    let _ = writeln!(text, "large ranges not released: {live}");
    for miss in &coverage.misses {
        let _ = writeln!(text, "missed: {} ({})", plain(&miss.detail), miss.reason);
    }
    text
}

/// What was lost, of all processes: the kernel side does not count losses by process.
fn lost(snapshot: &Snapshot) -> String {
    let nonzero = snapshot.lost.iter().filter(|&(_, &count)| count > 0);
    let parts: Vec<_> = nonzero.map(|(reason, count)| format!("{reason} {count}")).collect();
    let mut text = match parts.as_slice() {
        [] => "lost: nothing\n".to_owned(),
        parts => format!("lost: {}\n", parts.join(", ")),
    };
    if snapshot.tool.processes_over_limit > 0 {
        let _ = writeln!(text, "processes not traced, too many: {}", snapshot.tool.processes_over_limit);
    }
    text
}

/// The classes of probes that the process ran into.
fn cost_table(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let mut table = new_table(&["probe class", "hits", "price", "cost"]);
    for &class in ProbeClass::ALL {
        let hits = process.counters.hits[class as usize];
        if hits == 0 {
            continue;
        }
        let price_ns = snapshot.tool.probe_price_ns.get(&class);
        let told = |ns: Option<f64>| ns.map_or("unknown".to_owned(), duration);
        let cost = told(price_ns.map(|price_ns| hits as f64 * price_ns));
        table.add_row([class.name().to_owned(), hits.to_string(), told(price_ns.copied()), cost]);
    }
    if table.is_empty() { "no probe was hit\n".to_owned() } else { finish(table, &[0]) }
}

/// The estimate; classes that were hit but have no price are named, as they are not in it.
fn cost_line(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let seconds = process.probe_cost_seconds(&snapshot.tool);
    let elapsed = snapshot.elapsed.as_secs_f64();
    let percent = if elapsed > 0.0 { 100.0 * seconds / elapsed } else { 0.0 };
    let unpriced = ProbeClass::ALL.iter().filter(|&&class| {
        process.counters.hits[class as usize] > 0 && !snapshot.tool.probe_price_ns.contains_key(&class)
    });
    let unpriced: Vec<_> = unpriced.map(|class| class.name()).collect();
    let mut line = format!("tracing cost: about {}, {percent:.3}% of one CPU", duration(seconds * 1e9));
    if !unpriced.is_empty() {
        let _ = write!(line, " (without {}: price unknown)", unpriced.join(", "));
    }
    line
}

fn percentile(series: &SeriesReading, q: f64) -> String {
    quantile_ns(series, q).map_or("-".to_owned(), duration)
}

fn longest(series: &SeriesReading) -> String {
    if series.buckets.is_empty() { "-".to_owned() } else { duration(series.totals.max_ns as f64) }
}

pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

/// Text from outside without control characters, which a terminal could take for commands, and
/// without the invisible ones that turn the direction of writing.
fn plain(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_unsafe(c) { '?' } else { c }).collect()
}

pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    // Otherwise the width would be that of the terminal there happens to be.
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// The table as lines; numbers stand right, the columns `text` left.
pub(super) fn finish(mut table: Table, text: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        if !text.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use allocscope_common::counter::LossReason;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0ns"),
            (812.0, "812ns"),
            (999.4, "999ns"),
            (999.6, "1.00us"),
            (16_234.0, "16.2us"),
            (24e6, "24.0ms"),
            (999_600_000.0, "1.00s"),
            (2.5e9, "2.50s"),
            (3.6e12, "3600s"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let cases =
            [(0, "0B"), (1023, "1023B"), (1024, "1.00KiB"), (64 << 20, "64.0MiB"), (3 << 29, "1.50GiB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16.0EiB");
    }

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
}
