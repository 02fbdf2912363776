//! Which granules cover an address range, and which range of a granule holds an address.
//!
//! A live range of `n` bytes is filed under the granules of size 2^floor(log2(n)) that it overlaps.
//! It overlaps at most three of them, and since every range filed under a class is at least one
//! granule long, a granule overlaps at most two ranges. So filing costs at most three map entries
//! and finding the range of an address costs one look-up for each class in use.

/// Log2 of the smallest granule: a page.
pub const MIN_CLASS: u32 = 12;
/// Log2 of the largest granule; ranges of 2^(MAX_CLASS+1) bytes and more are not filed.
pub const MAX_CLASS: u32 = 43;
/// The most granules that one range overlaps.
pub const MAX_GRANULES: u64 = 3;

/// The granule class (log2 of the granule's size) for a range of `len` bytes; `None` where the
/// range is shorter than a page or too long to be filed.
#[inline(always)]
pub const fn class_of(len: u64) -> Option<u32> {
    if len < 1 << MIN_CLASS || len >= 1 << (MAX_CLASS + 1) {
        return None;
    }
    Some(63 - len.leading_zeros())
}

/// The first and last granule of `class` that `start..end` overlaps; needs `start < end`.
#[inline(always)]
pub const fn granules(start: u64, end: u64, class: u32) -> (u64, u64) {
    (start >> (class & 63), (end - 1) >> (class & 63))
}

/// What a granule knows: the at most two live ranges that overlap it. An empty place has `end` 0.
///
/// Of two ranges in one granule the lower one begins at or before the granule does: beginning later,
/// and being at least a granule long, it would leave no room for another. So the first place is for a
/// range that begins at or before the granule and the second for one that begins inside, and two
/// threads that file neighbours at the same time never write the same place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granule {
    /// The two places.
    pub spans: [Span; 2],
}

/// A half-open address range `start..end`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// One past the last address; 0 in an empty place.
    pub end: u64,
}

const _: () = assert!(size_of::<Granule>() == 32);

impl Span {
    /// Whether `address` lies in the span.
    #[inline(always)]
    pub const fn holds(&self, address: u64) -> bool {
        address >= self.start && address < self.end
    }
}

impl Granule {
    /// The span that holds `address`.
    #[inline(always)]
    pub const fn find(&self, address: u64) -> Option<Span> {
        if self.spans[0].holds(address) {
            Some(self.spans[0])
        } else if self.spans[1].holds(address) {
            Some(self.spans[1])
        } else {
            None
        }
    }

    /// Files `span` in the granule that begins at `granule_start` and returns the span that had its
    /// place: one whose release was not seen, since two live ranges never want the same place.
    #[inline(always)]
    pub const fn insert(&mut self, granule_start: u64, span: Span) -> Option<Span> {
        let old = if span.start <= granule_start {
            let old = self.spans[0];
            self.spans[0] = span;
            old
        } else {
            let old = self.spans[1];
            self.spans[1] = span;
            old
        };
        if old.end != 0 && old.start != span.start { Some(old) } else { None }
    }

    /// Empties the place whose span starts at `start`.
    #[inline(always)]
    pub const fn remove(&mut self, start: u64) {
        if self.spans[0].start == start {
            self.spans[0].end = 0;
        }
        if self.spans[1].start == start {
            self.spans[1].end = 0;
        }
    }

    /// Whether the granule holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.spans[0].end == 0 && self.spans[1].end == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    #[test]
    fn classes_end_where_stated() {
        assert_eq!(class_of(4095), None);
        assert_eq!(class_of(4096), Some(12));
        assert_eq!(class_of(8191), Some(12));
        assert_eq!(class_of((1 << 44) - 1), Some(43));
        assert_eq!(class_of(1 << 44), None);
    }

    /// Files disjoint ranges in a map of granules as the kernel side does, and looks addresses up.
    #[derive(Default)]
    struct Model {
        granules: BTreeMap<(u32, u64), Granule>,
    }

    impl Model {
        fn insert(&mut self, span: Span) -> Option<Span> {
            let class = class_of(span.end - span.start).unwrap();
            let (first, last) = granules(span.start, span.end, class);
            assert!(last - first < MAX_GRANULES);
            let mut evicted = None;
            for index in first..=last {
                evicted =
                    evicted.or(self.granules.entry((class, index)).or_default().insert(index << class, span));
            }
            evicted
        }

        fn remove(&mut self, span: Span) {
            let class = class_of(span.end - span.start).unwrap();
            let (first, last) = granules(span.start, span.end, class);
            for index in first..=last {
                self.granules.get_mut(&(class, index)).unwrap().remove(span.start);
            }
        }

        fn find(&self, address: u64) -> Option<Span> {
            (MIN_CLASS..=MAX_CLASS)
                .find_map(|class| self.granules.get(&(class, address >> class)).and_then(|g| g.find(address)))
        }
    }

    proptest! {
        /// Disjoint page-granular ranges of any sizes: no eviction, each address finds its own range.
        #[test]
        fn disjoint_ranges_never_evict_and_are_always_found(
            steps in prop::collection::vec((0u64..64, prop_oneof![1u64..5, 8u64..40, 1u64..5000]), 1..80)
        ) {
            let mut model = Model::default();
            let mut spans = Vec::new();
            let mut at = 0x7000_0000_0000u64;
            for (gap, pages) in steps {
                at += gap * 4096;
                let span = Span { start: at, end: at + pages * 4096 };
                at = span.end;
                prop_assert_eq!(model.insert(span), None);
                spans.push(span);
            }
            for span in &spans {
                for address in [span.start, (span.start + span.end) / 2, span.end - 1] {
                    prop_assert_eq!(model.find(address), Some(*span));
                }
            }
            let (gone, kept): (Vec<_>, Vec<_>) = spans.iter().enumerate().partition(|(i, _)| i % 2 == 0);
            for (_, span) in &gone {
                model.remove(**span);
            }
            for (_, span) in &gone {
                prop_assert_eq!(model.find(span.start), None);
            }
            for (_, span) in &kept {
                prop_assert_eq!(model.find(span.start), Some(**span));
                model.remove(**span);
            }
            prop_assert!(model.granules.values().all(Granule::is_empty));
        }

        /// A range whose release was not seen gives way where a new one wants its place, and an
        /// address of the new range never finds the old one first.
        #[test]
        fn a_new_range_is_found_whatever_is_stale(old in 0u64..32, new in 0u64..32, len in 16u64..32) {
            let base = 0x4000_0000u64;
            let stale = Span { start: base + old * 4096, end: base + (old + len) * 4096 };
            let fresh = Span { start: base + new * 4096, end: base + (new + len) * 4096 };
            let mut model = Model::default();
            model.insert(stale);
            model.insert(fresh);
            for address in [fresh.start, fresh.end - 1] {
                let found = model.find(address).unwrap();
                // The kernel side asks the map of ranges whether a found range still lives.
                prop_assert!(found == fresh || found == stale && stale.holds(address));
            }
        }
    }
}
