//! Values, one by one, into families of metrics.

use super::Format;
use super::classic::classic_histogram;
use super::native::add_native_fields;
use crate::export::exemplars::{Exemplar, add_exemplars};
use crate::export::names::{self, Family};
use crate::intake::SeriesReading;
use allocscope_common::depth::{DEPTH_BOUNDS, DepthCounts};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// Metrics by family. Families without a metric are left out: neither format can carry them.
pub(super) struct Families {
    format: Format,
    metrics: BTreeMap<&'static str, (&'static Family, Vec<Metric>)>,
}

impl Families {
    /// None yet.
    pub(super) fn new(format: Format) -> Self {
        Self { format, metrics: BTreeMap::new() }
    }

    /// Adds a counter or gauge, as the family is.
    pub(super) fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let mut metric = labelled(family, labels);
        if family.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.push(family, metric);
    }

    /// A histogram of frames: classic buckets in every format.
    pub(super) fn add_depths(&mut self, labels: &[&str], counts: &DepthCounts) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(counts.calls());
        histogram.set_sample_sum(counts.frames as f64);
        let mut cumulative = 0;
        for (bound, count) in DEPTH_BOUNDS.iter().zip(counts.buckets) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64);
            bucket.set_cumulative_count(cumulative);
            histogram.bucket.push(bucket);
        }
        let mut metric = labelled(&names::STACK_FRAMES, labels);
        metric.set_histogram(histogram);
        self.push(&names::STACK_FRAMES, metric);
    }

    /// Adds a histogram of durations, with its exemplars, the last one last.
    pub(super) fn add_histogram(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        reading: &SeriesReading,
        exemplars: &[Exemplar],
    ) {
        let mut histogram = classic_histogram(reading);
        if self.format == Format::Protobuf {
            add_native_fields(&mut histogram, &reading.buckets);
        }
        add_exemplars(&mut histogram, exemplars);
        let mut metric = labelled(family, labels);
        metric.set_histogram(histogram);
        self.push(family, metric);
    }

    fn push(&mut self, family: &'static Family, metric: Metric) {
        self.metrics.entry(family.name).or_insert_with(|| (family, Vec::new())).1.push(metric);
    }

    /// What is written.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        let finish = |(family, metrics): (&'static Family, Vec<Metric>)| {
            let mut proto = MetricFamily::default();
            proto.set_name(family.name.to_owned());
            proto.set_help(family.help.to_owned());
            proto.set_field_type(family.kind);
            proto.set_metric(metrics);
            proto
        };
        self.metrics.into_values().map(finish).collect()
    }
}

fn labelled(family: &Family, values: &[&str]) -> Metric {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pair = |(&name, &value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(family.labels.iter().zip(values).map(pair).collect())
}
