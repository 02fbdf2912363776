//! A [`Snapshot`] into what Prometheus scrapes: text, or protobuf with native histograms beside classic ones.

use super::exemplars::{add_exemplars, slow_in};
use super::go_runtime::{GoRuntime, STOPS};
use super::names::{self, Family, label_value, size_label};
use super::quantile::timed;
use crate::aggregate::{FindingKind, ProcessSnapshot, SlowAllocation, Snapshot};
use crate::intake::SeriesReading;
use allocscope_common::bucket::{TICKS_PER_SECOND_LOG2, bucket_ending_at_pow2_seconds, native_index};
use allocscope_common::cause::Cause;
use allocscope_common::counter::ProbeClass;
use allocscope_common::depth::{DEPTH_BOUNDS, DepthCounts};
use allocscope_common::go_runtime::RuntimeEvent;
use allocscope_common::key::{FaultKind, FaultScope, Series, Stage};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, PROTOBUF_FORMAT, ProtobufEncoder, Registry, TEXT_FORMAT, TextEncoder};
use protobuf::UnknownValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The exponents of the classic bounds: powers of two of a second from 2^-20 s (0.95 us) to 2^4 s.
/// They coincide with bounds of the buckets counted in, so classic counts are exact.
const CLASSIC_EXPONENTS: std::ops::RangeInclusive<i32> = -20..=4;

/// Encodes a snapshot in the format that an `Accept` header prefers: the content type and the body.
pub fn encode(snapshot: &Arc<Snapshot>, accept: Option<&str>) -> (&'static str, Vec<u8>) {
    let format = if prefers_protobuf(accept.unwrap_or_default()) { Format::Protobuf } else { Format::Text };
    let registry = Registry::new();
    let collector = SnapshotCollector::new(Arc::clone(snapshot), format);
    if let Err(error) = registry.register(Box::new(collector)) {
        log::error!("metrics: {error}");
    }
    let families = registry.gather();
    let mut body = Vec::new();
    let (content_type, result) = match format {
        Format::Text => (TEXT_FORMAT, TextEncoder::new().encode(&families, &mut body)),
        Format::Protobuf => (PROTOBUF_FORMAT, ProtobufEncoder::new().encode(&families, &mut body)),
    };
    if let Err(error) = result {
        log::error!("metrics: {error}");
    }
    (content_type, body)
}

/// How families are going to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4: classic histograms.
    Text,
    /// Length-delimited protobuf: classic and native histograms.
    Protobuf,
}

/// A snapshot as a source of metric families.
pub struct SnapshotCollector {
    snapshot: Arc<Snapshot>,
    format: Format,
    descs: Vec<Desc>,
}

impl SnapshotCollector {
    /// A collector that tells this one snapshot.
    pub fn new(snapshot: Arc<Snapshot>, format: Format) -> Self {
        let desc = |family: &&Family| {
            let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new()).ok()
        };
        Self { snapshot, format, descs: names::ALL.iter().filter_map(desc).collect() }
    }
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families { format: self.format, metrics: BTreeMap::new() };
        for process in distinct(&self.snapshot) {
            Process::new(process).tell(&self.snapshot, &mut families);
        }
        tell_tool(&self.snapshot, &mut families);
        families.finish()
    }
}

/// The processes, of which no two have the same `pid` and `comm`: Prometheus refuses a scrape with the
/// same series twice. Of an ended process and a later one with its pid, the later is told.
fn distinct(snapshot: &Snapshot) -> impl Iterator<Item = &ProcessSnapshot> {
    let mut latest: BTreeMap<(u32, &str), &ProcessSnapshot> = BTreeMap::new();
    for process in &snapshot.processes {
        let known = latest.entry((process.info.id.pid, &process.info.comm)).or_insert(process);
        if process.info.id.start_ticks > known.info.id.start_ticks {
            *known = process;
        }
    }
    latest.into_values()
}

/// A process and the two label values that all its series have.
struct Process<'a> {
    process: &'a ProcessSnapshot,
    pid: String,
    comm: String,
}

impl<'a> Process<'a> {
    fn new(process: &'a ProcessSnapshot) -> Self {
        Self { process, pid: process.info.id.pid.to_string(), comm: label_value(&process.info.comm) }
    }

