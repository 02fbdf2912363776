//! A Prometheus without native histograms, so one that asks for OpenMetrics: which exemplars it has of a slow
//! allocation, against the workload's threads, times and clock.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::allocscope::{Daemon, Workload};
use crate::child::within;
use crate::http::{encode, free_address};
use crate::server::Prometheus;

const METRIC: &str = "allocscope_allocation_duration_seconds";
/// One in each thread: that takes a tenth of a second at least.
const WORK: &str = "map --sizes 256MiB --count 1 --threads 2";
/// What a float of today's seconds and Prometheus' milliseconds may be off.
const CLOCK_SECONDS: f64 = 0.002;

#[test]
fn exemplars_name_the_threads_of_slow_allocations() {
    let daemon = Daemon::start("--comm ^allocscope$ --slow 1us", free_address());
    let prometheus = Prometheus::start(daemon.address, &["--enable-feature=exemplar-storage"]);
    let mut work = Workload::start(WORK);
    let pid = work.running.pid();
    daemon.wait_for_process(pid);
    prometheus.wait_for(&format!(r#"allocscope_process_up{{pid="{pid}"}}"#), |up| up == 1.0);

    let begun = unix_seconds();
    work.begin();
    let threads = threads_of(&mut work, 3);
    let truth = work.truth();
    let ended = unix_seconds();
    let own = &truth["sizes"][0];
    for stage in ["touch", "release"] {
        let (most, least) = bounds(own, stage);
        let found = wait_for_exemplars(&prometheus, pid, stage);
        for exemplar in &found {
            let tid = exemplar["labels"]["tid"].as_str().unwrap().parse().unwrap();
            assert!(tid != pid && threads.contains(&tid), "{stage}: {exemplar}, not of {threads:?}");
            let seconds: f64 = exemplar["value"].as_str().unwrap().parse().unwrap();
            assert!(least <= seconds && seconds <= most, "{stage}: {exemplar}, not in {least} to {most} s");
            let at = exemplar["timestamp"].as_f64().unwrap();
            let run = begun - CLOCK_SECONDS..ended + CLOCK_SECONDS;
            assert!(run.contains(&at), "{stage}: {exemplar}, not in {run:?}");
        }
    }
    is_well(&prometheus);
}

/// The target answers, and in OpenMetrics; nothing was wrong with an exemplar.
fn is_well(prometheus: &Prometheus) {
    let targets = prometheus.ask("/api/v1/targets");
    let targets = targets["activeTargets"].as_array().unwrap();
    let target = targets.iter().find(|target| target["labels"]["job"] == "allocscope").unwrap();
    assert!(target["health"] == "up" && target["lastError"] == "", "{target}");
    let about = prometheus.ask(&format!("/api/v1/targets/metadata?metric={METRIC}"));
    assert_eq!((&about[0]["type"], &about[0]["unit"]), (&Value::from("histogram"), &Value::from("seconds")));
    for lost in [
        "prometheus_tsdb_exemplar_out_of_order_exemplars_total",
        "prometheus_target_scrapes_exemplar_out_of_order_total",
    ] {
        assert_eq!(prometheus.value(&format!(r#"{lost}{{job="prometheus"}}"#)), 0.0, "{lost}");
    }
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

/// What one of two mappings may have taken, in seconds: never more than both; and if the other one's exemplar is in a
/// bucket of its own or the same, not less than a quarter of both, of which faults are half at least.
fn bounds(own: &Value, stage: &str) -> (f64, f64) {
    let seconds = |name: &str| own[name].as_f64().unwrap() / 1e9;
    let least = if stage == "touch" { seconds("touch_cpu_ns") / 8.0 } else { 1e-6 };
    (seconds(&format!("{stage}_ns")), least)
}

fn wait_for_exemplars(prometheus: &Prometheus, pid: u32, stage: &str) -> Vec<Value> {
    let query = format!(r#"{METRIC}_bucket{{pid="{pid}",allocator="mmap",size="256MiB",stage="{stage}"}}"#);
    let now = unix_seconds();
    let (start, end) = (now - 600.0, now + 600.0);
    let path = format!("/api/v1/query_exemplars?query={}&start={start:.0}&end={end:.0}", encode(&query));
    within(stage, || {
        let data = prometheus.ask(&path);
        let of = |series: &Value| series["exemplars"].as_array().unwrap().clone();
        let found: Vec<Value> = data.as_array().unwrap().iter().flat_map(of).collect();
        (!found.is_empty()).then_some(found)
    })
}

fn unix_seconds() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
}
