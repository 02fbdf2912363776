//! A granule into the places where the table of live objects names the objects that overlap it, and back.
//!
//! Objects of a heap are allocated far more often than memory is mapped, and freed without a call that is
//! probed. So they are not in the hash maps of [`crate::range`] but in two arrays, where a look-up costs a
//! twentieth: an object has any slot that is free, and is entered in one set of four places for each of the at most
//! three granules that it overlaps. A place holds a slot's number and a tag; what it leads to is checked
//! against the object itself, so a place that is out of date costs time and nothing else.

use crate::SPREAD;
use crate::range::{Span, granules};

/// Slots for live objects; a power of two.
pub const OBJECT_SLOTS: u32 = 32_768;
/// Sets of places; a power of two.
pub const PLACE_SETS: u32 = 32_768;
/// Places in a set.
pub const WAYS: usize = 4;

/// The places of some granules, [`EMPTY`] or made by [`Granule::place`].
pub type PlaceSet = [u64; WAYS];

/// A place that leads nowhere.
pub const EMPTY: u64 = 0;

/// A live object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Whose it is, see [`home`]; 0 in a free slot, [`CLAIMED`] for a moment before it is anybody's.
    pub home: u64,
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Bytes that were asked for.
    pub size: u64,
    /// Time of its page faults so far, in nanoseconds.
    pub touch_ns: u64,
    /// Its page faults so far.
    pub faults: u32,
    /// Pages of 4 KiB that they made real, beyond one for each.
    pub more_pages: u32,
    /// When it was filed, in nanoseconds. Of two that hold an address the later one is live.
    pub filed_ns: u64,
    /// [`crate::key::Allocator`] as a number.
    pub allocator: u64,
}

const _: () = assert!(size_of::<Object>() == 64);

impl Object {
    /// Its addresses.
    #[inline(always)]
    pub const fn span(&self) -> Span {
        Span { start: self.start, end: self.end }
    }
}

/// An image of a process: its slot, and the slot's count of images. Never 0.
#[inline(always)]
pub const fn home(slot: u32, image: u32) -> u64 {
    (slot as u64 + 1) << 32 | image as u64
}

/// In place of a home: a thread that files an object has the slot for itself. No process' slot is in it.
pub const CLAIMED: u64 = 1;

/// The slot in a home.
#[inline(always)]
pub const fn slot_of_home(home: u64) -> u32 {
    ((home >> 32) as u32).wrapping_sub(1)
}

#[inline(always)]
const fn spread(home: u64, word: u64) -> u64 {
    (home.wrapping_mul(SPREAD).rotate_left(32) ^ word).wrapping_mul(SPREAD)
}

/// How many granules, one after the other, have sets that lie one after the other: those of one object are mostly on
/// one page of the machine's memory, which matters more than all that is computed here. A power of two.
const NEIGHBOURS: u64 = 16;

/// The name of a granule, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granule {
    hash: u64,
    /// Its number among its neighbours.
    number: u32,
}

impl Granule {
    /// The granule of `class` with number `index`.
    #[inline(always)]
    pub const fn new(home: u64, class: u32, index: u64) -> Self {
        let hash = spread(home, (index & !(NEIGHBOURS - 1)) << 6 | class as u64);
        Self { hash, number: (index & (NEIGHBOURS - 1)) as u32 }
    }

    /// The set with its places.
    #[inline(always)]
    pub const fn set(self) -> u32 {
        (self.hash >> 40) as u32 & (PLACE_SETS - 1) & !(NEIGHBOURS as u32 - 1) | self.number
    }

    /// The word of a place that leads to the object in `slot`; never [`EMPTY`].
    #[inline(always)]
    pub const fn place(self, slot: u32) -> u64 {
        (self.hash | 1) << 32 | slot as u64
    }

    /// The slot that `place` leads to; `None` where it is another granule's, or empty.
    #[inline(always)]
    pub const fn slot(self, place: u64) -> Option<u32> {
        if place >> 32 == (self.hash | 1) & 0xffff_ffff { Some(place as u32) } else { None }
    }
}

/// The granule with number `step` of those that `start..end` overlaps; `None` past the last.
#[inline(always)]
pub const fn granule(home: u64, start: u64, end: u64, class: u32, step: u64) -> Option<Granule> {
    let (first, last) = granules(start, end, class);
    if first + step > last { None } else { Some(Granule::new(home, class, first + step)) }
}

