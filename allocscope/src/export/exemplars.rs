//! The slowest allocations into exemplars of the buckets of their histograms: which thread and, in Go, which goroutine
//! it was, and when.
//!
//! The crate's `Bucket` does not know the field, so an exemplar is kept in it as one that is unknown: protobuf then
//! carries it as it is, and OpenMetrics text takes it from there.

use crate::aggregate::{ProcessSnapshot, SlowAllocation, Snapshot};
use allocscope_common::key::{Series, Stage, size_class};
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

    /// A stage that took `ns` and was over at that Unix time.
    fn new(slow: &SlowAllocation, ns: u64, at: Duration) -> Self {
        let label = |name: &str, value: String| Label { name: name.to_owned(), value };
        let mut labels = vec![label("tid", slow.tid.to_string())];
        if slow.goroutine != 0 {
            labels.push(label("goroutine", slow.goroutine.to_string()));
        }
        let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        let timestamp = Some(Timestamp { seconds, nanos: at.subsec_nanos() as i32 });
        Self { labels, value: ns as f64 / 1e9, timestamp }
    }
}

/// Slow allocations of a series as exemplars, the last one last.
pub fn slow_in(process: &ProcessSnapshot, series: &Series, snapshot: &Snapshot) -> Vec<Exemplar> {
    let Series::Stage { allocator, stage, size_class: class } = *series else { return Vec::new() };
    let of_series = |slow: &&SlowAllocation| {
        slow.pid == process.info.id.pid && slow.allocator == allocator && size_class(slow.size) == class
    };
    // First touch is told when the memory is released.
    let of_stage = |slow: &SlowAllocation| match stage {
        Stage::Call => Some((slow.filed_ns, slow.call_ns?)),
        Stage::Touch => Some((slow.last_ns, slow.touch_ns?)),
        Stage::Release => Some((slow.last_ns, slow.release_ns?)),
    };
    let exemplar = |slow: &SlowAllocation| {
        let (at_ns, ns) = of_stage(slow)?;
        let at = snapshot.tool.monotonic_began.saturating_add(Duration::from_nanos(at_ns));
        Some((at, Exemplar::new(slow, ns, at)))
    };
    let mut found: Vec<_> = snapshot.slowest.iter().filter(of_series).filter_map(exemplar).collect();
    found.sort_by_key(|&(at, _)| at);
    found.into_iter().map(|(_, exemplar)| exemplar).collect()
}

/// Adds to each bucket of a histogram the last of the exemplars that falls into it. Buckets are in order; the one
/// without a bound, which encoders write from the count, is added where it has an exemplar.
pub fn add_exemplars(histogram: &mut Histogram, slow: &[Exemplar]) {
    let mut below = f64::NEG_INFINITY;
    for bucket in &mut histogram.bucket {
        let bound = bucket.upper_bound();
        let is_in = |exemplar: &&Exemplar| below < exemplar.value && exemplar.value <= bound;
        if let Some(exemplar) = slow.iter().rfind(is_in) {
            exemplar.add_to(bucket);
        }
        below = bound;
    }
    if let Some(exemplar) = slow.iter().rfind(|exemplar| exemplar.value > below) {
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
    use allocscope_common::key::Allocator;

    fn slow(last_ns: u64, touch_ns: u64) -> SlowAllocation {
        SlowAllocation { filed_ns: 1, last_ns, touch_ns: Some(touch_ns), ..sample::slow() }
    }

    fn found(stage: Stage, slowest: Vec<SlowAllocation>) -> Vec<Exemplar> {
        let mut snapshot = sample::snapshot();
        snapshot.tool.monotonic_began = Duration::new(1_700_000_000, 999_999_998);
        snapshot.slowest = slowest;
        let series = Series::Stage { allocator: Allocator::Go, stage, size_class: 26 };
        assert!(slow_in(&snapshot.processes[1], &series, &snapshot).is_empty(), "of another process");
        slow_in(&snapshot.processes[0], &series, &snapshot)
    }

    fn with_exemplars(slow: &[Exemplar]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(7);
        for bound in [0.016, 0.032, 0.064] {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            histogram.bucket.push(bucket);
        }
        add_exemplars(&mut histogram, slow);
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
        assert_eq!(found(Stage::Touch, vec![slow(3, 24_000_000)]), [expected]);
        let call = &found(Stage::Call, vec![slow(3, 24_000_000)])[0];
        assert_eq!((call.value, call.timestamp.unwrap().nanos), (16e-6, 999_999_999), "when it was filed");
        assert!(found(Stage::Release, vec![slow(3, 24_000_000)]).is_empty());
        let native = SlowAllocation { goroutine: 0, ..slow(3, 24_000_000) };
        assert_eq!(found(Stage::Touch, vec![native])[0].labels, [label("tid", "4243")]);
    }

    #[test]
    fn the_last_slow_allocation_of_a_bucket_is_its_exemplar() {
        let slow = found(Stage::Touch, vec![slow(2, 24_000_000), slow(1, 25_000_000)]);
        let histogram = with_exemplars(&slow);
        let exemplars: Vec<_> = histogram.bucket.iter().map(Exemplar::of).collect();
        assert_eq!(exemplars, [None, Some(slow[1].clone()), None]);
        assert_eq!(slow[1].value, 0.024);
    }

    #[test]
    fn what_is_above_all_bounds_has_a_bucket() {
        let histogram = with_exemplars(&found(Stage::Touch, vec![slow(1, 64_000_000), slow(2, 64_000_001)]));
        let last = histogram.bucket.last().unwrap();
        assert_eq!((last.upper_bound(), last.cumulative_count()), (f64::INFINITY, 7));
        assert_eq!(Exemplar::of(last).unwrap().value, 0.064_000_001);
        assert_eq!(Exemplar::of(&histogram.bucket[2]).unwrap().value, 0.064, "bounds are inclusive");
    }
}
