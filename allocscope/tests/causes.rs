//! Where the time of calls and page faults went, against programs that spend it on one cause.
//!
//! In each run the causes sum to the windows' time, to the nanosecond. What other programs of the machine take from
//! the traced one is `runnable`: which cause is the largest is asked of the rest.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "causes/place.rs"]
mod place;
mod support;

use place::{Cgroup, Swap};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use support::report::Process;
use support::{Report, Running, program, run_workload};

const MIB: u64 = 1 << 20;

/// Swap is the machine's: a test that fills memory must not meet one that needs it in its own way.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn first_touches_are_page_faults_and_nothing_is_reclaimed() {
    let _guard = alone();
    let (truth, report) = run_workload("", "map --sizes 1MiB,16MiB --count 30");
    let process = report.process(truth.pid());
    assert_dominates(process, "page_fault");
    for cause in ["reclaim", "memcg_reclaim", "compaction", "swap_in", "zeroing", "gc_start"] {
        assert_eq!(nanoseconds(process, cause), 0, "{cause} in {report}");
    }
    // No call lies in another one here, and no fault in a call.
    let told = time_of_calls_and_faults(process);
    assert_eq!(ns(&process.0["window_seconds"]), told, "{report}");
}

#[test]
fn a_full_cgroup_makes_its_own_reclaim() {
    let _guard = alone();
    let _swap = Swap::on(512 * MIB);
    let cgroup = Cgroup::new(32 * MIB);
    let report = provoke(&["memcg", &(128 * MIB).to_string(), "3", cgroup.procs().to_str().unwrap()]);
    let process = only(&report);
    assert_dominates(process, "memcg_reclaim");
    assert_dominates_the_slowest(process, "memcg_reclaim");
    assert_eq!(nanoseconds(process, "reclaim"), 0, "{report}");
}

#[test]
fn pages_that_come_back_from_swap_are_swap_in() {
    let _guard = alone();
    let _swap = Swap::on(512 * MIB);
    let report = provoke(&["swap", &(32 * MIB).to_string(), "8"]);
    assert_dominates(only(&report), "swap_in");
    assert_dominates_the_slowest(only(&report), "swap_in");
    assert!(only(&report).faults("major", "large") > 0, "{report}");
}

#[test]
fn threads_that_change_mappings_at_once_wait_for_mmap_lock() {
    let _guard = alone();
    let report = provoke(&["lock", &(64 * MIB).to_string(), "10"]);
    assert_dominates(only(&report), "mmap_lock");
}

#[test]
fn a_thread_whose_cpu_others_have_is_runnable() {
    let _guard = alone();
    let _busy = Running::start(Command::new(provoker()).arg("busy"));
    let report = provoke(&["populate", &(64 * MIB).to_string(), "3"]);
    let process = only(&report);
    let (runnable, all) = (nanoseconds(process, "runnable"), sum(process));
    assert!(2 * runnable > all, "{runnable} of {all}: {report}");
    assert!(runnable > 10 * nanoseconds(process, "blocked"), "{report}");
}

