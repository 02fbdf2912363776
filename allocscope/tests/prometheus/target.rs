//! Debian's Prometheus (Go 1.19, without symbols) as what is traced, while it scrapes allocscope and is asked a lot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::allocscope::{Daemon, sum};
use crate::http::{encode, free_address, get_ok};
use crate::server::Prometheus;

/// How long it is asked.
const LOAD: Duration = Duration::from_secs(10);
/// Samples that Prometheus has stored.
const APPENDED: &str = r#"prometheus_tsdb_head_samples_appended_total{job="prometheus",type="float"}"#;

#[test]
fn a_traced_prometheus_answers_and_its_large_allocations_are_seen() {
    let address = free_address();
    let mut prometheus = Prometheus::start(address, &[]);
    let pid = prometheus.running.pid();
    let daemon = Daemon::start(&format!("--pid {pid}"), address);
    prometheus.wait_for(r#"up{job="allocscope"}"#, |up| up == 1.0);
    prometheus.wait_for(APPENDED, |samples| samples > 0.0);
    let before = prometheus.query(APPENDED)[0].value;
    let answers = load(&prometheus);
    assert!(answers > 20, "{answers} answers in {LOAD:?}");

    prometheus_is_sane(&prometheus, before);
    go_allocations_are_seen(&daemon.metrics(), pid);
    // What it knows of itself, it knows by being traced.
    let expr = r#"sum(allocscope_allocations_total{comm="prometheus",allocator="go"})"#;
    prometheus.wait_for(expr, |count| count > 0.0);

    prometheus.running.signal(Signal::SIGTERM);
    assert_eq!(prometheus.running.wait().code(), Some(0), "{}", prometheus.running.stderr());
    let log = prometheus.running.stderr();
    for word in ["panic", "fatal error", "SIGSEGV", "SIGTRAP", "SIGILL"] {
        assert!(!log.contains(word), "{log}");
    }
    nothing_went_wrong(&daemon.metrics());
}

/// Asks what needs much memory to answer; tells how often it was answered.
fn load(prometheus: &Prometheus) -> u64 {
    let (answers, deadline) = (AtomicU64::new(0), Instant::now() + LOAD);
    let ask = |path: &dyn Fn() -> String| {
        while Instant::now() < deadline {
            get_ok(prometheus.address, &path());
            answers.fetch_add(1, Ordering::Relaxed);
        }
    };
    let everything = encode(r#"{__name__=~".+"}"#);
    thread::scope(|scope| {
        scope.spawn(|| ask(&range_query));
        scope.spawn(|| ask(&|| format!("/federate?match[]={everything}")));
        scope.spawn(|| ask(&|| format!("/api/v1/series?match[]={everything}")));
    });
    answers.into_inner()
}

/// An hour in steps of a second, over every series.
fn range_query() -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let expr = encode(r#"sum by (__name__, job) ({__name__=~".+"})"#);
    format!("/api/v1/query_range?query={expr}&start={}&end={now}&step=1", now - 3600)
}

fn prometheus_is_sane(prometheus: &Prometheus, appended_before: f64) {
    assert_eq!(get_ok(prometheus.address, "/-/healthy").trim_end(), "Prometheus Server is Healthy.");
    assert_eq!(prometheus.value(r#"up{job="prometheus"}"#), 1.0);
    assert_eq!(prometheus.value(r#"up{job="allocscope"}"#), 1.0);
    let appended = prometheus.query(APPENDED)[0].value;
    assert!(appended > appended_before, "{appended_before} samples before, {appended} after");
}

fn go_allocations_are_seen(metrics: &str, pid: u32) {
    let pid = format!("pid=\"{pid}\"");
    let of_go = |family| sum(metrics, family, &[&pid, r#"allocator="go""#]);
    let (count, bytes) = (of_go("allocscope_allocations_total"), of_go("allocscope_allocated_bytes_total"));
    assert!(count > 0.0 && bytes / count >= 32768.0, "{count} allocations of {bytes} bytes");
    let info = [pid.as_str(), r#"allocator="go1.19.8""#, r#"tier="large-path""#];
    assert_eq!(sum(metrics, "allocscope_process_info", &info), 1.0);
}

fn nothing_went_wrong(metrics: &str) {
    for reason in ["call_overwritten", "result_unreadable"] {
        let lost = sum(metrics, "allocscope_lost_total", &[&format!("reason=\"{reason}\"")]);
        assert_eq!(lost, 0.0, "{reason}");
    }
    // A call that was under way when the probes came has an end without a beginning.
    let unmatched = sum(metrics, "allocscope_lost_total", &[r#"reason="exit_unmatched""#]);
    assert!(unmatched <= 1.0, "{unmatched} exits without an entry");
}
