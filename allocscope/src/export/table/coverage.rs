//! What was attached, missed and lost into lines that say how much was seen.

use super::number::{duration, share};
use super::plain::plain;
use crate::aggregate::{ProcessSnapshot, Snapshot};
use crate::export::rows::attributed_faults;
use allocscope_common::key::FaultKind;
use std::fmt::Write;

pub(super) fn coverage(process: &ProcessSnapshot) -> String {
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
pub(super) fn lost(snapshot: &Snapshot) -> String {
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
