//! A value on the command line, as text, into what it means: sizes, times, addresses and the like.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use regex::Regex;

use super::DEFAULT_PORT;

/// The largest size taken from the command line: a whole address space with five-level page tables.
const MAX_SIZE_BYTES: u64 = 1 << 57;

/// A percentage above 0, with or without its sign.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|number| *number > 0.0);
    number.filter(|number| number.is_finite()).ok_or_else(|| "a percentage above 0, such as 5".to_owned())
}

/// `NAME=VALUE` into both.
pub(super) fn environment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is set as NAME=VALUE".to_owned()),
    }
}

/// A process id, which is not 0.
pub(super) fn pid_parser() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// A size in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bytes = text
        .trim()
        .parse::<ByteSize>()
        .map_err(|_| "a size is a number with or without a unit, such as 64KiB, 1M or 4096".to_owned())?
        .as_u64();
    if bytes > MAX_SIZE_BYTES {
        return Err("that is more than an address space can hold".to_owned());
    }
    Ok(bytes)
}

/// A size in bytes other than 0.
pub(super) fn positive_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("the size must be greater than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A length of time.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| "a time is a number with a unit, such as 500ms, 10s or 5m".to_owned())
}

/// A length of time other than 0.
pub(super) fn positive_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("the time must be greater than 0".to_owned()),
        time => Ok(time),
    }
}

/// A length of time that reports can be apart.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
        Ok(time)
    } else {
        Err("the interval must be from 100ms to 1h".to_owned())
    }
}

/// An address and port; no names, because looking one up would be an act.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("an address has a port, such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}")
    })
}

/// A regular expression. The crate's own message is a drawing of several lines; its last says what is wrong.
pub(super) fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        format!("not a regular expression: {}", last.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("1M"), Ok(1_000_000));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "x", "1X", "-1", "1e3", "1..2K", "KiB", "99999999EiB", "18446744073709551616", "１"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(positive_size("0").is_err());
        assert!(positive_size("0.1").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(time("10").is_err());
        assert!(time("ten seconds").is_err());
        assert!(positive_time("0s").is_err());
        assert!(interval("99ms").is_err());
        assert!(interval("100ms").is_ok());
        assert!(interval("1h").is_ok());
        assert!(interval("61m").is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(listen("127.0.0.1:1"), Ok(SocketAddr::from(([127, 0, 0, 1], 1))));
        assert_eq!(listen("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(listen("[::1]:0").is_ok());
        for bad in ["", "80", ":80", "127.0.0.1", "127.0.0.1:99999", "example.org:80", "localhost:"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_regex_is_told_in_one_line() {
        let message = regex("a(b").unwrap_err();
        assert_eq!(message, "not a regular expression: unclosed group");
    }
}