/// Whether two half-open address ranges have an address in common.
#[inline(always)]
pub const fn overlap(a: Span, b: Span) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{MAX_CLASS, MAX_GRANULES, MIN_CLASS, class_of};
    use proptest::prelude::*;

    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const BASE: u64 = 0x7000_0000_0000;

    #[test]
    fn homes_keep_their_slot_and_are_never_free() {
        for (slot, image) in [(0, 0), (0, u32::MAX), (65_535, 7)] {
            assert_ne!(home(slot, image), 0);
            assert_eq!(slot_of_home(home(slot, image)), slot);
        }
        assert_ne!(home(1, 0), home(1, 1));
        for no_home in [0, CLAIMED] {
            assert_eq!(slot_of_home(no_home), u32::MAX);
        }
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let span = |start, end| Span { start, end };
        assert!(!overlap(span(1, 2), span(2, 3)) && !overlap(span(2, 3), span(1, 2)));
        assert!(overlap(span(1, 4), span(2, 3)) && overlap(span(2, 3), span(1, 4)));
    }

    /// Sixteen thousand objects of 64 KiB, one beside the other: few sets have more places than ways.
    #[test]
    fn neighbours_spread_over_the_sets() {
        let mut filled = BTreeMap::<u32, usize>::new();
        for index in 0..16_384 {
            *filled.entry(Granule::new(home(3, 1), 16, (BASE >> 16) + index).set()).or_default() += 1;
        }
        let too_full = filled.values().filter(|&&places| places > WAYS).count();
        assert!(too_full < 16, "{too_full} sets");
    }

    /// Files objects under granules, as the kernel side does, and looks addresses up.
    #[derive(Default)]
    struct Model {
        objects: Vec<Object>,
        sets: BTreeMap<u32, Vec<u64>>,
    }

    impl Model {
        fn file(&mut self, object: Object) {
            let slot = self.objects.len() as u32;
            let class = class_of(object.end - object.start).unwrap();
            for step in 0..MAX_GRANULES {
                if let Some(granule) = granule(object.home, object.start, object.end, class, step) {
                    self.sets.entry(granule.set()).or_default().push(granule.place(slot));
                }
            }
            assert_eq!(granule(object.home, object.start, object.end, class, MAX_GRANULES), None);
            self.objects.push(object);
        }

        /// What holds `address`, filed last.
        fn find(&self, home: u64, address: u64) -> Option<Object> {
            let holding = (MIN_CLASS..=MAX_CLASS).flat_map(|class| {
                let granule = Granule::new(home, class, address >> class);
                let places = self.sets.get(&granule.set()).into_iter().flatten();
                places.filter_map(move |&place| granule.slot(place))
            });
            let objects = holding.map(|slot| self.objects[slot as usize]);
            objects.filter(|o| o.home == home && o.span().holds(address)).max_by_key(|o| o.filed_ns)
        }
    }

    proptest! {
        #[test]
        fn a_place_leads_to_its_slot(
            index in 0u64..1 << 45, class in MIN_CLASS..=MAX_CLASS, slot in 0..OBJECT_SLOTS, image in any::<u32>()
        ) {
            let granule = Granule::new(home(9, image), class, index);
            prop_assert!(granule.set() < PLACE_SETS);
            prop_assert_ne!(granule.place(slot), EMPTY);
            prop_assert_eq!(granule.slot(granule.place(slot)), Some(slot));
            prop_assert_eq!(granule.slot(EMPTY), None);
        }

        /// Objects that overlap in any way, of two images: each address finds what was filed there last.
        #[test]
        fn the_newest_object_at_an_address_is_found(
            filed in prop::collection::vec((0u64..400, 1u64..200, 0u32..2), 1..60),
            at in prop::collection::vec(0u64..600 * 4096, 50)
        ) {
            let mut model = Model::default();
            for (number, (page, pages, image)) in (1..).zip(&filed) {
                let start = BASE + page * 4096;
                let end = start + pages * 4096;
                let home = home(5, *image);
                model.file(Object { home, start, end, filed_ns: number, ..Object::default() });
            }
            for (address, image) in at.iter().flat_map(|at| [(BASE + at, 0), (BASE + at, 1)]) {
                let holding = model.objects.iter().filter(|o| o.home == home(5, image));
                let newest = holding.filter(|o| o.span().holds(address)).max_by_key(|o| o.filed_ns);
                prop_assert_eq!(model.find(home(5, image), address), newest.copied());
            }
        }
    }
}
