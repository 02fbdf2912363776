//! Counts of durations into the fields of a native histogram, which the protobuf message at hand does not know.

use allocscope_common::bucket::{TICKS_PER_SECOND_LOG2, native_index};
use prometheus::proto::Histogram;
use protobuf::UnknownValue;
use std::collections::BTreeMap;

/// Field numbers of `io.prometheus.client.Histogram` that the crate's own message does not know.
mod field {
    pub const SCHEMA: u32 = 5;
    pub const ZERO_THRESHOLD: u32 = 6;
    pub const ZERO_COUNT: u32 = 7;
    pub const POSITIVE_SPAN: u32 = 12;
    pub const POSITIVE_DELTA: u32 = 13;
    pub const SPAN_OFFSET: u32 = 1;
    pub const SPAN_LENGTH: u32 = 2;
}

/// 2^(1/8) apart, as [`allocscope_common::bucket`] counts.
const NATIVE_SCHEMA: i32 = 3;

/// Adds the native histogram to a message that does not know it: unknown fields are written too.
/// Bucket 0 holds everything up to one tick and is exactly the zero bucket with that threshold, whose
/// presence also marks a histogram without counts as a native one.
pub(super) fn add_native_fields(histogram: &mut Histogram, buckets: &BTreeMap<u32, u64>) {
    let fields = histogram.special_fields.mut_unknown_fields();
    let tick_seconds = (-f64::from(TICKS_PER_SECOND_LOG2)).exp2();
    let zero_count = buckets.get(&0).copied().unwrap_or_default();
    fields.add_value(field::SCHEMA, UnknownValue::sint32(NATIVE_SCHEMA));
    fields.add_value(field::ZERO_THRESHOLD, UnknownValue::double(tick_seconds));
    fields.add_value(field::ZERO_COUNT, UnknownValue::Varint(zero_count));
    let (spans, deltas) = spans_and_deltas(buckets);
    for span in spans {
        let mut message = Vec::new();
        put_varint(&mut message, u64::from(field::SPAN_OFFSET << 3));
        put_varint(&mut message, zigzag(span.offset));
        put_varint(&mut message, u64::from(field::SPAN_LENGTH << 3));
        put_varint(&mut message, u64::from(span.length));
        fields.add_value(field::POSITIVE_SPAN, UnknownValue::LengthDelimited(message));
    }
    for delta in deltas {
        fields.add_value(field::POSITIVE_DELTA, UnknownValue::sint64(delta));
    }
}

/// A run of buckets with counts: `offset` from the end of the run before, the first from index 0.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    offset: i32,
    length: u32,
}

