//! A series' exponential buckets into percentiles, for viewers; histograms themselves leave whole.

use crate::intake::SeriesReading;
use allocscope_common::bucket::{BUCKETS_PER_OCTAVE, TICKS_PER_SECOND_LOG2, last_tick_of};

/// The `q`-quantile of a series' durations, in nanoseconds, for `q` in 0 to 1; `None` where no
/// duration is known.
///
/// It is off by less than a bucket's width, 2^(1/8) - 1 or 9.1 %, and never above the longest duration.
pub fn quantile_ns(series: &SeriesReading, q: f64) -> Option<f64> {
    let timed = timed(series);
    if timed == 0 {
        return None;
    }
    let longest = series.totals.max_ns as f64;
    let rank = ((q.clamp(0.0, 1.0) * timed as f64).ceil() as u64).clamp(1, timed);
    if rank == timed {
        return Some(longest);
    }
    let mut below = 0;
    for (&bucket, &count) in &series.buckets {
        if below + count >= rank {
            // The middle of the rank's share of the bucket: neither end is more likely.
            let within = ((rank - below) as f64 - 0.5) / count as f64;
            return Some(interpolate_ns(bucket, within).min(longest));
        }
        below += count;
    }
    Some(longest)
}

/// No less than the `q`-quantile of all a series' durations: the upper bound of its bucket, which is up to 9.1 %
/// more, or the longest duration where that is less. Events without a known duration count as the longest of all;
/// `None` where the quantile is one of these, or there is no event.
pub fn upper_quantile_ns(series: &SeriesReading, q: f64) -> Option<f64> {
    let events = series.totals.count;
    let rank = ((q.clamp(0.0, 1.0) * events as f64).ceil() as u64).max(1);
    let mut counted = 0;
    for (&bucket, &count) in &series.buckets {
        counted += count;
        if counted >= rank {
            let upper_ns = last_tick_of(bucket)? as f64 * 1e9 / f64::from(TICKS_PER_SECOND_LOG2).exp2();
            return Some(upper_ns.min(series.totals.max_ns as f64));
        }
    }
    None
}

/// Several series as one.
pub fn merged<'a>(all: impl Iterator<Item = &'a SeriesReading>) -> SeriesReading {
    all.fold(SeriesReading::default(), |mut sum, series| {
        sum.totals.count = sum.totals.count.saturating_add(series.totals.count);
        sum.totals.bytes = sum.totals.bytes.saturating_add(series.totals.bytes);
        sum.totals.time_ns = sum.totals.time_ns.saturating_add(series.totals.time_ns);
        sum.totals.max_ns = sum.totals.max_ns.max(series.totals.max_ns);
        for (&bucket, &count) in &series.buckets {
            *sum.buckets.entry(bucket).or_default() += count;
        }
        sum
    })
}

/// How many durations of a series are in its histogram.
pub fn timed(series: &SeriesReading) -> u64 {
    series.buckets.values().sum()
}

/// Nanoseconds at the part `within` (0 to 1) of a bucket. Its bounds are 2^(1/8) apart, so the
/// distance is taken on a logarithmic scale; bucket 0 has no lower bound to do that from.
fn interpolate_ns(bucket: u32, within: f64) -> f64 {
    let per_octave = f64::from(BUCKETS_PER_OCTAVE);
    let ticks = match bucket.checked_sub(1) {
        Some(lower) => ((f64::from(lower) + within) / per_octave).exp2(),
        None => within,
    };
    ticks * 1e9 / f64::from(TICKS_PER_SECOND_LOG2).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocscope_common::bucket::bucket_of_ns;
    use proptest::prelude::*;

    fn series(durations_ns: &[u64]) -> SeriesReading {
        let mut series = SeriesReading::default();
        for &ns in durations_ns {
            series.totals.count += 1;
            series.totals.time_ns += ns;
            series.totals.max_ns = series.totals.max_ns.max(ns);
            *series.buckets.entry(bucket_of_ns(ns)).or_default() += 1;
        }
        series
    }

    /// The nearest-rank quantile of the data itself.
    fn exact(sorted: &[u64], q: f64) -> f64 {
        let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
        sorted[rank - 1] as f64
    }

    #[test]
    fn nothing_timed_has_no_quantile() {
        assert_eq!(quantile_ns(&SeriesReading::default(), 0.5), None);
        let mut untimed = SeriesReading::default();
        untimed.totals.count = 7;
        assert_eq!(quantile_ns(&untimed, 0.5), None);
    }

    #[test]
    fn a_single_duration_and_the_longest_are_exact() {
        assert_eq!(quantile_ns(&series(&[16_123]), 0.5), Some(16_123.0));
        assert_eq!(quantile_ns(&series(&[10, 900, 24_000_000]), 1.0), Some(24_000_000.0));
        assert_eq!(quantile_ns(&series(&[0, 0, 0]), 0.5), Some(0.0));
    }

    #[test]
    fn never_above_the_longest() {
        let series = series(&[1000; 100]);
        assert!(quantile_ns(&series, 0.99).unwrap() <= 1000.0);
    }

    #[test]
    fn odd_arguments_are_clamped() {
        let series = series(&[1000, 2000]);
        assert_eq!(quantile_ns(&series, 7.0), Some(2000.0));
        assert!(quantile_ns(&series, -1.0).unwrap() <= 1001.0);
        assert!(quantile_ns(&series, f64::NAN).unwrap() <= 1001.0);
    }

    #[test]
    fn an_upper_bound_takes_untimed_events_for_the_longest() {
        let mut series = series(&[1000, 2000, 3000]);
        series.totals.count = 4;
        assert!(upper_quantile_ns(&series, 0.5).unwrap() >= 2000.0);
        assert_eq!(upper_quantile_ns(&series, 0.75), Some(3000.0));
        assert_eq!(upper_quantile_ns(&series, 0.76), None);
        assert_eq!(upper_quantile_ns(&SeriesReading::default(), 0.5), None);
    }

    #[test]
    fn merged_series_hold_both() {
        let both = merged([series(&[1000, 2000]), series(&[1000, 9000])].iter());
        let all = series(&[1000, 2000, 1000, 9000]);
        assert_eq!(both, all);
    }

    proptest! {
        #[test]
        fn off_by_less_than_a_bucket(
            mut data in prop::collection::vec((10u32..40, any::<u32>()), 1..300),
            q in 0.0f64..=1.0,
        ) {
            let mut data: Vec<u64> =
                data.drain(..).map(|(shift, bits)| (1 << shift) + (u64::from(bits) >> (40 - shift))).collect();
            data.sort_unstable();
            let estimate = quantile_ns(&series(&data), q).unwrap();
            let exact = exact(&data, q);
            // A nanosecond and a tick differ: 1 in 1024 at the shortest duration used here.
            let bound = 2f64.powf(1.0 / 8.0) * (1.0 + 1.0 / 1024.0);
            prop_assert!(estimate / exact < bound && exact / estimate < bound, "{estimate} for {exact}");
            let upper = upper_quantile_ns(&series(&data), q).unwrap();
            prop_assert!(upper >= exact && upper / exact < bound, "{upper} for {exact}");
        }
    }
}
