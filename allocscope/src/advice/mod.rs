//! Snapshots over time into findings: what a process could save, what that rests on, the setting that does it,
//! its risk, and how to check. One file a kind of finding; `worth` has every threshold.
//!
//! It does no I/O and cannot fail. It claims only what it has seen: time of page faults as they were traced,
//! without what lies outside of the kernel's handler, and nothing for what happened once.

mod cycle;
mod huge_pages;
mod over_allocation;
mod release_storm;
mod setting;
mod threshold_churn;
mod window;
mod worth;

#[cfg(test)]
mod tests;

use crate::aggregate::{Finding, Snapshot};
use crate::target::ProcessId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use window::{History, Window};

/// Remembers what it needs of earlier snapshots, a bounded part of each process.
#[derive(Clone, Debug)]
pub struct Advisor {
    length: Duration,
    last: Option<Duration>,
    processes: BTreeMap<ProcessId, History>,
}

impl Advisor {
    /// Advises on the whole time since tracing began: for runs that end with a report.
    pub fn of_run() -> Self {
        Self::of_last(Duration::MAX)
    }

    /// Advises on the last `length` of time, at least half of it: for a daemon, whose findings are to go when
    /// their cause does.
    pub fn of_last(length: Duration) -> Self {
        Self { length, last: None, processes: BTreeMap::new() }
    }

    /// Takes a snapshot in and writes what it means into it. Processes that are no longer in it are forgotten.
    pub fn advise(&mut self, snapshot: &mut Snapshot) {
        let (now, before) = (snapshot.elapsed, self.last.unwrap_or(snapshot.elapsed));
        let ids: BTreeSet<_> = snapshot.processes.iter().map(|process| process.info.id).collect();
        self.processes.retain(|id, _| ids.contains(id));
        for process in &mut snapshot.processes {
            let new = || History::new(process, before, now);
            let history = self.processes.entry(process.info.id).or_insert_with(new);
            history.observe(process, now, self.length);
            process.findings = findings(&history.window(process), snapshot.tool.huge_touch_ratio);
        }
        self.last = Some(now);
    }
}

/// What is to be said of a window, the largest saving first.
fn findings(window: &Window, huge_touch_ratio: Option<f64>) -> Vec<Finding> {
    if !window.is_long() {
        return Vec::new();
    }
    let cycles = if window.is_steady() { cycle::cycles(window) } else { BTreeMap::new() };
    let mut findings = threshold_churn::find(window, &cycles);
    findings.extend(huge_pages::find(window, huge_touch_ratio));
    findings.extend(over_allocation::find(window));
    findings.extend(release_storm::find(window, &cycles));
    findings.sort_by(|a, b| b.recoverable.unwrap_or(0.0).total_cmp(&a.recoverable.unwrap_or(0.0)));
    findings
}
