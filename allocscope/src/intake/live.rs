//! Live ranges and objects into what is told of them: how many, their size, what was touched so far.

use super::Name;
use crate::probe::{MappedArray, WholeMap};
use allocscope_common::counter::LiveRange;
use allocscope_common::key::{Allocator, RangeKey, size_class, slot_of_space};
use allocscope_common::object::{Object, slot_of_home};
use allocscope_common::touch::{Touch, index_of, touched_bytes};
use anyhow::{Context, Result};
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

/// The first touch so far of a live range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which one.
    pub name: Name,
    /// Time of its page faults, in nanoseconds.
    pub touch_ns: u64,
    /// Its page faults.
    pub faults: u64,
}

/// What a live range lies in.
#[derive(Clone, Copy)]
enum Place {
    /// The address space of this number.
    Space(u32),
    /// The home of this number.
    Home(u64),
}

impl Place {
    fn slot(self) -> u32 {
        match self {
            Self::Space(space) => slot_of_space(space),
            Self::Home(home) => slot_of_home(home),
        }
    }
}

/// The maps of live ranges.
pub(super) struct LiveMaps {
    ranges: WholeMap<RangeKey, LiveRange>,
    touches: MappedArray<Touch>,
    objects: MappedArray<Object>,
}

impl LiveMaps {
    /// Before the maps are taken out of `ebpf`.
    ///
    /// # Errors
    /// Where the object lacks one, or the kernel does not let it be mapped.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self> {
        let map =
            |name: &str| ebpf.map(name).with_context(|| format!("the kernel side lacks the map {name}"));
        let array = |name: &'static str| move || format!("the map {name} cannot be mapped");
        Ok(Self {
            ranges: WholeMap::of(map("RANGES")?).context("the map RANGES cannot be read")?,
            touches: MappedArray::of(map("TOUCHES")?).with_context(array("TOUCHES"))?,
            objects: MappedArray::of(map("OBJECTS")?).with_context(array("OBJECTS"))?,
        })
    }

    /// By slot. `is_here` tells of a slot and an address space's number whether that is the slot's, as
    /// `home_is_here` does of a home.
    pub(super) fn read(
        &self,
        is_here: impl Fn(u32, u32) -> bool,
        home_is_here: impl Fn(u32, u64) -> bool,
    ) -> BTreeMap<u32, LiveReading> {
        let mut slots = BTreeMap::new();
        self.for_each(|place, range| {
            let slot = place.slot();
            let is_here = match place {
                Place::Space(space) => is_here(slot, space),
                Place::Home(home) => home_is_here(slot, home),
            };
            if is_here {
                add(&mut slots, slot, range);
            }
        });
        slots
    }

    /// Those that were touched.
    pub(super) fn touched(&self) -> Vec<Live> {
        let mut live = Vec::new();
        self.for_each(|place, &LiveRange { filed_ns, touch_ns, faults, .. }| {
            if faults > 0 || touch_ns > 0 {
                let name = Name { slot: place.slot(), filed_ns };
                live.push(Live { name, touch_ns, faults: u64::from(faults) });
            }
        });
        live
    }

    /// Calls `each` with every range, its faults counted in.
    fn for_each(&self, mut each: impl FnMut(Place, &LiveRange)) {
        for (key, range) in self.ranges.entries(|_, _| true) {
            let touch = self.touches.get(index_of(key.space, key.index) as usize);
            each(Place::Space(key.space), &with_touch(key, range, touch));
        }
        for object in self.objects.iter().filter(|object| object.home != 0) {
            each(Place::Home(object.home), &range_of(&object));
        }
    }
}

/// A range with the faults that are counted beside it.
fn with_touch(key: RangeKey, mut range: LiveRange, touch: Option<Touch>) -> LiveRange {
    if let Some(touch) = touch.filter(|touch| touch.start == key.index && touch.space == u64::from(key.space))
    {
        range.touch_ns = range.touch_ns.saturating_add(touch.ns);
        range.faults = range.faults.saturating_add(touch.faults);
        range.more_pages = range.more_pages.saturating_add(touch.more_pages);
    }
    range
}

fn range_of(object: &Object) -> LiveRange {
    let Object { end, size, touch_ns, faults, more_pages, filed_ns, allocator, .. } = *object;
    LiveRange { end, size, touch_ns, faults, more_pages, filed_ns, allocator }
}

fn add(slots: &mut BTreeMap<u32, LiveReading>, slot: u32, range: &LiveRange) {
    let allocator = Allocator::from_number(range.allocator as u8);
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
    use allocscope_common::allocation::MARKED;
    use allocscope_common::touch::hugetlb_word;

    #[test]
    fn ranges_are_summed_by_class_and_files_left_out() {
        let range = |size, allocator| LiveRange {
            size,
            touch_ns: 5,
            faults: 2,
            more_pages: 511,
            allocator,
            ..LiveRange::default()
        };
        let mut slots = BTreeMap::new();
        for (size, mark) in [(1 << 20, 0), ((1 << 20) + 9, MARKED | hugetlb_word(u64::MAX, 21))] {
            add(&mut slots, 3, &range(size, Allocator::Mmap as u64 | mark));
        }
        add(&mut slots, 3, &range(1 << 20, Allocator::File as u64));
        add(&mut slots, 3, &LiveRange { allocator: 255, ..LiveRange::default() });
        let expected =
            LiveTotals { ranges: 2, bytes: (2 << 20) + 9, touched_bytes: 2 * 513 * 4096, touch_ns: 10 };
        assert_eq!(slots, BTreeMap::from([(3, BTreeMap::from([((Allocator::Mmap, 20), expected)]))]));
    }
}