    fn tell(&self, snapshot: &Snapshot, families: &mut Families) {
        self.tell_info(families);
        self.tell_coverage(families);
        self.tell_counters(snapshot, families);
        self.tell_faults(families);
        self.tell_findings(families);
        for (series, reading) in &self.process.series {
            self.tell_series(series, reading, snapshot, families);
        }
        for (allocator, counts) in &self.process.depths {
            families.add_depths(&self.labels(&[allocator.name()]), counts);
        }
        self.tell_live(families);
        if let Some(runtime) = GoRuntime::of(self.process) {
            self.tell_runtime(&runtime, families);
        }
    }

    fn tell_live(&self, families: &mut Families) {
        for (&(allocator, size_class), live) in &self.process.live {
            let size = size_label(size_class);
            let labels = self.labels(&[allocator.name(), &size]);
            families.add(&names::LIVE_BYTES, &labels, live.bytes as f64);
            families.add(&names::LIVE_TOUCHED_BYTES, &labels, live.touched_bytes as f64);
            families.add(&names::LIVE_TOUCH, &labels, live.touch_ns as f64 / 1e9);
        }
    }

    fn tell_runtime_durations(&self, event: RuntimeEvent, reading: &SeriesReading, families: &mut Families) {
        if let Some((_, reason)) = STOPS.iter().find(|(stop, _)| *stop == event) {
            families.add_histogram(&names::GO_STOP_DURATION, &self.labels(&[reason]), reading, &[]);
        } else if event == RuntimeEvent::Assist {
            families.add_histogram(&names::GO_ASSIST_DURATION, &self.labels(&[]), reading, &[]);
        }
    }

    /// All of them as soon as there is one, those that never came as 0.
    fn tell_runtime(&self, runtime: &GoRuntime, families: &mut Families) {
        let labels = self.labels(&[]);
        for (family, value) in [
            (&names::GO_CYCLES, runtime.gc_cycles),
            (&names::GO_SCAVENGED_BYTES, runtime.scavenged_bytes),
            (&names::GO_POOL_SLOW_GETS, runtime.pool_slow_gets),
            (&names::GO_POOL_NEW, runtime.pool_new),
            (&names::GO_POOL_CLEANUPS, runtime.pool_cleanups),
            (&names::GO_POOLS_CLEANED, runtime.pools_cleaned),
            (&names::GO_POOL_SAMPLED_GETS, runtime.pool_sample.gets),
            (&names::GO_POOL_SAMPLED_SLOW_GETS, runtime.pool_sample.slow_gets),
            (&names::GO_POOL_SAMPLED_NEW, runtime.pool_sample.new),
        ] {
            families.add(family, &labels, value as f64);
        }
    }

