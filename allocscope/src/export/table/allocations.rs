//! Large allocations into a line for each stage of a size class, sums over all classes, and counts of stack frames.

use super::columns::{finish, new_table};
use super::number::{bytes, duration, longest, percentile, share};
use crate::aggregate::ProcessSnapshot;
use crate::export::names::size_label;
use crate::export::rows::{Row, rows};
use allocscope_common::depth::DEPTH_BOUNDS;
use allocscope_common::key::Stage;
use std::fmt::Write;

/// A line for each stage of each allocator's size class.
pub(super) fn allocations(process: &ProcessSnapshot) -> String {
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
pub(super) fn stage_totals(process: &ProcessSnapshot) -> String {
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

fn total_ns(rows: &[Row<'_>]) -> u64 {
    rows.iter().fold(0, |sum, row| sum.saturating_add(row.time_ns()))
}

/// Calls by frames on the stack; nothing where that is not counted.
pub(super) fn stack_frames(process: &ProcessSnapshot) -> String {
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
