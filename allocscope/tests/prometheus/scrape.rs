//! A real Prometheus scrapes the daemon while workloads run: what it then knows, against the workload's truth.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::allocscope::{Daemon, Workload};
use crate::child::within;
use crate::dashboard::{all, panels, queries, variables};
use crate::http::{free_address, get};
use crate::server::{Prometheus, tool};

/// How long Prometheus collects before it is asked: longer than the ranges in the queries.
const COLLECTING: Duration = Duration::from_secs(20);
/// Long enough for each Prometheus to scrape what does not change any more.
const TWO_SCRAPES: Duration = Duration::from_millis(2500);
/// Size of a large allocation of `workload churn`.
const LARGE_BYTES: f64 = 67_108_864.0;

#[test]
fn what_prometheus_knows_is_what_the_workload_did() {
    let daemon = Daemon::start("--comm ^(allocscope|prometheus)$ --go-runtime --stack-depth", free_address());
    let prometheus = Prometheus::start(daemon.address, &[]);
    let native = Prometheus::start(daemon.address, &["--enable-feature=native-histograms"]);
    let (mut churn, mut remap) = (Workload::start("churn"), Workload::start("remap --rounds 20"));
    let mut regions = Workload::start("regions --seconds 60 --rate 20");
    for workload in [&mut churn, &mut remap, &mut regions] {
        daemon.wait_for_process(workload.running.pid());
    }
    for prometheus in [&prometheus, &native] {
        prometheus
            .wait_for(&format!(r#"allocscope_process_up{{pid="{}"}}"#, churn.running.pid()), |up| up == 1.0);
    }
    churn.begin();
    regions.begin();
    let begun = Instant::now();
    thread::sleep(COLLECTING / 2);
    remap.begin();
    thread::sleep(COLLECTING / 2);

    every_query_has_data(&prometheus);
    every_rule_is_evaluated(&prometheus);
    let pid = churn.running.pid();
    native_rates_have_quantiles(&native, pid);
    // Over all of the run, as the rate itself changes on a busy machine; and the slope of the samples,
    // since rate() extrapolates to where late scrapes have left none.
    let seconds = begun.elapsed().as_secs() - 2;
    let rate = prometheus.value(&format!("deriv({}[{seconds}s])", large(pid)));

    let stopped = Instant::now();
    churn.running.signal(Signal::SIGSTOP);
    thread::sleep(TWO_SCRAPES);
    native_and_classic_agree(&native, &prometheus, pid);
    // A scrape by another Prometheus would count as the one that an ended process waits for.
    drop(native);
    churn.running.signal(Signal::SIGTERM);
    churn.running.signal(Signal::SIGCONT);
    let stopped = stopped.elapsed();
    let truth = churn.truth();
    assert_eq!(remap.truth()["rounds"], 20);
    counts_are_the_truth(&prometheus, pid, &truth);
    rate_is_the_truth(rate, &truth, stopped);
    shutdown_is_clean(daemon, &prometheus);
}

/// The counter of churn's large allocations.
fn large(pid: u32) -> String {
    format!(r#"allocscope_allocations_total{{pid="{pid}",allocator="glibc",size="64MiB"}}"#)
}

/// Of every process there is, with whatever names and histograms they have.
#[test]
fn promtool_has_no_complaint() {
    let daemon = Daemon::start("--all", free_address());
    let mut churn = Workload::start("churn --seconds 2");
    daemon.wait_for_process(churn.running.pid());
    churn.begin();
    churn.truth();
    promtool_accepts(&daemon.metrics());
}

fn promtool_accepts(metrics: &str) {
    let mut command = Command::new(tool("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, metrics.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    });
}

fn every_query_has_data(prometheus: &Prometheus) {
    let mut without = Vec::new();
    for dashboard in all() {
        for query in panels(&dashboard).into_iter().flat_map(queries) {
            if !prometheus.query(&query.expr).iter().any(|sample| sample.value.is_finite()) {
                without.push(format!("{}: {}", query.place, query.expr));
            }
        }
        for variable in variables(&dashboard) {
            if prometheus.label_values(&variable.selector, &variable.label).is_empty() {
                without.push(format!("variable {}: {}", variable.name, variable.selector));
            }
        }
    }
    assert!(without.is_empty(), "queries without data:\n{}", without.join("\n"));
}

fn every_rule_is_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.ask("/api/v1/rules")["groups"].clone();
    let rules: Vec<&Value> =
        groups.as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(!rules.is_empty());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let name = rule["name"].as_str().unwrap();
        assert!(rule["type"] == "alerting" || !prometheus.query(name).is_empty(), "{name} has no data");
    }
}

fn native_rates_have_quantiles(native: &Prometheus, pid: u32) {
    let rate = format!(r#"rate(allocscope_allocation_duration_seconds{{pid="{pid}",size="64MiB"}}[10s])"#);
    for stage in ["call", "touch", "release"] {
        let expr = format!("histogram_quantile(0.95, sum by (stage) ({rate}))");
        let samples = native.query(&expr);
        let found = samples.iter().find(|sample| sample.labels["stage"] == stage);
        let seconds = found.unwrap_or_else(|| panic!("{stage}: {samples:?}")).value;
        assert!(seconds > 0.0 && seconds < 10.0, "{stage}: {seconds} s");
    }
}

/// The process stands still, so that both have the same counts.
fn native_and_classic_agree(native: &Prometheus, classic: &Prometheus, pid: u32) {
    for stage in ["call", "touch", "release"] {
        let labels = format!(r#"{{pid="{pid}",allocator="glibc",size="64MiB",stage="{stage}"}}"#);
        let metric = "allocscope_allocation_duration_seconds";
        let count = classic.value(&format!("{metric}_count{labels}"));
        assert_eq!(native.value(&format!("histogram_count({metric}{labels})")), count, "{stage}");
        for q in [0.1, 0.5, 0.95, 0.99] {
            let of_native = native.value(&format!("histogram_quantile({q}, {metric}{labels})"));
            let of_classic = classic.value(&format!("histogram_quantile({q}, {metric}_bucket{labels})"));
            let message = format!("{stage}, {q}: native {of_native}, classic {of_classic}");
            assert_eq!(classic_bucket(of_native), classic_bucket(of_classic), "{message}");
        }
    }
}

/// The classic bucket that holds a duration: its upper bound is this power of two. A duration that is
/// a bound but for rounding is taken for the bound.
fn classic_bucket(seconds: f64) -> i32 {
    (seconds.log2() - 1e-9).ceil() as i32
}

/// The series of an ended process are scraped once more, then they are gone.
fn counts_are_the_truth(prometheus: &Prometheus, pid: u32, truth: &Value) {
    let large = large(pid);
    within("the series of the ended process go", || prometheus.query(&large).is_empty().then_some(()));
    let count = truth["large"]["count"].as_f64().unwrap();
    assert_eq!(prometheus.value(&format!("last_over_time({large}[1m])")), count);
    let bytes = large.replace("allocations", "allocated_bytes");
    let bytes = prometheus.value(&format!("last_over_time({bytes}[1m])"));
    assert_eq!(bytes, count * LARGE_BYTES);
}

fn rate_is_the_truth(rate: f64, truth: &Value, stopped: Duration) {
    let seconds = truth["elapsed_ns"].as_f64().unwrap() / 1e9 - stopped.as_secs_f64();
    let own = truth["large"]["count"].as_f64().unwrap() / seconds;
    assert!((rate / own - 1.0).abs() < 0.1, "{rate} a second, the workload says {own}");
}

/// Scrapes that come while the daemon ends are answered whole or not at all.
fn shutdown_is_clean(mut daemon: Daemon, prometheus: &Prometheus) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let scrapes: Vec<_> = (0..4).map(|_| scope.spawn(|| scrape_until(daemon.address, &ended))).collect();
        thread::sleep(Duration::from_millis(500));
        daemon.running.signal(Signal::SIGTERM);
        let status = daemon.running.wait();
        ended.store(true, Ordering::Relaxed);
        assert_eq!(status.code(), Some(0), "{}", daemon.running.stderr());
        let answered: usize = scrapes.into_iter().map(|scrape| scrape.join().unwrap()).sum();
        assert!(answered > 0);
    });
    prometheus.wait_for(r#"up{job="allocscope"}"#, |up| up == 0.0);
}

/// How many scrapes were answered with metrics.
fn scrape_until(address: SocketAddr, ended: &AtomicBool) -> usize {
    let mut answered = 0;
    while !ended.load(Ordering::Relaxed) {
        match get(address, "/metrics") {
            Ok((200, metrics)) => {
                assert!(metrics.contains("\nprocess_resident_memory_bytes ") && metrics.ends_with('\n'));
                answered += 1;
            }
            Ok((status, body)) => assert_eq!(status, 503, "{body}"),
            // Refused, or hung up on before the answer began.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    answered
}