#[test]
fn clearing_memory_that_was_used_before_is_zeroing() {
    let _guard = alone();
    for version in ["1.24.11", "1.27.3"] {
        let mut command = program("run --format json --");
        let ended = Running::start(command.arg(go_program(version)).arg("40")).wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let report = Report::last_in(&ended.stdout);
        assert_dominates(only(&report), "zeroing");
    }
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Of what is not `runnable` it is more than half.
fn assert_dominates(process: Process<'_>, cause: &str) {
    let rest = sum(process) - nanoseconds(process, "runnable");
    let own = nanoseconds(process, cause);
    assert!(2 * own > rest, "{cause} is {own} of {rest} ns: {}", process.0["causes"]);
}

/// The same of the allocation that was the slowest, first touch included.
fn assert_dominates_the_slowest(process: Process<'_>, cause: &str) {
    let slowest = &process.0["slow_allocations"][0];
    let causes = slowest["cause_seconds"].as_object().unwrap();
    let of = |name: &str| causes.get(name).map_or(0, ns);
    let rest = causes.values().map(ns).sum::<u64>() - of("runnable");
    assert!(slowest["touch_seconds"].as_f64() > slowest["call_seconds"].as_f64(), "{slowest}");
    assert!(2 * of(cause) > rest, "{slowest}");
}

/// Of each slow allocation the causes sum to its stages.
fn assert_slow_ones_sum(process: Process<'_>) {
    for slow in process.0["slow_allocations"].as_array().unwrap() {
        let stages = ["call_seconds", "touch_seconds", "release_seconds"].map(|stage| &slow[stage]);
        let told: u64 = stages.into_iter().filter(|time| !time.is_null()).map(ns).sum();
        let causes: u64 = slow["cause_seconds"].as_object().unwrap().values().map(ns).sum();
        assert_eq!(causes, told, "{slow}");
    }
}

/// All causes, which sum to the windows.
fn sum(process: Process<'_>) -> u64 {
    let sum = process.0["causes"].as_object().unwrap().values().map(ns).sum();
    assert_eq!(sum, ns(&process.0["window_seconds"]), "{}", process.0);
    assert!(process.0["coverage"]["misses"].as_array().unwrap().is_empty(), "{}", process.0);
    sum
}

fn time_of_calls_and_faults(process: Process<'_>) -> u64 {
    let rows = process.0["allocations"].as_array().unwrap().iter();
    let stages = rows.flat_map(|row| ["call", "release"].map(|stage| &row["stages"][stage]["time_seconds"]));
    let faults = process.0["faults"].as_array().unwrap().iter().map(|row| &row["time_seconds"]);
    stages.chain(faults).filter(|time| !time.is_null()).map(ns).sum()
}

fn nanoseconds(process: Process<'_>, cause: &str) -> u64 {
    ns(&process.0["causes"][cause])
}

/// Exact below 2^53 ns, a hundred days.
fn ns(seconds: &Value) -> u64 {
    (seconds.as_f64().unwrap() * 1e9).round() as u64
}

fn only(report: &Report) -> Process<'_> {
    let mut processes = report.processes();
    let process = processes.next().unwrap();
    assert!(processes.next().is_none(), "{report}");
    assert_eq!(report.losses(), [], "{report}");
    assert_slow_ones_sum(process);
    process
}

fn provoke(words: &[&str]) -> Report {
    let mut command = program("run --format json --");
    let ended = Running::start(command.arg(provoker()).args(words)).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    Report::last_in(&ended.stdout)
}

fn provoker() -> PathBuf {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("provoke");
    let source = source("provoke.c");
    if !is_newer(&output, &source) {
        let aside = output.with_extension(std::process::id().to_string());
        let mut command = Command::new("cc");
        command.args(["-std=c11", "-O2", "-pthread", "-Wall", "-Wextra"]).arg(source);
        succeed(command.arg("-o").arg(&aside));
        std::fs::rename(aside, &output).unwrap();
    }
    output
}

fn is_newer(output: &Path, source: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    time(output).is_some_and(|built| Some(built) > time(source))
}

fn go_program(version: &str) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tools =
        std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(|| tmp.with_file_name("tools"), PathBuf::from);
    let go = tools.join("go").join(version).join("bin/go");
    assert!(go.is_file(), "{} is missing: run `cargo xtask setup`", go.display());
    let output = tmp.join("go").join(version).join("zeroing");
    let mut command = Command::new(&go);
    command.args(["build", "-trimpath", "-o"]).arg(&output).arg(source("zeroing.go"));
    command.env("GOCACHE", tmp.join("gocache")).env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    succeed(command.env("CGO_ENABLED", "0").env_remove("GOFLAGS").env_remove("GOROOT"));
    output
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/causes").join(name)
}

fn succeed(command: &mut Command) {
    let said = command.output().unwrap();
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
}
