//! Processes that only wait, so that there are many; and what a daemon that traces all of them says.

use super::tracer::Process;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Until a daemon has found them all.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two scrapes.
const PAUSE: Duration = Duration::from_millis(200);

/// Waiting processes; killed when dropped.
pub struct Crowd(Vec<Child>);

impl Crowd {
    /// Starts so many of the bundled workloads that wait for a line.
    pub fn start(program: &Path, size: usize) -> Result<Self> {
        let mut crowd = Self(Vec::with_capacity(size));
        for _ in 0..size {
            let mut command = Command::new(program);
            command.args(["workload", "map", "--wait-stdin"]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            crowd.0.push(child.context("cannot start so many processes")?);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // An error means that it has ended already.
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Waits until a daemon traces a process and at least so many more.
pub fn wait_for_all(daemon: &Process, pid: u32, crowd: usize) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let metrics = scrape(daemon)?;
        let known = sum(&metrics, "allocscope_process_up", &format!("pid=\"{pid}\""));
        if known > 0.0 && sum(&metrics, "allocscope_processes", "") > crowd as f64 {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    bail!("it did not find all processes")
}

/// What a daemon has counted for a process that has ended, and how many it traces.
pub fn report(daemon: &Process, pid: u32) -> Result<Value> {
    let metrics = scrape(daemon)?;
    let mebibytes: Vec<&str> = metrics.lines().filter(|line| line.contains("size=\"1MiB\"")).collect();
    let large = sum(&mebibytes.join("\n"), "allocscope_allocations_total", &format!("pid=\"{pid}\""));
    Ok(json!({ "processes": sum(&metrics, "allocscope_processes", ""), "large": large }))
}

fn scrape(daemon: &Process) -> Result<String> {
    let said = daemon.said("/metrics").context("it does not say where its metrics are")?;
    let address = said.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let mut stream = TcpStream::connect(address.context("it names no address")?)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("its metrics are no text")?;
    Ok(text)
}

/// Of the series of a family whose labels contain a text.
fn sum(metrics: &str, family: &str, label: &str) -> f64 {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_it = series.split('{').next() == Some(family) && series.contains(label);
        is_it.then(|| value.parse::<f64>().ok())?
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_family_and_label() {
        let text = "# TYPE a counter\na{pid=\"1\",size=\"1MiB\"} 3\na{pid=\"1\",size=\"2MiB\"} 4\n\
                    a{pid=\"12\"} 9\na_b{pid=\"1\"} 7\nc 5\n";
        assert_eq!(sum(text, "a", "pid=\"1\""), 7.0);
        assert_eq!(sum(text, "a", ""), 16.0);
        assert_eq!(sum(text, "c", ""), 5.0);
        assert_eq!(sum(text, "d", ""), 0.0);
    }
}
