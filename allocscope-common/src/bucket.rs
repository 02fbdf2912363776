//! A duration in nanoseconds into a histogram bucket and back; the only histogram arithmetic there is.
//!
//! Buckets are exponential with base 2^(1/8), the bounds of Prometheus' native histograms at
//! schema 3. A duration is first turned into ticks of 2^-30 s, so that every bound at a power of
//! two of a second is a whole number of ticks: the same counts give native buckets without loss
//! and classic ones at powers of two exactly.
//!
//! Bucket `i` holds the ticks `t` with 2^((i-1)/8) < t <= 2^(i/8); bucket 0 holds 0 and 1. The upper
//! bound is inclusive as Prometheus' `le` is, so ticks round up: a duration is at most 2^k s exactly
//! when its ticks are at most 2^(k+30).

/// Ticks in a second, as a power of two.
pub const TICKS_PER_SECOND_LOG2: u32 = 30;

/// Buckets per doubling of the duration: 2^3, Prometheus' native histogram schema 3.
pub const BUCKETS_PER_OCTAVE: u32 = 8;

/// How many buckets the whole `u64` range of ticks needs: 64 octaves of eight, and bucket 0.
pub const BUCKET_COUNT: u32 = 64 * BUCKETS_PER_OCTAVE + 1;

/// 10^9 = 2^9 * 5^9, so ns * 2^30 / 10^9 = ns * 2^21 / 5^9, which stays exact in 64 bits.
const FIVE_POW_9: u64 = 1_953_125;
const TICK_SHIFT: u32 = 21;

/// floor(2^(63 + j/8)) for j = 0 to 7: the bounds within an octave, for a mantissa whose top bit is
/// bit 63. An integer is above 2^(63 + j/8) exactly when it is above this floor.
const EIGHTHS: [u64; 8] = [
    9_223_372_036_854_775_808,
    10_058_158_527_438_640_870,
    10_968_499_650_544_839_023,
    11_961_233_684_655_323_370,
    13_043_817_825_332_782_212,
    14_224_384_202_002_324_189,
    15_511_800_964_685_064_948,
    16_915_738_899_553_466_670,
];

/// Ticks of 2^-30 s in `ns` nanoseconds, rounded up; saturates above 2^64 - 1 ticks (about 544 years).
#[inline(always)]
pub const fn ticks_from_ns(ns: u64) -> u64 {
    let whole = ns / FIVE_POW_9;
    let rest = ns % FIVE_POW_9;
    let part = (rest << TICK_SHIFT).div_ceil(FIVE_POW_9);
    if whole > (u64::MAX >> TICK_SHIFT) {
        return u64::MAX;
    }
    (whole << TICK_SHIFT).saturating_add(part)
}

/// The bucket of a duration in ticks, in `0..BUCKET_COUNT`.
#[inline(always)]
pub const fn bucket_of_ticks(ticks: u64) -> u32 {
    if ticks <= 1 {
        return 0;
    }
    let zeros = ticks.leading_zeros();
    let mantissa = ticks << zeros;
    let octave = 63 - zeros;
    let mut eighth = 0;
    // Written out: eight comparisons without a branch or a table, as the kernel side wants it.
    eighth += (mantissa > EIGHTHS[0]) as u32;
    eighth += (mantissa > EIGHTHS[1]) as u32;
    eighth += (mantissa > EIGHTHS[2]) as u32;
    eighth += (mantissa > EIGHTHS[3]) as u32;
    eighth += (mantissa > EIGHTHS[4]) as u32;
    eighth += (mantissa > EIGHTHS[5]) as u32;
    eighth += (mantissa > EIGHTHS[6]) as u32;
    eighth += (mantissa > EIGHTHS[7]) as u32;
    octave * BUCKETS_PER_OCTAVE + eighth
}

/// The bucket of a duration in nanoseconds, in `0..BUCKET_COUNT`.
#[inline(always)]
pub const fn bucket_of_ns(ns: u64) -> u32 {
    bucket_of_ticks(ticks_from_ns(ns))
}

/// The largest number of ticks that bucket `bucket` holds; `None` outside `0..BUCKET_COUNT`.
pub const fn last_tick_of(bucket: u32) -> Option<u64> {
    if bucket >= BUCKET_COUNT {
        return None;
    }
    let octave = bucket / BUCKETS_PER_OCTAVE;
    if octave >= 64 {
        return Some(u64::MAX);
    }
    let eighth = (bucket % BUCKETS_PER_OCTAVE) as usize;
    Some(EIGHTHS[eighth] >> (63 - octave))
}

/// The bucket's index in a Prometheus native histogram of schema 3, where index 0 ends at 1 s.
pub const fn native_index(bucket: u32) -> i32 {
    bucket as i32 - (TICKS_PER_SECOND_LOG2 * BUCKETS_PER_OCTAVE) as i32
}

