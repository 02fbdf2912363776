//! Examples of slow allocations into exemplars of the buckets of their histograms: which thread and, in Go, which goroutine
//! it was, and when.
//!
//! The crate's `Bucket` does not know the field, so an exemplar is kept in it as one that is unknown: protobuf then
//! carries it as it is, and OpenMetrics text takes it from there.

use crate::aggregate::{Example, ProcessSnapshot, Snapshot};
use allocscope_common::key::Series;
use prometheus::proto::{Bucket, Histogram};
use prost::Message;
use protobuf::{UnknownValue, UnknownValueRef};
use std::time::Duration;

/// The field number of `io.prometheus.client.Bucket`.
const BUCKET_EXEMPLAR: u32 = 3;

// The messages of io.prometheus.client, as far as they are written.

/// One allocation as an example of those in its bucket.
#[derive(Clone, PartialEq, Message)]
pub struct Exemplar {
    /// Who it was.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    /// The stage's time, in seconds.
    #[prost(double, tag = "2")]
    pub value: f64,
    /// When the stage was over.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

/// A name and a value.
#[derive(Clone, PartialEq, Message)]
pub struct Label {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A `google.protobuf.Timestamp`: Unix time.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Timestamp {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Exemplar {
    /// That of a bucket, if it has one.
    pub fn of(bucket: &Bucket) -> Option<Self> {
        match bucket.special_fields.unknown_fields().get(BUCKET_EXEMPLAR)? {
            UnknownValueRef::LengthDelimited(bytes) => Self::decode(bytes).ok(),
            _ => None,
        }
    }

    fn add_to(&self, bucket: &mut Bucket) {
        let value = UnknownValue::LengthDelimited(self.encode_to_vec());
        bucket.special_fields.mut_unknown_fields().add_value(BUCKET_EXEMPLAR, value);
    }

    /// With the Unix time at which the example's clock stood at 0.
    fn new(example: &Example, clock_began: Duration) -> Self {
        let label = |name: &str, value: String| Label { name: name.to_owned(), value };
        let mut labels = vec![label("tid", example.tid.to_string())];
        if example.goroutine != 0 {
            labels.push(label("goroutine", example.goroutine.to_string()));
        }
        let at = clock_began.saturating_add(Duration::from_nanos(example.at_ns));
        let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        let timestamp = Some(Timestamp { seconds, nanos: at.subsec_nanos() as i32 });
        Self { labels, value: example.ns as f64 / 1e9, timestamp }
    }
}

/// The exemplars of a series, the last one last.
pub fn exemplars_of(process: &ProcessSnapshot, series: &Series, snapshot: &Snapshot) -> Vec<Exemplar> {
    let is_of_series = |example: &&Example| example.pid == process.info.id.pid && example.series == *series;
    let mut found: Vec<_> = snapshot.examples.iter().filter(is_of_series).collect();
    found.sort_by_key(|example| example.at_ns);
    found.into_iter().map(|example| Exemplar::new(example, snapshot.tool.monotonic_began)).collect()
}

/// Adds to each bucket of a histogram the last of the exemplars that falls into it. Buckets are in order; the one
/// without a bound, which encoders write from the count, is added where it has an exemplar.
pub fn add_exemplars(histogram: &mut Histogram, exemplars: &[Exemplar]) {
    let mut below = f64::NEG_INFINITY;
    for bucket in &mut histogram.bucket {
        let bound = bucket.upper_bound();
        let is_in = |exemplar: &&Exemplar| below < exemplar.value && exemplar.value <= bound;
        if let Some(exemplar) = exemplars.iter().rfind(is_in) {
            exemplar.add_to(bucket);
        }
        below = bound;
    }
    if let Some(exemplar) = exemplars.iter().rfind(|exemplar| exemplar.value > below) {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::INFINITY);
        bucket.set_cumulative_count(histogram.get_sample_count());
        exemplar.add_to(&mut bucket);
        histogram.bucket.push(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;

    fn example(at_ns: u64, ns: u64) -> Example {
        Example { at_ns, ns, ..sample::example() }
    }

    fn found(examples: Vec<Example>) -> Vec<Exemplar> {
        let mut snapshot = sample::snapshot();
        snapshot.tool.monotonic_began = Duration::new(1_700_000_000, 999_999_998);
        snapshot.examples = examples;
        let series = sample::example().series;
        assert!(exemplars_of(&snapshot.processes[1], &series, &snapshot).is_empty(), "of another process");
        let other = snapshot.processes[0].series.keys().find(|other| **other != series).unwrap();
        assert!(exemplars_of(&snapshot.processes[0], other, &snapshot).is_empty(), "{other:?}");
        exemplars_of(&snapshot.processes[0], &series, &snapshot)
    }

    fn with_exemplars(exemplars: &[Exemplar]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(7);
        for bound in [0.016, 0.032, 0.064] {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            histogram.bucket.push(bucket);
        }
        add_exemplars(&mut histogram, exemplars);
        histogram
    }

    #[test]
    fn an_exemplar_says_who_how_long_and_when() {
        let label = |name: &str, value: &str| Label { name: name.to_owned(), value: value.to_owned() };
        let expected = Exemplar {
            labels: vec![label("tid", "4243"), label("goroutine", "17")],
            value: 0.024,
            timestamp: Some(Timestamp { seconds: 1_700_000_001, nanos: 1 }),
        };
        assert_eq!(found(vec![example(3, 24_000_000)]), [expected]);
        let native = Example { goroutine: 0, ..example(3, 24_000_000) };
        assert_eq!(found(vec![native])[0].labels, [label("tid", "4243")]);
    }

    #[test]
    fn the_last_example_of_a_bucket_is_its_exemplar() {
        let found = found(vec![example(2, 24_000_000), example(1, 25_000_000)]);
        let histogram = with_exemplars(&found);
        let exemplars: Vec<_> = histogram.bucket.iter().map(Exemplar::of).collect();
        assert_eq!(exemplars, [None, Some(found[1].clone()), None]);
        assert_eq!(found[1].value, 0.024);
    }

    #[test]
    fn what_is_above_all_bounds_has_a_bucket() {
        let histogram = with_exemplars(&found(vec![example(1, 64_000_000), example(2, 64_000_001)]));
        let last = histogram.bucket.last().unwrap();
        assert_eq!((last.upper_bound(), last.cumulative_count()), (f64::INFINITY, 7));
        assert_eq!(Exemplar::of(last).unwrap().value, 0.064_000_001);
        assert_eq!(Exemplar::of(&histogram.bucket[2]).unwrap().value, 0.064, "bounds are inclusive");
    }
}
