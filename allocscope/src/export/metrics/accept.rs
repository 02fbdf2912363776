//! An `Accept` header into the format that it prefers.

use super::Format;

/// The format that an `Accept` header wants most. Of equal wishes the one that people read best is served; so it is to
/// whoever sends no header or wants nothing that there is.
pub(super) fn preferred(accept: &str) -> Format {
    let ranges: Vec<_> = accept.split(',').map(MediaRange::parse).collect();
    let mut best = (Format::Text, 0.0);
    for format in Format::ALL {
        let quality = quality_of(format, &ranges);
        if quality > best.1 {
            best = (format, quality);
        }
    }
    best.0
}

/// How much a format is wanted: of several ranges that cover it the most specific counts, such as text/plain before
/// text/* before */*.
fn quality_of(format: Format, ranges: &[MediaRange]) -> f64 {
    let wishes = ranges.iter().filter_map(|range| Some((range.specificity(format)?, range.quality())));
    wishes.fold((0, 0.0), |best, wish| if wish > best { wish } else { best }).1
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

    /// How closely it describes a format; `None` where it does not cover it.
    fn specificity(&self, format: Format) -> Option<u8> {
        match (self.media_type.as_str(), format) {
            ("text/plain", Format::Text) if self.allows_version("0.0.4") => Some(3),
            ("application/openmetrics-text", Format::OpenMetrics) if self.allows_version("1.0.0") => Some(3),
            ("application/openmetrics-text", Format::OpenMetricsDraft) if self.allows_version("0.0.1") => {
                Some(3)
            }
            ("application/vnd.google.protobuf", Format::Protobuf) if self.is_delimited_families() => Some(3),
            ("text/*", Format::Text) => Some(2),
            ("*/*", _) => Some(1),
            _ => None,
        }
    }

    fn allows_version(&self, version: &str) -> bool {
        self.parameter("version").is_none_or(|wanted| wanted == version)
    }

    fn is_delimited_families(&self) -> bool {
        self.parameter("proto").is_none_or(|name| name == "io.prometheus.client.MetricFamily")
            && self.parameter("encoding") == Some("delimited")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metrics::tests::PROMETHEUS_ACCEPTS;

    #[test]
    fn the_accept_header_decides() {
        for (format, accepts) in [
            (
                Format::Protobuf,
                &[
                    PROMETHEUS_ACCEPTS,
                    "application/vnd.google.protobuf; encoding=delimited",
                    "*/*;q=0.1, application/vnd.google.protobuf;encoding=\"delimited\";q=0.2",
                    // Prometheus 3 with native histograms.
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ][..],
            ),
            (
                Format::OpenMetrics,
                &[
                    // Prometheus 2 and 3 as they are by default.
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                    "Application/OpenMetrics-Text",
                    "application/openmetrics-text; version=\"1.0.0\"; charset=utf-8",
                    "application/openmetrics-text,application/vnd.google.protobuf;encoding=delimited",
                    "text/plain;q=0,*/*",
                ],
            ),
            (
                Format::OpenMetricsDraft,
                &[
                    // Prometheus before 2.34.
                    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
            ),
            (
                Format::Text,
                &[
                    "",
                    "*/*",
                    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                    "text/plain,application/openmetrics-text",
                    "application/openmetrics-text;q=0.4,text/*;q=0.5",
                    "application/openmetrics-text;version=2.0.0",
                    "application/openmetrics-text;q=NaN",
                    "application/vnd.google.protobuf;encoding=text",
                    "application/vnd.google.protobuf;encoding=delimited;q=0",
                    "application/vnd.google.protobuf;encoding=delimited;q=nonsense",
                    "application/vnd.google.protobuf;encoding=delimited,*/*",
                    "application/vnd.google.protobuf;proto=other.Message;encoding=delimited",
                    "application/vnd.google.protobuf;encoding=delimited;q=0.4,text/plain;q=0.5,*/*;q=0.1",
                    ";;;,,,=",
                ],
            ),
        ] {
            for accept in accepts {
                assert_eq!(preferred(accept), format, "{accept}");
            }
        }
    }
}