    /// `pid`, `comm` and the label values after them.
    fn labels<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        let mut labels = vec![self.pid.as_str(), self.comm.as_str()];
        labels.extend(more);
        labels
    }

    fn tell_info(&self, families: &mut Families) {
        let ProcessSnapshot { info, coverage, alive, .. } = self.process;
        let exe = label_value(&info.exe.to_string_lossy());
        let (allocator, container) = (label_value(&coverage.allocator), label_value(&info.container));
        let cgroup = label_value(&info.cgroup);
        let labels = self.labels(&[&exe, &allocator, coverage.tier.name(), &container, &cgroup]);
        families.add(&names::PROCESS_INFO, &labels, 1.0);
        families.add(&names::PROCESS_UP, &self.labels(&[]), f64::from(u8::from(*alive)));
    }

    fn tell_coverage(&self, families: &mut Families) {
        let coverage = &self.process.coverage;
        families.add(&names::SITES, &self.labels(&["planned"]), coverage.sites_planned as f64);
        families.add(&names::SITES, &self.labels(&["attached"]), coverage.sites_attached as f64);
        let mut misses: BTreeMap<&str, u32> = BTreeMap::new();
        for miss in &coverage.misses {
            *misses.entry(miss.reason).or_default() += 1;
        }
        for (reason, count) in misses {
            families.add(&names::MISSES, &self.labels(&[reason]), f64::from(count));
        }
    }

    fn tell_counters(&self, snapshot: &Snapshot, families: &mut Families) {
        let counters = &self.process.counters;
        for &class in ProbeClass::ALL {
            let hits = counters.hits[class as usize] as f64;
            families.add(&names::PROBE_HITS, &self.labels(&[class.name()]), hits);
        }
        for &kind in FaultKind::ALL {
            let untimed = counters.untimed_faults[kind as usize] as f64;
            families.add(&names::UNTIMED_PAGE_FAULTS, &self.labels(&[kind.name()]), untimed);
        }
        let causes_ns = self.process.causes_ns();
        for &cause in Cause::ALL {
            let time_ns = causes_ns[cause as usize];
            families.add(&names::STALL, &self.labels(&[cause.name()]), time_ns as f64 / 1e9);
        }
        let labels = self.labels(&[]);
        let live = counters.ranges_filed.saturating_sub(counters.ranges_ended);
        families.add(&names::LIVE_RANGES, &labels, live as f64);
        families.add(&names::PARTIAL_RELEASES, &labels, counters.partial_releases as f64);
        families.add(&names::PROBE_COST, &labels, self.process.probe_cost_seconds(&snapshot.tool));
    }

    /// Page faults of every kind and scope, those that never came as 0: a rate of a counter that
    /// appears with its first event does not see that event.
    fn tell_faults(&self, families: &mut Families) {
        for (&kind, &scope) in
            FaultKind::ALL.iter().flat_map(|kind| FaultScope::ALL.iter().map(move |scope| (kind, scope)))
        {
            let series = self.process.series.get(&Series::Fault { kind, scope });
            let count = series.map_or(0, |series| series.totals.count);
            families.add(&names::PAGE_FAULTS, &self.labels(&[kind.name(), scope.name()]), count as f64);
        }
    }

    /// Every kind, so that an alert ends where a finding does; none for a process without large allocations,
    /// of which there is nothing to find.
    fn tell_findings(&self, families: &mut Families) {
        let is_stage = |series: &Series| matches!(series, Series::Stage { .. });
        if !self.process.series.keys().any(is_stage) {
            return;
        }
        for kind in FindingKind::ALL {
            let labels = self.labels(&[kind.name()]);
            let found = self.process.findings.iter().filter(|finding| finding.kind == kind);
            let seconds = found.clone().filter_map(|finding| finding.recoverable).fold(0.0, |sum, s| sum + s);
            families.add(&names::FINDING, &labels, seconds);
            families.add(&names::FINDING_ACTIVE, &labels, found.count() as f64);
        }
    }

    fn tell_series(
        &self,
        series: &Series,
        reading: &SeriesReading,
        snapshot: &Snapshot,
        families: &mut Families,
    ) {
        let slow = slow_in(self.process, series, snapshot);
        let (count, bytes) = (reading.totals.count as f64, reading.totals.bytes as f64);
        match *series {
            Series::Stage { allocator, stage, size_class } => {
                let size = size_label(size_class);
                let labels = self.labels(&[allocator.name(), stage.name(), &size]);
                families.add_histogram(&names::ALLOCATION_DURATION, &labels, reading, &slow);
                let labels = self.labels(&[allocator.name(), &size]);
                match stage {
                    Stage::Call => {
                        families.add(&names::ALLOCATIONS, &labels, count);
                        families.add(&names::ALLOCATED_BYTES, &labels, bytes);
                    }
                    Stage::Release => families.add(&names::RELEASED_BYTES, &labels, bytes),
                    Stage::Touch => families.add(&names::TOUCHED_BYTES, &labels, bytes),
                }
            }
            Series::Fault { kind, scope } => {
                let labels = self.labels(&[kind.name(), scope.name()]);
                families.add_histogram(&names::PAGE_FAULT_DURATION, &labels, reading, &slow);
            }
            Series::Runtime(event) => self.tell_runtime_durations(event, reading, families),
            Series::Provider(event) => {
                let labels = self.labels(&[event.name()]);
                families.add(&names::PROVIDER_EVENTS, &labels, count);
                if !event.is_sample() {
                    families.add(&names::PROVIDER_SECONDS, &labels, reading.totals.time_ns as f64 / 1e9);
                }
                let size = if event.has_bytes() { bytes } else { 0.0 };
                families.add(&names::PROVIDER_BYTES, &labels, size);
            }
        }
    }
}