/// Runs of neighbouring buckets, and each bucket's count as the difference to the one before.
fn spans_and_deltas(buckets: &BTreeMap<u32, u64>) -> (Vec<Span>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<Span>::new(), Vec::new());
    let (mut next_index, mut previous) = (0, 0);
    for (&bucket, &count) in buckets.range(1..).filter(|&(_, &count)| count > 0) {
        let index = native_index(bucket);
        match spans.last_mut() {
            Some(span) if index == next_index => span.length += 1,
            _ => spans.push(Span { offset: index - next_index, length: 1 }),
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        deltas.push(count - previous);
        (next_index, previous) = (index + 1, count);
    }
    (spans, deltas)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

const fn zigzag(value: i32) -> u64 {
    ((value << 1) ^ (value >> 31)) as u32 as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metrics::classic::classic_histogram;
    use crate::export::metrics::tests::protobuf_families;
    use crate::export::{names, sample};
    use crate::intake::SeriesReading;
    use proptest::prelude::*;
    use protobuf::{CodedInputStream, Message, UnknownValueRef};

    #[test]
    fn native_histograms_hold_the_same_counts() {
        let families = protobuf_families(sample::snapshot());
        let family = families.iter().find(|f| f.name() == names::ALLOCATION_DURATION.name).unwrap();
        assert!(!family.get_metric().is_empty());
        for metric in family.get_metric() {
            let histogram = metric.get_histogram();
            let native = Native::of(histogram);
            assert_eq!((native.schema, native.zero_threshold), (3, 2f64.powi(-30)));
            let in_buckets: i64 = native.counts().iter().map(|&(_, count)| count).sum();
            assert_eq!(in_buckets as u64 + native.zero_count, histogram.get_sample_count());
            // Classic and native tell the same at every bound that both have.
            for bucket in &histogram.bucket {
                let last = (bucket.upper_bound().log2() * 8.0) as i32;
                let below: i64 = native
                    .counts()
                    .iter()
                    .filter(|&&(index, _)| index <= last)
                    .map(|&(_, count)| count)
                    .sum();
                assert_eq!(below as u64 + native.zero_count, bucket.cumulative_count());
            }
        }
    }

    #[test]
    fn spans_are_runs_and_deltas_differences() {
        let buckets = BTreeMap::from([(0, 9), (160, 2), (161, 5), (163, 1), (164, 0), (300, 4)]);
        let (spans, deltas) = spans_and_deltas(&buckets);
        let span = |offset, length| Span { offset, length };
        assert_eq!(spans, [span(-80, 2), span(1, 1), span(136, 1)]);
        assert_eq!(deltas, [2, 3, -4, 3]);
        assert_eq!([zigzag(-80), zigzag(80), zigzag(0)], [159, 160, 0]);
    }

    /// The native part of a histogram, read back from the unknown fields.
    #[derive(Default)]
    struct Native {
        schema: i64,
        zero_threshold: f64,
        zero_count: u64,
        spans: Vec<(i64, u64)>,
        deltas: Vec<i64>,
    }

    const fn unzigzag(value: u64) -> i64 {
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    impl Native {
        fn of(histogram: &Histogram) -> Self {
            let mut native = Self::default();
            for (number, value) in histogram.special_fields.unknown_fields().iter() {
                match (number, value) {
                    (field::SCHEMA, UnknownValueRef::Varint(v)) => native.schema = unzigzag(v),
                    (field::ZERO_THRESHOLD, UnknownValueRef::Fixed64(v)) => {
                        native.zero_threshold = f64::from_bits(v)
                    }
                    (field::ZERO_COUNT, UnknownValueRef::Varint(v)) => native.zero_count = v,
                    (field::POSITIVE_DELTA, UnknownValueRef::Varint(v)) => native.deltas.push(unzigzag(v)),
                    (field::POSITIVE_SPAN, UnknownValueRef::LengthDelimited(mut bytes)) => {
                        let mut input = CodedInputStream::new(&mut bytes);
                        assert_eq!(input.read_raw_varint32().unwrap(), 1 << 3);
                        let offset = unzigzag(input.read_raw_varint64().unwrap());
                        assert_eq!(input.read_raw_varint32().unwrap(), 2 << 3);
                        native.spans.push((offset, input.read_raw_varint64().unwrap()));
                    }
                    other => panic!("unexpected field {other:?}"),
                }
            }
            native
        }

        /// (index, count) of each bucket.
        fn counts(&self) -> Vec<(i32, i64)> {
            let mut deltas = self.deltas.iter();
            let (mut index, mut count, mut counts) = (0, 0, Vec::new());
            for &(offset, length) in &self.spans {
                index += offset as i32;
                for _ in 0..length {
                    count += deltas.next().unwrap();
                    counts.push((index, count));
                    index += 1;
                }
            }
            counts
        }
    }

    proptest! {
        #[test]
        fn native_buckets_are_those_counted_in(counts in prop::collection::btree_map(0u32..513, 1u64..9, 0..40)) {
            let mut histogram = Histogram::default();
            add_native_fields(&mut histogram, &counts);
            let native = Native::of(&histogram);
            let read: BTreeMap<i32, u64> =
                native.counts().into_iter().map(|(index, count)| (index, count as u64)).collect();
            let expected: BTreeMap<i32, u64> =
                counts.range(1..).map(|(&bucket, &count)| (native_index(bucket), count)).collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(native.zero_count, counts.get(&0).copied().unwrap_or_default());
        }
    }

    #[test]
    fn messages_survive_a_round_trip() {
        let mut histogram = classic_histogram(&SeriesReading::default());
        add_native_fields(&mut histogram, &BTreeMap::from([(100, 3)]));
        let read = Histogram::parse_from_bytes(&histogram.write_to_bytes().unwrap()).unwrap();
        assert_eq!(Native::of(&read).counts(), [(-140, 3)]);
    }
}
