//! A [`Snapshot`] into what Prometheus scrapes: text, OpenMetrics text with exemplars, or protobuf with exemplars and
//! native histograms beside classic ones.

mod accept;
mod classic;
mod families;
mod native;
mod openmetrics;
mod process;
mod series;
mod tool;

use super::names::{self, Family};
use crate::aggregate::{ProcessSnapshot, Snapshot};
use accept::preferred;
use families::Families;
use process::Process;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, PROTOBUF_FORMAT, ProtobufEncoder, Registry, TEXT_FORMAT, TextEncoder};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tool::tell_tool;

/// Encodes a snapshot in the format that an `Accept` header prefers: the content type and the body.
pub fn encode(snapshot: &Arc<Snapshot>, accept: Option<&str>) -> (&'static str, Vec<u8>) {
    let format = preferred(accept.unwrap_or_default());
    let registry = Registry::new();
    let collector = SnapshotCollector::new(Arc::clone(snapshot), format);
    if let Err(error) = registry.register(Box::new(collector)) {
        log::error!("metrics: {error}");
    }
    let families = registry.gather();
    let mut body = Vec::new();
    let result = match format {
        Format::Text => TextEncoder::new().encode(&families, &mut body),
        Format::Protobuf => ProtobufEncoder::new().encode(&families, &mut body),
        Format::OpenMetrics | Format::OpenMetricsDraft => {
            body = openmetrics::encode(&families).into_bytes();
            Ok(())
        }
    };
    if let Err(error) = result {
        log::error!("metrics: {error}");
    }
    (format.content_type(), body)
}

/// How families are going to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Text 0.0.4: classic histograms.
    Text,
    /// OpenMetrics 1.0.0: classic histograms with exemplars.
    OpenMetrics,
    /// The same to those who only know its draft, 0.0.1: what is told here is in both.
    OpenMetricsDraft,
    /// Length-delimited protobuf: classic and native histograms with exemplars.
    Protobuf,
}

impl Format {
    /// Each, those that people read best first.
    const ALL: [Self; 4] = [Self::Text, Self::OpenMetrics, Self::OpenMetricsDraft, Self::Protobuf];

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => TEXT_FORMAT,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetricsDraft => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::Protobuf => PROTOBUF_FORMAT,
        }
    }
}

/// A snapshot as a source of metric families.
struct SnapshotCollector {
    snapshot: Arc<Snapshot>,
    format: Format,
    descs: Vec<Desc>,
}

impl SnapshotCollector {
    /// A collector that tells this one snapshot.
    fn new(snapshot: Arc<Snapshot>, format: Format) -> Self {
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
        let mut families = Families::new(self.format);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Finding, FindingKind};
    use crate::export::sample::{self, exposition};
    use crate::intake::SeriesReading;
    use allocscope_common::counter::Totals;
    use allocscope_common::go_runtime::RuntimeEvent;
    use allocscope_common::key::Series;
    use allocscope_common::provider::ProviderEvent;
    use protobuf::CodedInputStream;

    pub(super) const PROMETHEUS_ACCEPTS: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    /// Series with their values, whatever the bounds of buckets look like and without exemplars.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let line = line.split_once(" # ").map_or(line, |(sample, _)| sample);
            let (series, value) = line.rsplit_once(' ').unwrap();
            let series = match series.split_once("le=\"") {
                Some((start, bound)) => {
                    let bound: f64 = bound.trim_end_matches("\"}").parse().unwrap();
                    format!("{start}le=\"{bound}\"}}")
                }
                None => series.to_owned(),
            };
            (series, value.parse().unwrap())
        };
        let samples: Vec<_> = lines.map(sample).collect();
        let count = samples.len();
        let by_series = BTreeMap::from_iter(samples);
        assert_eq!(by_series.len(), count, "a series twice");
        by_series
    }

    #[test]
    fn openmetrics_tells_the_same_as_text_and_exemplars() {
        let mut snapshot = sample::snapshot();
        snapshot.examples = vec![sample::example()];
        let accept = Some("application/openmetrics-text;version=1.0.0");
        let (content_type, body) = encode(&Arc::new(snapshot.clone()), accept);
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let body = String::from_utf8(body).unwrap();
        assert_eq!(samples(&body), samples(&text(snapshot)));
        assert_eq!(body.matches("# EOF\n").count(), 1);
        assert!(body.ends_with("\n# EOF\n"));
        let of_touch = r#"allocscope_allocation_duration_seconds_bucket{pid="4242",comm="server",allocator="go",stage="touch",size="64MiB",le="0.03125"} 1 # {tid="4243",goroutine="17"} 0.024 100.000000003"#;
        let exemplars: Vec<_> = body.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(exemplars, [of_touch]);
    }

    fn text(snapshot: Snapshot) -> String {
        let (content_type, body) = encode(&Arc::new(snapshot), None);
        assert_eq!(content_type, "text/plain; version=0.0.4");
        String::from_utf8(body).unwrap()
    }

    pub(super) fn protobuf_families(snapshot: Snapshot) -> Vec<MetricFamily> {
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
    fn text_carries_no_native_fields() {
        let collector = SnapshotCollector::new(Arc::new(sample::snapshot()), Format::Text);
        for family in collector.collect() {
            for metric in family.get_metric().iter().filter(|metric| metric.histogram.is_some()) {
                assert!(metric.get_histogram().special_fields.unknown_fields().iter().next().is_none());
            }
        }
    }
}
