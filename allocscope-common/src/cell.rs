//! A series or a histogram bucket to the word that tells whose a cell of the counting arrays is.
//!
//! A look-up in a hash is 26 ns and one in an array 1.5. So each series, and each bucket of one, has an index from a
//! hash map, which is looked up once and remembered; the word in the cell tells whether it is still the same one's. It
//! lies beside what is counted: each page of memory that an event touches may have to be fetched, and in a program
//! that walks through large blocks mostly does.

use crate::SPREAD;
use crate::counter::Totals;
use crate::key::{BucketKey, SeriesKey};

/// What the kernel side counts of a series on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalsCell {
    /// The series' word; 0 where nothing is counted on this CPU.
    pub owner: u64,
    /// The totals.
    pub totals: Totals,
    /// The longest before the one that is the longest now, in nanoseconds.
    pub former_max_ns: u64,
}

/// What the kernel side counts of a histogram bucket on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountCell {
    /// The bucket's word; 0 where nothing is counted on this CPU.
    pub owner: u64,
    /// Events.
    pub count: u64,
}

/// How many pairs of indices a CPU remembers; a power of two.
pub const RECENT_SLOTS: u32 = 1024;

/// Set in every word: no word is 0, which is nobody's.
const OWNED: u64 = 1 << 56;

/// The word of a series, from its fields.
#[inline(always)]
pub const fn series_word(key: SeriesKey) -> u64 {
    key.word() | OWNED
}

/// The word of a bucket: that of its series, with the bucket where a slot, which is below 65,536, has no bits.
#[inline(always)]
pub const fn bucket_word(key: BucketKey) -> u64 {
    series_word(key.series) | (key.bucket as u64 & 0xffff) << 16
}

/// Where a CPU remembers the indices of a bucket and its series.
#[inline(always)]
pub const fn recent_slot(bucket_word: u64) -> u32 {
    (bucket_word.wrapping_mul(SPREAD) >> 40) as u32 & (RECENT_SLOTS - 1)
}

const _: () = assert!(size_of::<TotalsCell>() == 48);
const _: () = assert!(size_of::<CountCell>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::BUCKET_COUNT;
    use crate::config::MAX_SLOTS;
    use crate::key::{Allocator, FaultKind, FaultScope, Stage};

    extern crate std;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn some_series() -> Vec<SeriesKey> {
        let slots = [0, 1, 255, 65_535];
        assert!(slots.iter().all(|&slot| slot < MAX_SLOTS));
        let stages = slots.into_iter().flat_map(|slot| {
            [0, 16, 63].map(|class| SeriesKey::stage(slot, Allocator::Glibc, Stage::Touch, class))
        });
        let faults = slots.into_iter().flat_map(|slot| {
            [FaultScope::Large, FaultScope::Other]
                .map(|scope| SeriesKey::fault(slot, FaultKind::Minor, scope))
        });
        stages.chain(faults).collect()
    }

    #[test]
    fn words_differ_and_are_never_nobodys() {
        let series = some_series();
        let words: BTreeSet<u64> = series.iter().map(|&key| series_word(key)).collect();
        assert_eq!(words.len(), series.len());
        assert!(!words.contains(&0));
        let buckets: BTreeSet<u64> = series
            .iter()
            .flat_map(|&series| {
                (0..BUCKET_COUNT).map(move |bucket| bucket_word(BucketKey { series, bucket }))
            })
            .collect();
        assert_eq!(buckets.len(), series.len() * BUCKET_COUNT as usize);
        assert!(!buckets.contains(&0));
    }

    #[test]
    fn buckets_of_a_series_are_remembered_apart() {
        let series = SeriesKey::fault(3, FaultKind::Minor, FaultScope::Large);
        let slots: BTreeSet<u32> =
            (160..200).map(|bucket| recent_slot(bucket_word(BucketKey { series, bucket }))).collect();
        assert!(slots.len() > 36, "{} of 40", slots.len());
    }
}
