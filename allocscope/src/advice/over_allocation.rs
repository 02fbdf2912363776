//! A window into findings of memory that is asked for and never touched.

use super::window::{Class, Window, ratio};
use super::worth;
use crate::aggregate::{Figure, Finding, FindingKind, Setting};
use allocscope_common::key::Allocator;

/// One finding for each class of which little is touched. What is known of a range's pages is known when it is
/// released: of objects in a heap, whose release is not seen, nothing is said.
pub fn find(window: &Window) -> Vec<Finding> {
    window
        .memory()
        .filter_map(|((allocator, size_class), class)| {
            finding(window, window.family(allocator), size_class, class)
        })
        .collect()
}

fn finding(window: &Window, family: Allocator, size_class: u8, class: &Class) -> Option<Finding> {
    // With less touches than releases, ranges were released of which nothing is known.
    if class.release.count < worth::CYCLES || class.touch.count < class.release.count {
        return None;
    }
    let share = ratio(class.touch.bytes as f64, class.release.bytes as f64);
    let live_bytes = (class.peak_live_bytes as f64).max(class.mean_bytes());
    let untouched_bytes = live_bytes * (1.0 - share);
    if share > worth::OVER_ALLOCATION_TOUCHED || untouched_bytes < worth::UNTOUCHED_BYTES {
        return None;
    }
    Some(Finding {
        kind: FindingKind::OverAllocation,
        allocator: family,
        size_classes: vec![size_class],
        recoverable: None,
        summary: "most of what is asked for is never touched".to_owned(),
        figures: vec![
            Figure { name: "observed_seconds", value: window.seconds },
            Figure { name: "released_ranges", value: class.release.count as f64 },
            Figure { name: "touched_ratio", value: share },
            Figure { name: "untouched_bytes", value: untouched_bytes },
        ],
        setting: Setting {
            environment: Vec::new(),
            text: "ask for what is needed and grow, or reserve address space alone: mmap with PROT_NONE or \
                   MAP_NORESERVE"
                .to_owned(),
        },
        risk: "growing a block may copy it; until something changes, the untouched bytes count against RLIMIT_AS and, \
               with vm.overcommit_memory=2, against the machine's commit limit"
            .to_owned(),
        check: "Committed_AS in /proc/meminfo and VmSize of the process fall; time does not change".to_owned(),
    })
}
