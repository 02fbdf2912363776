//! Families of metrics into OpenMetrics 1.0 text, exemplars included.
//!
//! Written by <https://prometheus.io/docs/specs/om/open_metrics_spec/>, whose words are quoted below.

use crate::export::exemplars::{Exemplar, Timestamp};
use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType};
use std::borrow::Cow;

/// The units that names may end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];
/// "The combined length of the label names and values of an Exemplar's LabelSet MUST NOT exceed 128 UTF-8 character
/// code points."
const MAX_EXEMPLAR_CHARS: usize = 128;

/// Encodes families of counters, gauges and histograms.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family);
    }
    text + "# EOF\n"
}

fn write_family(text: &mut String, family: &MetricFamily) {
    let (kind, suffix) = kind(family);
    let name = family.name().strip_suffix(suffix).unwrap_or(family.name());
    *text += &format!("# TYPE {name} {kind}\n");
    if let Some(unit) = unit(name) {
        *text += &format!("# UNIT {name} {unit}\n");
    }
    *text += &format!("# HELP {name} {}\n", escaped(family.help()));
    for metric in family.get_metric() {
        let labels = labels(metric.get_label().iter().map(|label| (label.name(), label.value())));
        let value = match family.get_field_type() {
            MetricType::HISTOGRAM => {
                write_histogram(text, name, &labels, metric.get_histogram());
                continue;
            }
            MetricType::COUNTER => metric.get_counter().value(),
            _ => metric.get_gauge().value(),
        };
        write_sample(text, &format!("{name}{suffix}"), &labels, &float(value), None);
    }
}

/// The type, and what the names of its samples end in and the name of the family does not.
fn kind(family: &MetricFamily) -> (&'static str, &'static str) {
    // "Info MetricPoints [...] the value MUST be 1."
    let is_one = |metric: &Metric| metric.get_gauge().value() == 1.0;
    match family.get_field_type() {
        MetricType::COUNTER => ("counter", "_total"),
        MetricType::HISTOGRAM => ("histogram", ""),
        _ if family.name().ends_with("_info") && family.get_metric().iter().all(is_one) => ("info", "_info"),
        _ => ("gauge", ""),
    }
}

fn unit(name: &str) -> Option<&'static str> {
    let is_last = |unit: &&str| name.strip_suffix(*unit).is_some_and(|before| before.ends_with('_'));
    UNITS.into_iter().find(is_last)
}

fn write_histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let count = histogram.get_sample_count();
    let mut write_bucket = |bound: f64, count: u64, exemplar: Option<Exemplar>| {
        let separator = if labels.is_empty() { "" } else { "," };
        let labels = format!("{labels}{separator}le=\"{}\"", float(bound));
        write_sample(text, &format!("{name}_bucket"), &labels, &count.to_string(), exemplar);
    };
    for bucket in &histogram.bucket {
        write_bucket(bucket.upper_bound(), bucket.cumulative_count(), Exemplar::of(bucket));
    }
    if histogram.bucket.last().is_none_or(|bucket| bucket.upper_bound() < f64::INFINITY) {
        write_bucket(f64::INFINITY, count, None);
    }
    write_sample(text, &format!("{name}_count"), labels, &count.to_string(), None);
    write_sample(text, &format!("{name}_sum"), labels, &float(histogram.get_sample_sum()), None);
}

fn write_sample(text: &mut String, name: &str, labels: &str, value: &str, exemplar: Option<Exemplar>) {
    *text += name;
    if !labels.is_empty() {
        *text += &format!("{{{labels}}}");
    }
    *text += &format!(" {value}");
    if let Some(exemplar) = exemplar.filter(is_short) {
        let labels = labels_of(&exemplar);
        *text += &format!(" # {{{labels}}} {}", float(exemplar.value));
        if let Some(at) = exemplar.timestamp {
            *text += &format!(" {}", time(at));
        }
    }
    text.push('\n');
}

fn is_short(exemplar: &Exemplar) -> bool {
    let chars = exemplar.labels.iter().map(|label| label.name.chars().count() + label.value.chars().count());
    chars.sum::<usize>() <= MAX_EXEMPLAR_CHARS
}

fn labels_of(exemplar: &Exemplar) -> String {
    labels(exemplar.labels.iter().map(|label| (label.name.as_str(), label.value.as_str())))
}

/// `name="value",...`
fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    pairs.join(",")
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Seconds, all digits: a float has not enough of them.
fn time(at: Timestamp) -> String {
    format!("{}.{:09}", at.seconds, at.nanos)
}

