//! Live ranges and objects into what is told of them: how many, their size, what was touched so far.

use crate::probe::WholeMap;
use allocscope_common::counter::LiveRange;
use allocscope_common::key::{Allocator, RangeKey, size_class, slot_of_space};
use allocscope_common::object::{Object, slot_of_home};
use allocscope_common::touch::touched_bytes;
use aya::Ebpf;
use std::collections::BTreeMap;

/// Live ranges of an allocator's size class: neither released nor known to be over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveTotals {
    /// How many.
    pub ranges: u64,
    /// Bytes that were asked for.
    pub bytes: u64,
    /// Bytes that their page faults made real so far.
    pub touched_bytes: u64,
    /// Time of these faults, in nanoseconds.
    pub touch_ns: u64,
}

/// Of a process, by allocator and size class.
pub type LiveReading = BTreeMap<(Allocator, u8), LiveTotals>;

/// The maps of live ranges.
pub(super) struct LiveMaps {
    ranges: Option<WholeMap<RangeKey, LiveRange>>,
    objects: Option<WholeMap<u32, Object>>,
}

impl LiveMaps {
    /// Before the maps are taken out of `ebpf`.
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        Self {
            ranges: ebpf.map("RANGES").and_then(WholeMap::of),
            objects: ebpf.map("OBJECTS").and_then(WholeMap::of),
        }
    }

    /// By slot. `is_here` tells of a slot and an address space's number whether that is the slot's, as
    /// `home_is_here` does of a home.
    pub(super) fn read(
        &self,
        is_here: impl Fn(u32, u32) -> bool,
        home_is_here: impl Fn(u32, u64) -> bool,
    ) -> BTreeMap<u32, LiveReading> {
        let mut slots = BTreeMap::new();
        let of_ranges = self.ranges.iter().map(|ranges| {
            ranges.for_each(|key, range| {
                let slot = slot_of_space(key.space);
                if is_here(slot, key.space) {
                    add(&mut slots, slot, range);
                }
            })
        });
        let failed = of_ranges.filter_map(Result::err).next();
        let of_objects = self.objects.iter().map(|objects| {
            objects.for_each(|_, object| {
                let slot = slot_of_home(object.home);
                if object.home != 0 && home_is_here(slot, object.home) {
                    add(&mut slots, slot, &range_of(object));
                }
            })
        });
        if let Some(error) = of_objects.filter_map(Result::err).next().or(failed) {
            log::warn!("live ranges cannot be read: {error}");
        }
        slots
    }
}

fn range_of(object: &Object) -> LiveRange {
    let Object { end, size, touch_ns, faults, more_pages, filed_ns, allocator, .. } = *object;
    LiveRange { end, size, touch_ns, faults, more_pages, filed_ns, allocator }
}

fn add(slots: &mut BTreeMap<u32, LiveReading>, slot: u32, range: &LiveRange) {
    let allocator = u8::try_from(range.allocator).ok().and_then(Allocator::from_number);
    let Some(allocator) = allocator.filter(|&allocator| allocator != Allocator::File) else { return };
    let class = slots.entry(slot).or_default().entry((allocator, size_class(range.size))).or_default();
    class.ranges += 1;
    class.bytes = class.bytes.saturating_add(range.size);
    class.touched_bytes += touched_bytes(range.faults, range.more_pages);
    class.touch_ns = class.touch_ns.saturating_add(range.touch_ns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_summed_by_class_and_files_left_out() {
        let range = |size, allocator| LiveRange {
            size,
            touch_ns: 5,
            faults: 2,
            more_pages: 511,
            allocator: allocator as u64,
            ..LiveRange::default()
        };
        let mut slots = BTreeMap::new();
        for size in [1 << 20, (1 << 20) + 9] {
            add(&mut slots, 3, &range(size, Allocator::Mmap));
        }
        add(&mut slots, 3, &range(1 << 20, Allocator::File));
        add(&mut slots, 3, &LiveRange { allocator: 255, ..LiveRange::default() });
        let expected =
            LiveTotals { ranges: 2, bytes: (2 << 20) + 9, touched_bytes: 2 * 513 * 4096, touch_ns: 10 };
        assert_eq!(slots, BTreeMap::from([(3, BTreeMap::from([((Allocator::Mmap, 20), expected)]))]));
    }
}
