//! A window into findings of first touch that huge pages would make cheaper.

use super::setting;
use super::window::{Class, Window};
use super::worth;
use crate::aggregate::{Figure, Finding, FindingKind};
use allocscope_common::key::Allocator;
use std::collections::BTreeMap;

const HUGE_PAGE_BYTES: f64 = (2 << 20) as f64;

/// What a family's first touches would save.
#[derive(Default)]
struct Saving {
    touch_ns: f64,
    saved_ns: f64,
    touches: u64,
    size_classes: Vec<u8>,
}

/// One finding for each family that would save enough. `ratio` is the time of first touch by huge pages in parts
/// of that by small ones; without it there are none to be had.
pub fn find(window: &Window, ratio: Option<f64>) -> Vec<Finding> {
    let Some(ratio) = ratio.filter(|ratio| *ratio < 1.0) else { return Vec::new() };
    let mut families: BTreeMap<Allocator, Saving> = BTreeMap::new();
    for ((allocator, size_class), class) in window.memory() {
        let share = covered(window, size_class, class);
        if share > 0.0 {
            let saving = families.entry(window.family(allocator)).or_default();
            saving.touch_ns += class.touch.time_ns as f64;
            saving.saved_ns += class.touch.time_ns as f64 * share * (1.0 - ratio);
            saving.touches += class.touch.count;
            saving.size_classes.push(size_class);
        }
    }
    families.retain(|_, saving| is_worth_it(window, saving));
    families.into_iter().map(|(family, saving)| finding(window, family, saving, ratio)).collect()
}

fn is_worth_it(window: &Window, saving: &Saving) -> bool {
    saving.touches >= worth::CYCLES && window.per_second(saving.saved_ns) >= worth::RECOVERABLE
}

/// The part of a class' first touches that huge pages would serve: those that lie whole in a block at the worst
/// alignment. None where the blocks are small, hardly touched, or have huge pages already.
fn covered(window: &Window, size_class: u8, class: &Class) -> f64 {
    let mean_bytes = class.mean_bytes();
    let asked_bytes = mean_bytes * class.touch.count as f64;
    let is_dense = class.touch.bytes as f64 >= worth::HUGE_PAGE_TOUCHED * asked_bytes;
    if size_class < worth::HUGE_PAGE_CLASS || asked_bytes == 0.0 || !is_dense || !window.has_small_pages() {
        return 0.0;
    }
    ((mean_bytes / HUGE_PAGE_BYTES).floor() - 1.0).max(0.0) * HUGE_PAGE_BYTES / mean_bytes
}

fn finding(window: &Window, family: Allocator, mut saving: Saving, ratio: f64) -> Finding {
    saving.size_classes.sort_unstable();
    saving.size_classes.dedup();
    Finding {
        kind: FindingKind::HugePages,
        allocator: family,
        size_classes: saving.size_classes,
        recoverable: Some(window.per_second(saving.saved_ns)),
        summary: "these blocks are faulted in by pages of 4 KiB; by pages of 2 MiB it would take a part of the time"
            .to_owned(),
        figures: vec![
            Figure { name: "observed_seconds", value: window.seconds },
            Figure { name: "touched_ranges", value: saving.touches as f64 },
            Figure { name: "touch_seconds_per_second", value: window.per_second(saving.touch_ns) },
            Figure { name: "huge_touch_ratio", value: ratio },
        ],
        setting: setting::huge_pages(family),
        risk: "a page of 2 MiB becomes real as a whole, so that memory grows where blocks are touched in parts; one \
               fault takes some 100 us, and far longer where the kernel has to compact memory for it"
            .to_owned(),
        check: "AnonHugePages in /proc/PID/smaps_rollup grows, page faults in large ranges fall to a 500th, and \
                touch of these sizes with them"
            .to_owned(),
    }
}
