//! Where the table of live objects keeps an object, and which of its sets know that it overlaps a granule.
//!
//! Objects of a heap are allocated far more often than memory is mapped, and freed without a call that is
//! probed. So they are not in the hash maps of [`crate::range`] but in two arrays, where a look-up costs a
//! twentieth: an object has two slots to choose from, by its home and first address, or takes that of one that is
//! over, and is entered in one set of four places for each of the at most three granules that it overlaps. A
//! place holds a slot's number and a tag; what it leads to is checked against the object itself, so a place that
//! is out of date costs time and nothing else.

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

/// 2^64 divided by the golden ratio, odd: multiplying by it spreads what differs over the upper bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A live object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Whose it is, see [`home`]; 0 in a free slot.
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
    pub faults: u64,
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

/// The slot in a home.
#[inline(always)]
pub const fn slot_of_home(home: u64) -> u32 {
    ((home >> 32) as u32).wrapping_sub(1)
}

#[inline(always)]
const fn spread(home: u64, word: u64) -> u64 {
    (home.wrapping_mul(SPREAD).rotate_left(32) ^ word).wrapping_mul(SPREAD)
}

/// The two slots of the object at `start`.
#[inline(always)]
pub const fn slots(home: u64, start: u64) -> [u32; 2] {
    let first = (spread(home, start) >> 40) as u32 & (OBJECT_SLOTS - 1);
    [first, first ^ 1]
}

/// Which of its two slots a new object takes, by when the objects in there were filed: a free one, or that of the one
/// filed first.
#[inline(always)]
pub const fn way(filed_ns: [Option<u64>; 2]) -> usize {
    match filed_ns {
        [None, _] => 0,
        [_, None] => 1,
        [Some(first), Some(second)] => (second < first) as usize,
    }
}

/// The name of a granule, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granule {
    hash: u64,
}

impl Granule {
    /// The granule of `class` with number `index`.
    #[inline(always)]
    pub const fn new(home: u64, class: u32, index: u64) -> Self {
        Self { hash: spread(home, index << 6 | class as u64) }
    }

    /// The set with its places.
    #[inline(always)]
    pub const fn set(self) -> u32 {
        (self.hash >> 40) as u32 & (PLACE_SETS - 1)
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
