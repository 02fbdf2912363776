//! An `Accept` header into whether it prefers protobuf to text.

/// Whether an `Accept` header wants delimited protobuf more than text. Equal wishes get text, which
/// people can read; so does whoever sends no header.
pub(super) fn prefers_protobuf(accept: &str) -> bool {
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
    use crate::export::metrics::tests::PROMETHEUS_ACCEPTS;

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
}
