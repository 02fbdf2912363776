//! Counts of durations into a histogram with classic buckets.

use crate::export::quantile::timed;
use crate::intake::SeriesReading;
use allocscope_common::bucket::bucket_ending_at_pow2_seconds;
use prometheus::proto::{Bucket, Histogram};

/// The exponents of the classic bounds: powers of two of a second from 2^-20 s (0.95 us) to 2^4 s.
/// They coincide with bounds of the buckets counted in, so classic counts are exact.
const CLASSIC_EXPONENTS: std::ops::RangeInclusive<i32> = -20..=4;

/// A histogram with classic buckets. Its count is that of its buckets, so that it agrees with itself
/// where events have no known duration; the families that end in `_total` have them all. The encoder
/// writes the bucket `+Inf` from the count.
pub(super) fn classic_histogram(reading: &SeriesReading) -> Histogram {
    let mut histogram = Histogram::default();
    histogram.set_sample_count(timed(reading));
    histogram.set_sample_sum(reading.totals.time_ns as f64 / 1e9);
    let mut counts = reading.buckets.iter().peekable();
    let mut cumulative = 0;
    for exponent in CLASSIC_EXPONENTS {
        let last = bucket_ending_at_pow2_seconds(exponent).unwrap_or_default();
        while let Some((_, count)) = counts.next_if(|&(&bucket, _)| bucket <= last) {
            cumulative += count;
        }
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(exponent).exp2());
        bucket.set_cumulative_count(cumulative);
        histogram.bucket.push(bucket);
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use allocscope_common::bucket::bucket_of_ns;
    use proptest::prelude::*;

    #[test]
    fn classic_bounds_are_exact() {
        let mut reading = SeriesReading::default();
        // At the bound 2^-10 s = 976562.5 ns: the last ns below it and the first above it.
        for ns in [976_562, 976_563, 0, 17_000_000_000] {
            *reading.buckets.entry(bucket_of_ns(ns)).or_default() += 1;
        }
        let histogram = classic_histogram(&reading);
        let count_at = |bound: f64| {
            let bucket = histogram.bucket.iter().find(|bucket| bucket.upper_bound() == bound);
            bucket.unwrap().cumulative_count()
        };
        assert_eq!(count_at(0.000_000_953_674_316_406_25), 1);
        assert_eq!(count_at(1.0 / 1024.0), 2);
        assert_eq!(count_at(1.0 / 512.0), 3);
        assert_eq!(count_at(16.0), 3);
        assert_eq!(histogram.get_sample_count(), 4);
        assert_eq!(histogram.bucket.len(), 25);
    }

    proptest! {
        #[test]
        fn classic_counts_are_those_of_the_data(
            durations in prop::collection::vec((0u32..40, any::<u64>()), 0..60),
        ) {
            let durations: Vec<u64> = durations.iter().map(|&(shift, bits)| bits >> (24 + shift)).collect();
            let reading = sample::series(&durations, 0);
            for (exponent, bucket) in CLASSIC_EXPONENTS.zip(&classic_histogram(&reading).bucket) {
                // ns / 10^9 <= 2^exponent, in whole numbers.
                let within = |&&ns: &&u64| u128::from(ns) << 20 <= 1_000_000_000u128 << (exponent + 20);
                let exact = durations.iter().filter(within).count();
                prop_assert_eq!(bucket.cumulative_count(), exact as u64, "2^{} s", exponent);
            }
        }
    }
}
