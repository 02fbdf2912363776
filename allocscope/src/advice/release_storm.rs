//! Cycles and releases into a finding: giving memory back takes a lot of time, or makes threads wait.

use super::cycle::Cycles;
use super::setting;
use super::window::{Window, sum};
use super::worth;
use crate::aggregate::{Figure, Finding, FindingKind, Setting};
use allocscope_common::counter::Totals;
use allocscope_common::key::Allocator;
use std::collections::BTreeMap;

/// At most one: `mmap_lock` is the process'. It names the family whose releases take the most time.
pub fn find(window: &Window, cycles: &BTreeMap<Allocator, Cycles>) -> Vec<Finding> {
    let releases = releases(window);
    let waited = window.rate(window.mmap_lock_ns as f64);
    let spent = window.per_second(releases.time_ns as f64);
    let is_storm = spent >= worth::STORM || (waited >= worth::RECOVERABLE && spent >= worth::RECOVERABLE);
    let worst = cycles.iter().max_by(|a, b| a.1.release_ns.total_cmp(&b.1.release_ns));
    let Some((&family, worst)) = worst.filter(|_| is_storm) else { return Vec::new() };
    let needless: f64 = cycles.values().map(|cycles| cycles.release_ns).sum();
    let recoverable = window.per_second(needless) + waited;
    if recoverable < worth::RECOVERABLE {
        return Vec::new();
    }
    vec![finding(window, family, worst, recoverable, releases)]
}

/// All that gives memory back.
fn releases(window: &Window) -> Totals {
    let of_classes = window.classes.iter().filter(|((allocator, _), _)| *allocator != Allocator::File);
    let partial =
        Totals { count: window.partial_releases, time_ns: window.partial_release_ns, ..Totals::default() };
    of_classes.map(|(_, class)| class.release).fold(partial, sum)
}

fn finding(window: &Window, family: Allocator, worst: &Cycles, recoverable: f64, all: Totals) -> Finding {
    let per_second = |name, ns| Figure { name, value: window.per_second(ns) };
    let advice = setting::keep(family, worst);
    Finding {
        kind: FindingKind::ReleaseStorm,
        allocator: family,
        size_classes: worst.size_classes.iter().copied().collect(),
        recoverable: Some(recoverable),
        summary: "giving memory back takes a lot of time, and keeps other threads from faulting and mapping meanwhile"
            .to_owned(),
        figures: vec![
            Figure { name: "observed_seconds", value: window.seconds },
            Figure { name: "releases", value: all.count as f64 },
            Figure { name: "released_bytes", value: all.bytes as f64 },
            per_second("release_seconds_per_second", all.time_ns as f64),
            Figure {
                name: "mmap_lock_seconds_per_second",
                value: window.rate(window.mmap_lock_ns as f64),
            },
        ],
        setting: Setting {
            environment: advice.setting.environment,
            text: "what keeps the memory ends its releases, see threshold_churn; else release rarely and in large \
                   pieces"
                .to_owned(),
        },
        risk: format!(
            "{}; releasing from another thread does not help, since the lock is the whole process'",
            advice.risk
        ),
        check: "release of these sizes and the cause mmap_lock of allocscope_stall_seconds_total fall".to_owned(),
    }
}
