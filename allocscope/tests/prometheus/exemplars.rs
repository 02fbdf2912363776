//! Exemplars of slow allocations that a real Prometheus has, against the workload's threads, times and clock: by
//! OpenMetrics, and by protobuf where it wants native histograms.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::allocscope::{Daemon, Workload};
use crate::child::within;
use crate::dashboard::{all, panels, queries};
use crate::http::{encode, free_address};
use crate::server::Prometheus;

const METRIC: &str = "allocscope_allocation_duration_seconds";
/// One in each thread: that takes a tenth of a second at least.
const WORK: &str = "map --sizes 256MiB --count 1 --threads 2";
/// What a float of today's seconds and Prometheus' milliseconds may be off.
const CLOCK_SECONDS: f64 = 0.002;

#[test]
fn openmetrics_brings_exemplars_of_the_threads_that_allocated() {
    let mut work = Workload::start(WORK);
    let pid = work.running.pid();
    let daemon = Daemon::start(&format!("--pid {pid} --slow 1ns"), free_address());
    let prometheus = Prometheus::start(daemon.address, &["--enable-feature=exemplar-storage"]);
    prometheus.wait_for(&format!(r#"allocscope_process_up{{pid="{pid}"}}"#), |up| up == 1.0);

    let begun = unix_seconds();
    work.begin();
    let threads = threads_of(&mut work, 3);
    let truth = work.truth();
    let run = begun - CLOCK_SECONDS..=unix_seconds() + CLOCK_SECONDS;
    for stage in ["call", "touch", "release"] {
        let selector =
            format!(r#"{METRIC}_bucket{{pid="{pid}",allocator="mmap",size="256MiB",stage="{stage}"}}"#);
        let times = times(&truth["sizes"][0], stage);
        for exemplar in wait_for_exemplars(&prometheus, &selector) {
            let tid = tid_of(&exemplar);
            assert!(tid != pid && threads.contains(&tid), "{stage}: {exemplar}, not of {threads:?}");
            let seconds: f64 = exemplar["value"].as_str().unwrap().parse().unwrap();
            assert!(times.contains(&seconds), "{stage}: {exemplar}, not in {times:?}");
            let at = exemplar["timestamp"].as_f64().unwrap();
            assert!(run.contains(&at), "{stage}: {exemplar}, not in {run:?}");
        }
    }
    is_well(&prometheus);
    panels_have_exemplars(&prometheus);
}

#[test]
fn protobuf_brings_exemplars_of_native_histograms() {
    let mut churn = Workload::start("churn --threads 2");
    let pid = churn.running.pid();
    let daemon = Daemon::start(&format!("--pid {pid} --slow 1ns"), free_address());
    let prometheus =
        Prometheus::start(daemon.address, &["--enable-feature=exemplar-storage,native-histograms"]);
    churn.begin();
    let threads = threads_of(&mut churn, 3);
    let selector = format!(r#"{METRIC}{{pid="{pid}",allocator="glibc",size="64MiB",stage="touch"}}"#);
    for exemplar in wait_for_exemplars(&prometheus, &selector) {
        let tid = tid_of(&exemplar);
        assert!(tid != pid && threads.contains(&tid), "{exemplar}, not of {threads:?}");
    }
}

fn tid_of(exemplar: &Value) -> u32 {
    exemplar["labels"]["tid"].as_str().unwrap().parse().unwrap()
}

/// What the dashboard marks as queries with exemplars has some.
fn panels_have_exemplars(prometheus: &Prometheus) {
    let mut marked = 0;
    for dashboard in all() {
        let is_marked = |panel: &&Value| panel["targets"][0]["exemplar"] == true;
        for query in panels(&dashboard).into_iter().filter(is_marked).flat_map(queries) {
            assert!(!exemplars(prometheus, &query.expr).is_empty(), "{}: {}", query.place, query.expr);
            marked += 1;
        }
    }
    assert!(marked > 0);
}

/// The target answers, and in OpenMetrics; nothing was wrong with an exemplar.
fn is_well(prometheus: &Prometheus) {
    let targets = prometheus.ask("/api/v1/targets");
    let targets = targets["activeTargets"].as_array().unwrap();
    let target = targets.iter().find(|target| target["labels"]["job"] == "allocscope").unwrap();
    assert!(target["health"] == "up" && target["lastError"] == "", "{target}");
    let about = prometheus.ask(&format!("/api/v1/targets/metadata?metric={METRIC}"));
    assert_eq!((&about[0]["type"], &about[0]["unit"]), (&Value::from("histogram"), &Value::from("seconds")));
    let refused = r#"prometheus_target_scrapes_exemplar_out_of_order_total{job="prometheus"}"#;
    assert_eq!(prometheus.value(refused), 0.0);
    assert!(!prometheus.running.stderr().contains("exemplars"), "{}", prometheus.running.stderr());
}

/// The threads of a process, as soon as there are so many.
fn threads_of(work: &mut Workload, count: usize) -> BTreeSet<u32> {
    let folder = format!("/proc/{}/task", work.running.pid());
    loop {
        let name = |task: io::Result<DirEntry>| task.unwrap().file_name().into_string().unwrap();
        let threads: BTreeSet<u32> =
            fs::read_dir(&folder).unwrap().map(|task| name(task).parse().unwrap()).collect();
        if threads.len() == count {
            return threads;
        }
        assert!(!work.running.has_ended(), "it never had {count} threads");
    }
}

/// What one of two mappings may have taken, in seconds: not more than both. The threads do the same at the same time,
/// so neither has less than a quarter of both, of which faults are half at least.
fn times(own: &Value, stage: &str) -> RangeInclusive<f64> {
    let seconds = |name: &str| own[name].as_f64().unwrap() / 1e9;
    let least = if stage == "touch" { seconds("touch_cpu_ns") / 8.0 } else { 1e-7 };
    least..=seconds(&format!("{stage}_ns"))
}

fn wait_for_exemplars(prometheus: &Prometheus, selector: &str) -> Vec<Value> {
    within(selector, || Some(exemplars(prometheus, selector)).filter(|found| !found.is_empty()))
}

/// Exemplars of the series that an expression selects, from some minutes ago to some from now.
fn exemplars(prometheus: &Prometheus, expr: &str) -> Vec<Value> {
    let now = unix_seconds();
    let (start, end) = (now - 600.0, now + 600.0);
    let path = format!("/api/v1/query_exemplars?query={}&start={start:.0}&end={end:.0}", encode(expr));
    let data = prometheus.ask(&path);
    let of = |series: &Value| series["exemplars"].as_array().unwrap().clone();
    data.as_array().unwrap().iter().flat_map(of).collect()
}

fn unix_seconds() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
}
