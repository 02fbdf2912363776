//! Times, sizes and shares into what a cell of a table says.

use crate::export::quantile::quantile_ns;
use crate::intake::SeriesReading;

/// Nanoseconds with a sensible unit and three digits: `812ns`, `16.2us`, `24.0ms`, `2.50s`.
pub fn duration(ns: f64) -> String {
    scaled(ns, 1000.0, &["ns", "us", "ms", "s"])
}

/// Bytes with a sensible unit and three digits: `512B`, `64.0KiB`, `1.50GiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be printed as four digits.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{}", units[unit])
}

pub(super) fn percentile(series: &SeriesReading, q: f64) -> String {
    quantile_ns(series, q).map_or("-".to_owned(), duration)
}

pub(super) fn longest(series: &SeriesReading) -> String {
    if series.buckets.is_empty() { "-".to_owned() } else { duration(series.totals.max_ns as f64) }
}

pub(in crate::export) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0ns"),
            (812.0, "812ns"),
            (999.4, "999ns"),
            (999.6, "1.00us"),
            (16_234.0, "16.2us"),
            (24e6, "24.0ms"),
            (999_600_000.0, "1.00s"),
            (2.5e9, "2.50s"),
            (3.6e12, "3600s"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let cases =
            [(0, "0B"), (1023, "1023B"), (1024, "1.00KiB"), (64 << 20, "64.0MiB"), (3 << 29, "1.50GiB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16.0EiB");
    }
}
