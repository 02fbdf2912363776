//! A window into what of it was for nothing: memory that was given back although the next allocation could have
//! had it, with the time that its pages were faulted in and given back.

use super::window::{Class, Window, ratio};
use super::worth;
use allocscope_common::key::Allocator;
use std::collections::{BTreeMap, BTreeSet};

/// What the memory of one family of allocations went through for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cycles {
    /// How often memory was given back that could have been kept.
    pub releases: f64,
    /// Nanoseconds in the calls that got it again.
    pub call_ns: f64,
    /// Nanoseconds of faulting it in again.
    pub touch_ns: f64,
    /// Nanoseconds of giving it back.
    pub release_ns: f64,
    /// Bytes that would have to be kept instead: what was live at most, and one more of each class.
    pub kept_bytes: f64,
    /// The classes, as log2 of their sizes.
    pub size_classes: BTreeSet<u8>,
}

impl Cycles {
    /// Nanoseconds of all three.
    pub fn ns(&self) -> f64 {
        self.call_ns + self.touch_ns + self.release_ns
    }

    /// The largest class; there is one where there are cycles.
    pub fn largest_class(&self) -> u8 {
        self.size_classes.last().copied().unwrap_or_default()
    }
}

/// The cycles of a window by family: those worth looking at.
pub fn cycles(window: &Window) -> BTreeMap<Allocator, Cycles> {
    let mut families: BTreeMap<Allocator, Cycles> = BTreeMap::new();
    for ((allocator, size_class), class) in window.memory() {
        add_mapped(families.entry(window.family(allocator)).or_default(), size_class, class);
    }
    if let Some(family) = heap_family(window) {
        add_heap(families.entry(family).or_default(), window);
    }
    families.retain(|_, cycles| cycles.releases >= worth::CYCLES as f64);
    families
}

/// The allocator whose objects' pages were faulted in although no release of their own is seen; of several,
/// that with the most.
fn heap_family(window: &Window) -> Option<Allocator> {
    let mut times = BTreeMap::<Allocator, u64>::new();
    for ((allocator, _), class) in window.heap_classes() {
        let ns = times.entry(window.family(allocator)).or_default();
        *ns = class.real_ns.saturating_add(*ns);
    }
    times.into_iter().max_by_key(|&(_, ns)| ns).map(|(family, _)| family)
}

/// Memory that is mapped and unmapped for each allocation. As many blocks as were live at once have to be got
/// once; every other one could have been one of those.
fn add_mapped(cycles: &mut Cycles, size_class: u8, class: &Class) {
    let pairs = class.call.count.min(class.release.count) as f64;
    let again = (pairs - class.peak_live()).max(0.0);
    if again == 0.0 {
        return;
    }
    let part = again / class.release.count as f64;
    let of_calls = ratio(class.release.count as f64, class.call.count as f64).min(1.0);
    let of_touches = ratio(class.release.count as f64, class.touch.count as f64).min(1.0);
    cycles.releases += again;
    cycles.call_ns += part * of_calls * class.call.time_ns as f64;
    cycles.touch_ns += part * of_touches * class.touch.time_ns as f64;
    cycles.release_ns += part * class.release.time_ns as f64;
    cycles.kept_bytes += class.peak_live_bytes as f64 + class.mean_bytes();
    cycles.size_classes.insert(size_class);
}

/// Memory of a heap that its allocator gives back (`brk`, `madvise`) and faults in again. What was in use at most
/// has to be faulted in once; the rest was there before.
fn add_heap(cycles: &mut Cycles, window: &Window) {
    let (touched, given_back) = (window.heap_touched_bytes(), window.given_back());
    let again = (touched - window.heap_peak_bytes).min(given_back.bytes as f64);
    if again <= 0.0 || touched <= 0.0 {
        return;
    }
    let of_releases = ratio(again, given_back.bytes as f64).min(1.0);
    cycles.releases += of_releases * given_back.count as f64;
    cycles.touch_ns += again / touched * window.heap_touch_ns();
    cycles.release_ns += of_releases * given_back.time_ns as f64;
    cycles.kept_bytes += window.heap_peak_bytes.max(0.0);
    let is_much = |ns: f64| ns >= worth::SHARE * window.heap_touch_ns();
    for ((_, size_class), class) in window.heap_classes().filter(|(_, class)| is_much(class.heap_ns())) {
        cycles.kept_bytes += class.mean_bytes();
        cycles.size_classes.insert(size_class);
    }
}