fn tell_tool(snapshot: &Snapshot, families: &mut Families) {
    let tool = &snapshot.tool;
    for (reason, &count) in &snapshot.lost {
        families.add(&names::LOST, &[reason.name()], count as f64);
    }
    for (class, price_ns) in &tool.probe_price_ns {
        families.add(&names::PROBE_PRICE, &[class.name()], price_ns / 1e9);
    }
    let alive = snapshot.processes.iter().filter(|process| process.alive).count();
    families.add(&names::PROCESSES, &[], alive as f64);
    families.add(&names::PROCESSES_OVER_LIMIT, &[], tool.processes_over_limit as f64);
    families.add(&names::RETIRED_UNSCRAPED, &[], snapshot.retired_unscraped as f64);
    if tool.pool_windows > 0 {
        families.add(&names::GO_POOL_WINDOWS, &[], tool.pool_windows as f64);
        families.add(&names::GO_POOL_WINDOW_SECONDS, &[], tool.pool_window_seconds);
    }
    families.add(&names::MAP_BYTES, &[], tool.map_bytes as f64);
    families.add(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    families.add(&names::CPU_SECONDS, &[], tool.cpu_seconds);
    families.add(&names::RESIDENT_MEMORY, &[], tool.resident_bytes as f64);
}

/// Metrics by family. Families without a metric are left out: neither format can carry them.
struct Families {
    format: Format,
    metrics: BTreeMap<&'static str, (&'static Family, Vec<Metric>)>,
}

