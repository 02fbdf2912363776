//! Open Go calls by goroutine and stack depth: where a new one goes, and which old ones it shows to be over.

/// Calls that a set has room for. A goroutine needs one, and a second where its call allocates again before
/// it ends.
pub const GO_CALL_WAYS: usize = 2;

/// Number of sets; a power of two.
pub const GO_CALL_SETS: u32 = 16_384;

/// Open calls that may wait while their threads are in others'; a power of two.
pub const PARKED_SLOTS: u32 = 8_192;

/// What names an open call. Goroutines move between threads and stacks move, but a goroutine's `g` and the
/// distance to its stack's upper end stay.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoCallTag {
    /// The goroutine's `g`, 0 in a free place.
    pub g: u64,
    /// tgid in the upper half, bytes of stack in use at the function's entry (at most 4 GiB) in the lower one.
    pub tgid_depth: u64,
}

/// An open large allocation of a goroutine.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoCall {
    /// Which call it is.
    pub tag: GoCallTag,
    /// When it began.
    pub start_ns: u64,
    /// Bytes asked for.
    pub size: u64,
    /// The thread that its goroutine was last seen on, which has its window.
    pub thread: u64,
    /// For how long the world had been stopped in total when it began, and by itself since.
    pub stopped_ns: u64,
    /// When it began to clear the object's memory; 0 where it has not.
    pub zeroing_ns: u64,
    /// Calls that its record is to stand for, see [`crate::allocation`]; 0 where that is not decided, or none is made.
    pub weight: u64,
}

/// Calls whose goroutines share a set.
pub type GoCallSet = [GoCall; GO_CALL_WAYS];

/// What opening a call does to its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Where the call goes.
    pub way: usize,
    /// Whether the other place holds a call that is over, and is to be freed.
    pub frees_other: bool,
    /// How many calls of the same goroutine never ended: a panic or `Goexit` unwound them.
    pub abandoned: u64,
    /// Whether the call in the place may still be open: it is lost.
    pub overwrites: bool,
}

/// The set of a goroutine. They lie at multiples of their struct's size, so the bits are spread by a
/// multiplication (Knuth's multiplicative hashing, 2^64 / phi).
#[inline(always)]
pub const fn set_of(tag: GoCallTag) -> u32 {
    let mixed = (tag.g ^ (tag.tgid_depth >> 32).rotate_left(20)).wrapping_mul(crate::SPREAD);
    (mixed >> 48) as u32 & (GO_CALL_SETS - 1)
}

/// The first or second place (`way` 0 or 1) where a call is parked that began at `start_ns`; spread as in [`set_of`].
#[inline(always)]
pub const fn parking_of(start_ns: u64, way: u32) -> u32 {
    (start_ns.wrapping_mul(crate::SPREAD) >> (48 - 16 * (way & 1))) as u32 & (PARKED_SLOTS - 1)
}

/// Where a call goes in its set, given who is there.
#[inline(always)]
pub const fn opening(ways: [GoCallTag; GO_CALL_WAYS], new: GoCallTag) -> Opening {
    let (over, other_over) = (is_unwound(ways[0], new), is_unwound(ways[1], new));
    let abandoned = over as u64 + other_over as u64;
    if over || ways[0].g == 0 {
        return Opening { way: 0, frees_other: other_over, abandoned, overwrites: false };
    }
    Opening { way: 1, frees_other: false, abandoned, overwrites: !other_over && ways[1].g != 0 }
}

/// Whether an open call cannot be open any more when its goroutine begins a new one: that one's frame lies
/// where the old one's was, or nearer to the stack's beginning.
#[inline(always)]
const fn is_unwound(old: GoCallTag, new: GoCallTag) -> bool {
    let same_goroutine = old.g == new.g && old.tgid_depth >> 32 == new.tgid_depth >> 32;
    same_goroutine && old.tgid_depth >= new.tgid_depth
}

const _: () = assert!(size_of::<GoCall>() == 64);
const _: () = assert!(GO_CALL_SETS.is_power_of_two());
const _: () = assert!(PARKED_SLOTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: GoCallTag = GoCallTag { g: 0, tgid_depth: 0 };

    fn tag(g: u64, depth: u64) -> GoCallTag {
        GoCallTag { g, tgid_depth: 7 << 32 | depth }
    }

    fn opened(way: usize, frees_other: bool, abandoned: u64, overwrites: bool) -> Opening {
        Opening { way, frees_other, abandoned, overwrites }
    }

    #[test]
    fn a_free_place_is_taken() {
        assert_eq!(opening([FREE, FREE], tag(1, 100)), opened(0, false, 0, false));
        assert_eq!(opening([tag(2, 100), FREE], tag(1, 100)), opened(1, false, 0, false));
        assert_eq!(opening([FREE, tag(2, 100)], tag(1, 100)), opened(0, false, 0, false));
    }

    #[test]
    fn a_call_inside_of_another_has_a_place_of_its_own() {
        assert_eq!(opening([tag(1, 100), FREE], tag(1, 300)), opened(1, false, 0, false));
        assert_eq!(opening([tag(1, 100), tag(1, 300)], tag(1, 400)), opened(1, false, 0, true));
    }

    #[test]
    fn a_call_as_deep_or_deeper_than_a_new_one_was_unwound() {
        assert_eq!(opening([tag(1, 100), FREE], tag(1, 100)), opened(0, false, 1, false));
        assert_eq!(opening([tag(1, 300), tag(2, 50)], tag(1, 100)), opened(0, false, 1, false));
        assert_eq!(opening([tag(2, 50), tag(1, 300)], tag(1, 100)), opened(1, false, 1, false));
        assert_eq!(opening([tag(1, 100), tag(1, 300)], tag(1, 100)), opened(0, true, 2, false));
        assert_eq!(opening([tag(1, 100), tag(1, 300)], tag(1, 200)), opened(1, false, 1, false));
    }

    #[test]
    fn the_same_address_in_another_process_is_another_goroutine() {
        let elsewhere = GoCallTag { g: 1, tgid_depth: 8 << 32 | 300 };
        assert_eq!(opening([elsewhere, FREE], tag(1, 100)), opened(1, false, 0, false));
        assert_ne!(set_of(elsewhere), set_of(tag(1, 300)));
        assert_eq!(set_of(tag(1, 100)), set_of(tag(1, 300)));
    }

    #[test]
    fn two_others_leave_no_room() {
        assert_eq!(opening([tag(2, 1), tag(3, 1)], tag(1, 100)), opened(1, false, 0, true));
    }

    #[test]
    fn goroutines_are_spread_over_the_sets() {
        let sets: [u32; 512] = core::array::from_fn(|i| set_of(tag(0xc000_0000_0000 + 448 * i as u64, 100)));
        let shared = sets.iter().enumerate().filter(|(i, set)| sets[..*i].contains(set)).count();
        assert!(shared < 32, "{shared}");
    }
}
