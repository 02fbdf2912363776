//! Cycles into findings: memory that is mapped, faulted in and given back again and again.

use super::cycle::Cycles;
use super::setting;
use super::window::Window;
use super::worth;
use crate::aggregate::{Figure, Finding, FindingKind};
use allocscope_common::key::Allocator;
use std::collections::BTreeMap;

/// One finding for each family that would save enough.
pub fn find(window: &Window, cycles: &BTreeMap<Allocator, Cycles>) -> Vec<Finding> {
    let worth_it = |cycles: &&Cycles| window.per_second(cycles.ns()) >= worth::RECOVERABLE;
    cycles
        .iter()
        .filter(|(_, cycles)| worth_it(cycles))
        .map(|(&family, cycles)| finding(window, family, cycles))
        .collect()
}

fn finding(window: &Window, family: Allocator, cycles: &Cycles) -> Finding {
    let advice = setting::keep(family, cycles);
    Finding {
        kind: FindingKind::ThresholdChurn,
        allocator: family,
        size_classes: cycles.size_classes.iter().copied().collect(),
        recoverable: Some(window.per_second(cycles.ns())),
        summary: "memory is given back and faulted in again that the next allocation could have had"
            .to_owned(),
        figures: figures(window, cycles),
        setting: advice.setting,
        risk: format!("up to {:.0} MiB stay in use; {}", cycles.kept_bytes / f64::from(1 << 20), advice.risk),
        check: "with it, touch and release of these sizes are gone from the report of the same work, and \
                `allocscope advise` does not tell this any more"
            .to_owned(),
    }
}

fn figures(window: &Window, cycles: &Cycles) -> Vec<Figure> {
    let per_second = |name, ns| Figure { name, value: window.per_second(ns) };
    vec![
        Figure { name: "observed_seconds", value: window.seconds },
        Figure { name: "releases", value: cycles.releases },
        per_second("call_seconds_per_second", cycles.call_ns),
        per_second("touch_seconds_per_second", cycles.touch_ns),
        per_second("release_seconds_per_second", cycles.release_ns),
        Figure { name: "waited_for_cpu_ratio", value: window.runnable },
        Figure { name: "kept_bytes", value: cycles.kept_bytes },
    ]
}