impl Families {
    fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
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
    fn add_depths(&mut self, labels: &[&str], counts: &DepthCounts) {
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

    fn add_histogram(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        reading: &SeriesReading,
        slow: &[(SlowAllocation, u64)],
    ) {
        let mut histogram = classic_histogram(reading);
        if self.format == Format::Protobuf {
            add_native_fields(&mut histogram, &reading.buckets);
            add_exemplars(&mut histogram, slow);
        }
        let mut metric = labelled(family, labels);
        metric.set_histogram(histogram);
        self.push(family, metric);
    }

    fn push(&mut self, family: &'static Family, metric: Metric) {
        self.metrics.entry(family.name).or_insert_with(|| (family, Vec::new())).1.push(metric);
    }

    fn finish(self) -> Vec<MetricFamily> {
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

/// A histogram with classic buckets. Its count is that of its buckets, so that it agrees with itself
/// where events have no known duration; the families that end in `_total` have them all. The encoder
/// writes the bucket `+Inf` from the count.
fn classic_histogram(reading: &SeriesReading) -> Histogram {
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
fn add_native_fields(histogram: &mut Histogram, buckets: &BTreeMap<u32, u64>) {
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

/// Whether an `Accept` header wants delimited protobuf more than text. Equal wishes get text, which
/// people can read; so does whoever sends no header.
fn prefers_protobuf(accept: &str) -> bool {
    let mut protobuf = 0.0_f64;
    // Of several ranges that cover text the most specific counts: text/plain, text/*, */*.
    let mut text = (0, 0.0);
    for range in accept.split(',').map(MediaRange::parse) {
        match range.media_type.as_str() {
            "application/vnd.google.protobuf" if range.is_delimited_families() => {
                protobuf = protobuf.max(range.quality());
            }
            "text/plain" if range.parameter("version").is_none_or(|version| version == "0.0.4") => {
                text = greater(text, (3, range.quality()));
            }
            "text/*" => text = greater(text, (2, range.quality())),
            "*/*" => text = greater(text, (1, range.quality())),
            _ => {}
        }
    }
    protobuf > text.1
}

/// The greater of two (specificity, quality) pairs.
fn greater(a: (u8, f64), b: (u8, f64)) -> (u8, f64) {
    if b > a { b } else { a }
}

/// One member of an `Accept` header.
struct MediaRange<'a> {
    media_type: String,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        Self { media_type, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }

    fn quality(&self) -> f64 {
        self.parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0_f64).clamp(0.0, 1.0))
    }

    fn is_delimited_families(&self) -> bool {
        self.parameter("proto").is_none_or(|name| name == "io.prometheus.client.MetricFamily")
            && self.parameter("encoding") == Some("delimited")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Finding;
    use crate::export::sample::{self, exposition};
    use allocscope_common::bucket::bucket_of_ns;
    use allocscope_common::counter::Totals;
    use allocscope_common::provider::ProviderEvent;
    use proptest::prelude::*;
    use protobuf::{CodedInputStream, Message, UnknownValueRef};

    const PROMETHEUS_ACCEPTS: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    fn text(snapshot: Snapshot) -> String {
        let (content_type, body) = encode(&Arc::new(snapshot), None);
        assert_eq!(content_type, "text/plain; version=0.0.4");
        String::from_utf8(body).unwrap()
    }

    fn protobuf_families(snapshot: Snapshot) -> Vec<MetricFamily> {
        let (content_type, body) = encode(&Arc::new(snapshot), Some(PROMETHEUS_ACCEPTS));
        assert!(content_type.starts_with("application/vnd.google.protobuf;"));
        let mut input = CodedInputStream::from_bytes(&body);
        let mut families = Vec::new();
        while !input.eof().unwrap() {
            families.push(input.read_message().unwrap());
        }
        families
    }

    #[test]
    fn the_accept_header_decides() {
        assert!(prefers_protobuf(PROMETHEUS_ACCEPTS));
        assert!(prefers_protobuf("application/vnd.google.protobuf; encoding=delimited"));
        assert!(prefers_protobuf("*/*;q=0.1, application/vnd.google.protobuf;encoding=\"delimited\";q=0.2"));
        for text in [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "application/vnd.google.protobuf;encoding=text",
            "application/vnd.google.protobuf;encoding=delimited;q=0",
            "application/vnd.google.protobuf;encoding=delimited;q=nonsense",
            "application/vnd.google.protobuf;encoding=delimited,*/*",
            "application/vnd.google.protobuf;proto=other.Message;encoding=delimited",
            "application/vnd.google.protobuf;encoding=delimited;q=0.4,text/plain;q=0.5,*/*;q=0.1",
            ";;;,,,=",
        ] {
            assert!(!prefers_protobuf(text), "{text}");
        }
    }

    #[test]
    fn text_is_well_formed_and_histograms_agree_with_themselves() {
        let mut snapshot = sample::snapshot();
        for event in [RuntimeEvent::StopGc, RuntimeEvent::Assist] {
            snapshot.processes[0].series.insert(Series::Runtime(event), SeriesReading::default());
        }
        let told = Series::Provider(ProviderEvent::RegionMap);
        snapshot.processes[0].series.insert(told, SeriesReading::default());
        snapshot.tool.pool_windows = 1;
        let families = exposition::parse(&text(snapshot));
        for family in names::ALL {
            let parsed = families.get(family.name).unwrap_or_else(|| panic!("{} is missing", family.name));
            assert_eq!(parsed.help, family.help);
            assert_eq!(parsed.kind, format!("{:?}", family.kind).to_lowercase());
        }
        assert_eq!(families.len(), names::ALL.len());
        exposition::check_histograms(&families);
    }

    #[test]
    fn samples_have_no_time() {
        let mut snapshot = sample::snapshot();
        for (event, count, bytes) in [(ProviderEvent::OtelAlloc, 3, 96), (ProviderEvent::OtelFree, 2, 0)] {
            let totals = Totals { count, bytes, ..Totals::default() };
            let reading = SeriesReading { totals, ..SeriesReading::default() };
            snapshot.processes[0].series.insert(Series::Provider(event), reading);
        }
        let text = text(snapshot);
        for line in [
            r#"allocscope_provider_events_total{pid="4242",comm="server",probe="otel_alloc"} 3"#,
            r#"allocscope_provider_event_bytes_total{pid="4242",comm="server",probe="otel_alloc"} 96"#,
            r#"allocscope_provider_events_total{pid="4242",comm="server",probe="otel_free"} 2"#,
            r#"allocscope_provider_event_bytes_total{pid="4242",comm="server",probe="otel_free"} 0"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("allocscope_provider_event_seconds_total{"), "{text}");
    }

    #[test]
    fn values_are_those_of_the_snapshot() {
        let text = text(sample::snapshot());
        for line in [
            r#"allocscope_allocations_total{pid="4242",comm="server",allocator="go",size="64MiB"} 2"#,
            r#"allocscope_allocated_bytes_total{pid="4242",comm="server",allocator="go",size="64MiB"} 134217728"#,
            r#"allocscope_released_bytes_total{pid="4242",comm="server",allocator="go",size="64MiB"} 67108864"#,
            r#"allocscope_page_faults_total{pid="4242",comm="server",kind="minor",scope="large"} 4"#,
            r#"allocscope_page_faults_total{pid="4242",comm="server",kind="major",scope="other"} 0"#,
            r#"allocscope_page_fault_duration_seconds_count{pid="4242",comm="server",kind="minor",scope="large"} 3"#,
            r#"allocscope_untimed_page_faults_total{pid="4242",comm="server",kind="minor"} 1"#,
            r#"allocscope_live_ranges{pid="4242",comm="server"} 1"#,
            r#"allocscope_process_up{pid="4242",comm="server"} 1"#,
            r#"allocscope_process_up{pid="4300",comm="batch"} 0"#,
            r#"allocscope_sites{pid="4242",comm="server",state="attached"} 3"#,
            r#"allocscope_misses{pid="4242",comm="server",reason="go_version_unknown"} 1"#,
            r#"allocscope_lost_total{reason="ring_full"} 0"#.replace("ring_full", "event_ring_full").as_str(),
            "allocscope_processes 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn findings_are_seconds_by_kind() {
        let mut snapshot = sample::snapshot();
        let untimed = Finding { kind: FindingKind::OverAllocation, recoverable: None, ..sample::finding() };
        snapshot.processes[0].findings = vec![sample::finding(), untimed];
        snapshot.processes[1].series.clear();
        let text = text(snapshot);
        for line in [
            r#"allocscope_finding{pid="4242",comm="server",kind="threshold_churn"} 0.28"#,
            r#"allocscope_finding{pid="4242",comm="server",kind="over_allocation"} 0"#,
            r#"allocscope_finding_active{pid="4242",comm="server",kind="over_allocation"} 1"#,
            r#"allocscope_finding_active{pid="4242",comm="server",kind="release_storm"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("allocscope_finding{pid=\"4300\""));
    }

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

    #[test]
    fn untrusted_text_is_escaped_and_bounded() {
        let mut snapshot = sample::snapshot();
        snapshot.processes[0].info.comm = "a\"b\\c\nd".to_owned();
        snapshot.processes[0].info.cgroup = "/x".repeat(3000);
        let text = text(snapshot);
        assert!(text.contains(r#"comm="a\"b\\c\nd""#));
        assert!(text.lines().all(|line| line.len() < 1200));
        exposition::parse(&text);
    }

    #[test]
    fn of_two_processes_with_one_pid_and_comm_the_later_is_told() {
        let mut snapshot = sample::snapshot();
        let mut later = snapshot.processes[0].clone();
        later.info.id.start_ticks += 1;
        snapshot.processes[0].alive = false;
        snapshot.processes.push(later);
        let text = text(snapshot);
        assert!(text.contains("allocscope_process_up{pid=\"4242\",comm=\"server\"} 1\n"));
        exposition::parse(&text);
    }

    #[test]
    fn a_snapshot_without_anything_is_well_formed() {
        let families = exposition::parse(&text(Snapshot::default()));
        assert!(families.contains_key("allocscope_build_info"));
        assert!(!protobuf_families(Snapshot::default()).is_empty());
    }

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
    fn text_carries_no_native_fields() {
        let collector = SnapshotCollector::new(Arc::new(sample::snapshot()), Format::Text);
        for family in collector.collect() {
            for metric in family.get_metric().iter().filter(|metric| metric.histogram.is_some()) {
                assert!(metric.get_histogram().special_fields.unknown_fields().iter().next().is_none());
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
