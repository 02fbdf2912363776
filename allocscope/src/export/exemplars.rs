//! The slowest allocations into exemplars of the buckets of their histograms: which thread and, in Go, which goroutine
//! it was.
//!
//! Only Prometheus' protobuf format carries them (io.prometheus.client: `Bucket.exemplar`); the crate's messages do
//! not know the field, so it is written as one that is unknown.

use crate::aggregate::{ProcessSnapshot, SlowAllocation, Snapshot};
use allocscope_common::key::{Series, Stage, size_class};
use prometheus::proto::{Histogram, LabelPair};
use protobuf::{Message, UnknownValue};

/// Field numbers of `io.prometheus.client.Bucket` and `Exemplar`.
mod field {
    pub const BUCKET_EXEMPLAR: u32 = 3;
    pub const LABEL: u32 = 1;
    pub const VALUE: u32 = 2;
}

/// Slow allocations of a series, and how long its stage took, in nanoseconds; the last one last.
pub fn slow_in(
    process: &ProcessSnapshot,
    series: &Series,
    snapshot: &Snapshot,
) -> Vec<(SlowAllocation, u64)> {
    let Series::Stage { allocator, stage, size_class: class } = *series else { return Vec::new() };
    let of_series = |slow: &&SlowAllocation| {
        slow.pid == process.info.id.pid && slow.allocator == allocator && size_class(slow.size) == class
    };
    let time = |slow: &SlowAllocation| match stage {
        Stage::Call => slow.call_ns,
        Stage::Touch => slow.touch_ns,
        Stage::Release => slow.release_ns,
    };
    let found =
        snapshot.slowest.iter().filter(of_series).filter_map(|slow| Some((slow.clone(), time(slow)?)));
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(slow, _)| slow.filed_ns);
    found
}

/// Adds an exemplar to each bucket of a histogram that one of the allocations falls into. Buckets are in order.
pub fn add_exemplars(histogram: &mut Histogram, slow: &[(SlowAllocation, u64)]) {
    let mut below = f64::NEG_INFINITY;
    for bucket in &mut histogram.bucket {
        let bound = bucket.upper_bound();
        let is_in = |(_, ns): &&(SlowAllocation, u64)| {
            let seconds = *ns as f64 / 1e9;
            below < seconds && seconds <= bound
        };
        if let Some((slow, ns)) = slow.iter().rfind(is_in) {
            let value = UnknownValue::LengthDelimited(exemplar(slow, *ns));
            bucket.special_fields.mut_unknown_fields().add_value(field::BUCKET_EXEMPLAR, value);
        }
        below = bound;
    }
}

fn exemplar(slow: &SlowAllocation, ns: u64) -> Vec<u8> {
    // A message that is made of unknown fields alone.
    let mut message = LabelPair::default();
    let fields = message.special_fields.mut_unknown_fields();
    let mut labels = vec![("tid", slow.tid.to_string())];
    if slow.goroutine != 0 {
        labels.push(("goroutine", slow.goroutine.to_string()));
    }
    for (name, value) in labels {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value);
        // Cannot fail: nothing is written to but memory.
        let label = label.write_to_bytes().unwrap_or_default();
        fields.add_value(field::LABEL, UnknownValue::LengthDelimited(label));
    }
    fields.add_value(field::VALUE, UnknownValue::double(ns as f64 / 1e9));
    message.write_to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;
    use allocscope_common::cause::CAUSES;
    use allocscope_common::key::Allocator;
    use prometheus::proto::Bucket;

    fn slow(filed_ns: u64, touch_ns: u64) -> SlowAllocation {
        SlowAllocation {
            pid: 4242,
            tid: 4243,
            goroutine: 0xc0de,
            allocator: Allocator::Go,
            size: 64 << 20,
            filed_ns,
            call_ns: Some(16_000),
            touch_ns: Some(touch_ns),
            faults: 16_384,
            release_ns: None,
            call_causes: [0; CAUSES],
            touch_causes: [0; CAUSES],
            stack: 0,
            frames: Vec::new(),
        }
    }

    #[test]
    fn the_last_slow_allocation_of_a_bucket_is_its_exemplar() {
        let mut snapshot = sample::snapshot();
        snapshot.slowest = vec![slow(2, 24_000_000), slow(1, 25_000_000), slow(3, 90_000_000)];
        let touch = Series::Stage { allocator: Allocator::Go, stage: Stage::Touch, size_class: 26 };
        let release = Series::Stage { allocator: Allocator::Go, stage: Stage::Release, size_class: 26 };
        assert!(slow_in(&snapshot.processes[0], &release, &snapshot).is_empty());
        assert!(slow_in(&snapshot.processes[1], &touch, &snapshot).is_empty());
        let found = slow_in(&snapshot.processes[0], &touch, &snapshot);
        let mut histogram = Histogram::default();
        for bound in [0.016, 0.032, 0.064] {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            histogram.bucket.push(bucket);
        }
        add_exemplars(&mut histogram, &found);
        let exemplars: Vec<_> =
            histogram.bucket.iter().map(|bucket| bucket.special_fields.unknown_fields().get(3)).collect();
        assert!(exemplars[0].is_none() && exemplars[2].is_none());
        let expected = exemplar(&found[1].0, 24_000_000);
        assert_eq!(exemplars[1], Some(protobuf::UnknownValueRef::LengthDelimited(&expected)));
        assert!(expected.windows(4).any(|text| text == b"4243"));
    }
}