/// The bucket that ends at 2^`exponent` seconds; `None` where no bucket does.
pub const fn bucket_ending_at_pow2_seconds(exponent: i32) -> Option<u32> {
    let octave = exponent + TICKS_PER_SECOND_LOG2 as i32;
    if octave < 0 || octave > 64 {
        return None;
    }
    Some(octave as u32 * BUCKETS_PER_OCTAVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// (a mantissa)^8 against 2^(63*8 + j) in exact big integers, little-endian limbs.
    fn pow8(value: u64) -> [u64; 8] {
        let mut product = [0u64; 8];
        product[0] = 1;
        for _ in 0..8 {
            let mut carry = 0u128;
            for limb in &mut product {
                let term = u128::from(*limb) * u128::from(value) + carry;
                *limb = term as u64;
                carry = term >> 64;
            }
            assert_eq!(carry, 0);
        }
        product
    }

    fn exceeds_pow2(limbs: &[u64; 8], exponent: u32) -> bool {
        let (word, bit) = ((exponent / 64) as usize, exponent % 64);
        let mut power = [0u64; 8];
        power[word] = 1 << bit;
        limbs.iter().rev().gt(power.iter().rev())
    }

    #[test]
    fn eighths_are_the_floors_of_the_roots_of_two() {
        for (j, &floor) in EIGHTHS.iter().enumerate() {
            let bound = 63 * 8 + j as u32;
            assert!(!exceeds_pow2(&pow8(floor), bound), "EIGHTHS[{j}] is too large");
            assert!(exceeds_pow2(&pow8(floor + 1), bound), "EIGHTHS[{j}] is too small");
        }
    }

    #[test]
    fn every_boundary_belongs_to_its_bucket_and_the_next_tick_does_not() {
        for bucket in 0..BUCKET_COUNT {
            let last = last_tick_of(bucket).unwrap();
            // Below 2^3 ticks eighths are finer than a tick: several buckets end at the same tick
            // and only the first of them is ever used.
            let first_with_this_end = (0..=bucket).find(|&b| last_tick_of(b) == Some(last)).unwrap();
            if bucket == BUCKET_COUNT - 1 {
                assert_eq!(bucket_of_ticks(last), bucket);
                continue;
            }
            assert_eq!(bucket_of_ticks(last), first_with_this_end, "tick {last}");
            assert!(bucket_of_ticks(last + 1) > bucket, "tick {}", last + 1);
        }
    }

    #[test]
    fn powers_of_two_of_a_second_are_exact() {
        for exponent in -30..=33 {
            let bucket = bucket_ending_at_pow2_seconds(exponent).unwrap();
            assert_eq!(last_tick_of(bucket), Some(1u64 << (exponent + 30)));
            assert_eq!(native_index(bucket), exponent * 8);
        }
        assert_eq!(bucket_ending_at_pow2_seconds(-31), None);
        assert_eq!(bucket_ending_at_pow2_seconds(35), None);
    }

    #[test]
    fn extremes() {
        assert_eq!(ticks_from_ns(0), 0);
        assert_eq!(ticks_from_ns(1), 2);
        assert_eq!(ticks_from_ns(1_000_000_000), 1 << 30);
        assert_eq!(ticks_from_ns(u64::MAX), u64::MAX);
        assert_eq!(bucket_of_ns(0), 0);
        assert_eq!(bucket_of_ns(1_000_000_000), 240);
        assert_eq!(bucket_of_ns(1_000_000_001), 241);
        assert_eq!(bucket_of_ns(u64::MAX), BUCKET_COUNT - 1);
        assert_eq!(last_tick_of(BUCKET_COUNT), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn ticks_are_the_exact_ceiling(ns in any::<u64>()) {
            let exact = (u128::from(ns) << 30).div_ceil(1_000_000_000);
            prop_assert_eq!(u128::from(ticks_from_ns(ns)), exact.min(u128::from(u64::MAX)));
        }

        #[test]
        fn a_tick_lies_within_the_bounds_of_its_bucket(shift in 0u32..64, bits in any::<u64>()) {
            let ticks = bits >> shift;
            let bucket = bucket_of_ticks(ticks);
            prop_assert!(bucket < BUCKET_COUNT);
            prop_assert!(ticks <= last_tick_of(bucket).unwrap());
            if bucket > 0 {
                prop_assert!(ticks > last_tick_of(bucket - 1).unwrap());
            }
        }

        #[test]
        fn buckets_are_ordered_as_durations_are(a in any::<u64>(), b in any::<u64>()) {
            let (short, long) = (a.min(b), a.max(b));
            prop_assert!(bucket_of_ns(short) <= bucket_of_ns(long));
        }

        #[test]
        fn eighth_comparison_is_exact(ticks in 2u64..) {
            // t <= 2^(i/8)  <=>  t^8 <= 2^i, checked in exact integers.
            let bucket = bucket_of_ticks(ticks);
            let power = pow8(ticks);
            prop_assert!(bucket == 512 || !exceeds_pow2(&power, bucket));
            prop_assert!(exceeds_pow2(&power, bucket - 1));
        }
    }
}