/// "The target rendering is equivalent to the default Go rendering of float64 values (i.e. %g), with a .0 appended in
/// case there is no decimal point or exponent".
fn float(value: f64) -> String {
    let exponential = format!("{value:e}");
    let (digits, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    match exponent.parse::<i32>() {
        _ if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        Ok(..-4 | 6..) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::exemplars::{Label, add_exemplars};
    use prometheus::proto::{Bucket, Counter, Gauge, LabelPair};

    fn family(name: &str, kind: MetricType, help: &str, metrics: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_field_type(kind);
        family.set_help(help.to_owned());
        family.set_metric(metrics);
        family
    }

    fn metric(labels: &[(&str, &str)]) -> Metric {
        let pair = |&(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        Metric::from_label(labels.iter().map(pair).collect())
    }

    fn counter(labels: &[(&str, &str)], value: f64) -> Metric {
        let (mut metric, mut counter) = (metric(labels), Counter::default());
        counter.set_value(value);
        metric.set_counter(counter);
        metric
    }

    fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
        let (mut metric, mut gauge) = (metric(labels), Gauge::default());
        gauge.set_value(value);
        metric.set_gauge(gauge);
        metric
    }

    fn histogram(labels: &[(&str, &str)], exemplars: &[Exemplar]) -> Metric {
        let (mut metric, mut histogram) = (metric(labels), Histogram::default());
        histogram.set_sample_count(9);
        histogram.set_sample_sum(20.5);
        for (exponent, count) in [(-20_i32, 1), (-10, 4), (0, 8)] {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(f64::from(exponent).exp2());
            bucket.set_cumulative_count(count);
            histogram.bucket.push(bucket);
        }
        add_exemplars(&mut histogram, exemplars);
        metric.set_histogram(histogram);
        metric
    }

    fn exemplar(labels: &[(&str, &str)], value: f64, timestamp: Option<Timestamp>) -> Exemplar {
        let label = |&(name, value): &(&str, &str)| Label { name: name.to_owned(), value: value.to_owned() };
        Exemplar { labels: labels.iter().map(label).collect(), value, timestamp }
    }

    #[test]
    fn the_text_is_as_expected() {
        let at = Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 };
        let exemplars = [
            exemplar(&[("tid", "7"), ("goroutine", "49374")], 0.024, Some(at)),
            exemplar(&[("odd", "a\"b")], 17.0, None),
        ];
        let families = [
            family(
                "a_bytes_total",
                MetricType::COUNTER,
                "Bytes.",
                vec![counter(&[("pid", "1")], 134_217_728.0)],
            ),
            family(
                "b_seconds",
                MetricType::HISTOGRAM,
                "Time.",
                vec![histogram(&[("pid", "1")], &exemplars), histogram(&[], &[])],
            ),
            family(
                "c_info",
                MetricType::GAUGE,
                "Who.",
                vec![
                    gauge(&[("comm", "q\"\\\nn\u{e9}"), ("exe", "")], 1.0),
                    gauge(&[("comm", "x"), ("exe", "/x")], 1.0),
                ],
            ),
            family("d_info", MetricType::GAUGE, "Says \"no\",\nor \\.", vec![gauge(&[], 2.0)]),
            family("e_seconds_total", MetricType::COUNTER, "More.", vec![counter(&[], 0.25)]),
            family("megabytes", MetricType::GAUGE, "No unit.", vec![gauge(&[], -3.0)]),
        ];
        let expected = r##"# TYPE a_bytes counter
# UNIT a_bytes bytes
# HELP a_bytes Bytes.
a_bytes_total{pid="1"} 1.34217728e+08
# TYPE b_seconds histogram
# UNIT b_seconds seconds
# HELP b_seconds Time.
b_seconds_bucket{pid="1",le="9.5367431640625e-07"} 1
b_seconds_bucket{pid="1",le="0.0009765625"} 4
b_seconds_bucket{pid="1",le="1.0"} 8 # {tid="7",goroutine="49374"} 0.024 1700000000.005000000
b_seconds_bucket{pid="1",le="+Inf"} 9 # {odd="a\"b"} 17.0
b_seconds_count{pid="1"} 9
b_seconds_sum{pid="1"} 20.5
b_seconds_bucket{le="9.5367431640625e-07"} 1
b_seconds_bucket{le="0.0009765625"} 4
b_seconds_bucket{le="1.0"} 8
b_seconds_bucket{le="+Inf"} 9
b_seconds_count 9
b_seconds_sum 20.5
# TYPE c info
# HELP c Who.
c_info{comm="q\"\\\nné",exe=""} 1.0
c_info{comm="x",exe="/x"} 1.0
# TYPE d_info gauge
# HELP d_info Says \"no\",\nor \\.
d_info 2.0
# TYPE e_seconds counter
# UNIT e_seconds seconds
# HELP e_seconds More.
e_seconds_total 0.25
# TYPE megabytes gauge
# HELP megabytes No unit.
megabytes -3.0
# EOF
"##;
        assert_eq!(encode(&families), expected);
    }

    #[test]
    fn nothing_is_an_end() {
        assert_eq!(encode(&[]), "# EOF\n");
    }

    #[test]
    fn an_exemplar_has_at_most_128_characters() {
        let of_length = |length: usize| {
            let value = "\u{e9}".repeat(length - "tid".len());
            let exemplars = [exemplar(&[("tid", &value)], 0.5, None)];
            encode(&[family("a", MetricType::HISTOGRAM, "A.", vec![histogram(&[], &exemplars)])])
        };
        assert!(of_length(128).contains("\u{e9}\"} 0.5\n"));
        assert!(of_length(129).contains("a_bucket{le=\"1.0\"} 8\n"));
    }

    /// The examples of the specification, and what Go's `%g` prints.
    #[test]
    fn floats_are_canonical() {
        for (value, expected) in [
            (0.0, "0.0"),
            (0.001, "0.001"),
            (0.999, "0.999"),
            (1.0, "1.0"),
            (1.7, "1.7"),
            (10.0, "10.0"),
            (1e-10, "1e-10"),
            (1e-9, "1e-09"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (100_000.0, "100000.0"),
            (999_999.5, "999999.5"),
            (1e6, "1e+06"),
            (1e10, "1e+10"),
            (-1.5e300, "-1.5e+300"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (2f64.powi(-14), "6.103515625e-05"),
        ] {
            assert_eq!(float(value), expected);
            let read: f64 = expected.parse().unwrap();
            assert!(read == value || read.is_nan() && value.is_nan());
        }
    }
}
