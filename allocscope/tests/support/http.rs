//! Plain HTTP GETs, and the metrics that come back.

use super::{LIMIT, Running};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The address in `metrics at http://ADDRESS/metrics`.
pub fn address(tracer: &Running) -> SocketAddr {
    let said = tracer.until_stderr("/metrics");
    let rest = said.split("http://").nth(1).unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).unwrap()
}

/// The same where the server may be gone.
pub fn try_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\nAccept: text/plain\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let bad = || io::Error::new(io::ErrorKind::InvalidData, answer.to_string());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}

/// A scrape.
pub struct Metrics(pub String);

impl Metrics {
    pub fn scrape(address: SocketAddr) -> Self {
        let (status, body) = get(address, "/metrics");
        assert_eq!(status, 200, "{body}");
        Self(body)
    }

    /// The sum of the series of a family that have all these labels; `None` where there are none.
    pub fn value(&self, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let is_it = |name: &str| {
            name.split('{').next() == Some(family) && labels.iter().all(|label| has_label(name, label))
        };
        let values = self.0.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (!line.starts_with('#') && is_it(name)).then(|| value.parse::<f64>().unwrap())
        });
        values.reduce(|sum, value| sum + value)
    }

    /// The same for a process, as a count.
    pub fn of_process(&self, family: &str, pid: u32, labels: &[(&str, &str)]) -> Option<u64> {
        let pid = pid.to_string();
        let labels: Vec<_> = std::iter::once(("pid", pid.as_str())).chain(labels.iter().copied()).collect();
        self.value(family, &labels).map(|value| value as u64)
    }
}

fn has_label(series: &str, label: &str) -> bool {
    series.match_indices(label).any(|(at, _)| matches!(series.as_bytes()[at - 1], b'{' | b','))
}
