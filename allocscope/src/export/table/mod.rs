//! A [`Snapshot`] into text for people: a live table, and the report at the end of a run.
//!
//! Plain ASCII, at most [`WIDTH`] columns but for names that are longer. Text from outside (names of
//! processes, paths) cannot carry terminal control sequences.

mod allocations;
mod causes;
mod columns;
mod cost;
mod coverage;
mod faults;
mod number;
mod plain;
mod slowest;

pub(super) use columns::{finish, new_table};
pub(super) use number::share;
pub use number::{bytes, duration};

use super::findings::findings;
use super::go_runtime::GoRuntime;
use super::{provider, touched};
use crate::aggregate::{ProcessSnapshot, Snapshot};
use allocations::{allocations, stack_frames, stage_totals};
use causes::cause_table;
use cost::{cost_line, cost_table};
use coverage::{coverage, lost};
use faults::{fault_line, fault_table};
use plain::plain;
use slowest::slowest;
use std::fmt::Write;

/// Columns that a table fits into.
pub const WIDTH: usize = 120;

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

pub(super) fn headline(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let state = if process.alive { "" } else { ", ended" };
    let elapsed = duration(snapshot.elapsed.as_nanos() as f64);
    let exe = plain(&process.info.exe.to_string_lossy());
    format!("{} (pid {}{state}), {exe}, after {elapsed}", plain(&process.info.comm), process.info.id.pid)
}

#[cfg(test)]
mod tests;
