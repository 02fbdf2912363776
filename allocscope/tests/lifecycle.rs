//! Processes that come, change and go under the daemon; tracers that are killed, doubled and stopped.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::http::{Metrics, address, get};
use support::report::Counts;
use support::{LIMIT, PROGRAM, Report, Running, TempDir, Truth, Workload, attach, eventually, program};

const MIB: u64 = 1 << 20;

/// For those who make hundreds of processes, which all daemons of others would have to have slots for.
static CHURN: Mutex<()> = Mutex::new(());

/// A daemon that traces, and where it serves.
fn daemon(flags: &str) -> (Running, SocketAddr) {
    let daemon = Running::start(&mut program(&format!("daemon --listen 127.0.0.1:0 {flags}")));
    let address = address(&daemon);
    assert!(eventually(LIMIT, || get(address, "/readyz").0 == 200));
    (daemon, address)
}

fn stop(daemon: Running) {
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!ended.stderr.contains("panicked"), "{ended}");
}

/// Calls of mmap in a size class that a scrape shows for a process.
fn calls(metrics: &Metrics, pid: u32, size: &str) -> Option<u64> {
    metrics.of_process("allocscope_allocations_total", pid, &[("allocator", "mmap"), ("size", size)])
}

fn is_known(metrics: &Metrics, pid: u32) -> bool {
    metrics.of_process("allocscope_process_up", pid, &[]).is_some()
}

#[test]
fn a_killed_tracer_leaves_nothing_and_the_next_one_counts() {
    let workload = Workload::waiting("map --sizes 1MiB --count 40");
    let pid = workload.pid();
    let first = attach(pid, "");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait().signal, Some(9));
    let (second, third) = (attach(pid, ""), attach(pid, ""));
    workload.go();
    for tracer in [second, third] {
        let ended = tracer.wait();
        let report = Report::last_in(&ended.stdout);
        assert_eq!(report.process(pid.into()).counts("mmap", MIB), Counts::whole(40, MIB), "{report}");
    }
}

/// An ended process is shown by one more scrape, with its final counts, and then no more.
#[test]
fn a_dead_process_is_shown_once_more() {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "once-more");
    let (daemon, address) = daemon("--comm ^once-more$");
    let workload = Workload::waiting_at(&copy, "map --sizes 2MiB --count 25");
    let pid = workload.pid();
    assert!(eventually(LIMIT, || is_known(&Metrics::scrape(address), pid)));
    workload.go();
    let mut last = None;
    let gone = eventually(LIMIT, || {
        let metrics = Metrics::scrape(address);
        if is_known(&metrics, pid) {
            let up = metrics.of_process("allocscope_process_up", pid, &[]).unwrap();
            last = Some((up, calls(&metrics, pid, "2MiB")));
            return false;
        }
        true
    });
    assert!(gone, "process {pid} is still shown");
    assert_eq!(last, Some((0, Some(25))));
    stop(daemon);
}

#[test]
fn the_daemon_follows_by_executable_and_by_pid() {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "by-path");
    let (by_path, path_address) = daemon(&format!("--exe ^{}$", copy.display()));
    let workload = Workload::waiting_at(&copy, "map --sizes 1MiB --count 30 --hold");
    let (by_pid, pid_address) = daemon(&format!("--pid {}", workload.pid()));
    let pid = workload.pid();
    assert!(eventually(LIMIT, || is_known(&Metrics::scrape(path_address), pid)));
    workload.go();
    for address in [path_address, pid_address] {
        let mut last = None;
        let exact = eventually(LIMIT, || {
            last = calls(&Metrics::scrape(address), pid, "1MiB").or(last);
            last == Some(30)
        });
        assert!(exact, "{last:?}");
    }
    stop(by_path);
    stop(by_pid);
}

/// The shell becomes the workload: the same process with a new image and new counts of its own.
#[test]
fn exec_replaces_the_image() {
    let script = format!("exec {PROGRAM} workload map --sizes 1MiB --count 20");
    let ended = Running::start(program("run --format json --").args(["sh", "-c", &script])).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let (truth, report) = (Truth::in_output(&ended.stdout), Report::last_in(&ended.stdout));
    let process = report.process(truth.pid());
    assert_eq!(process.0["comm"], "allocscope", "{report}");
    assert_eq!(process.counts("mmap", MIB), Counts::whole(20, MIB), "{report}");
}

/// Many processes of one C library, and still each small call that no cache serves costs one trap, not a return as well.
#[test]
fn small_calls_of_many_processes_have_no_return_probe() {
    let dir = TempDir::new();
    let counts = compiled(&dir, "returns.c");
    let mut run = program("run --format json --");
    let ended = Running::start(run.args(["sh", "-c", "sleep 4 & $0; kill $!"]).arg(counts)).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let counted = ended.stdout.lines().next().unwrap();
    let (pid, returns) = counted.split_once(' ').unwrap();
    let report = Report::last_in(&ended.stdout);
    let process = report.process(pid.parse().unwrap());
    let hits = |class: &str| process.0["cost"]["hits"][class].as_u64().unwrap();
    assert!(hits("uprobe_emulated") > 10_000, "{report}");
    assert_eq!(returns.parse(), Ok(hits("uprobe_return")), "{report}");
}

/// What a child allocates before anybody looked at it is told as lost, and all else is counted.
#[test]
fn calls_of_a_child_are_counted_or_told_as_too_early() {
    const CHILDREN: u64 = 40;
    let dir = TempDir::new();
    let early = compiled(&dir, "early.c");
    let script = format!("for i in $(seq {CHILDREN}); do $0; done");
    let mut run = program("run --format json --");
    let ended = Running::start(run.args(["sh", "-c", &script]).arg(early)).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::last_in(&ended.stdout);
    let calls = |process: &Value| {
        let rows = process["allocations"].as_array().unwrap().iter();
        let wanted =
            rows.filter(|row| (&row["allocator"], &row["size"]) == (&json!("glibc"), &json!("64KiB")));
        wanted.map(|row| row["count"].as_u64().unwrap()).sum::<u64>()
    };
    let counted: u64 = report.0["processes"].as_array().unwrap().iter().map(calls).sum();
    assert_eq!(counted + report.lost("call_too_early"), 50 * CHILDREN, "{report}");
}

/// One process, one image after the other, 64 ranges each: for one process there is room for 16,384.
#[test]
fn images_that_are_over_leave_no_ranges_behind() {
    const IMAGES: u64 = 300;
    let dir = TempDir::new();
    let again = compiled(&dir, "again.c");
    let mut run = program("run --no-follow-children --min-size 8192 --format json --");
    let ended = Running::start(run.arg(&again).arg(IMAGES.to_string())).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::last_in(&ended.stdout);
    assert_eq!(report.lost("ranges_full"), 0, "{report}");
}

/// Each child is a process of its own, whatever slot it gets; counts never move from one to another.
#[test]
fn short_lived_processes_keep_their_counts_apart() {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "brief");
    let (daemon, address) = daemon("--comm ^brief$ --max-processes 24");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors();
    for round in 1..=100u64 {
        let count = 1 + round % 7;
        let workload = Workload::waiting_at(&copy, &format!("map --sizes 1MiB --count {count}"));
        let pid = workload.pid();
        assert!(eventually(LIMIT, || is_known(&Metrics::scrape(address), pid)), "round {round}");
        workload.go();
        let mut last = None;
        let exact = eventually(LIMIT, || {
            last = calls(&Metrics::scrape(address), pid, "1MiB").or(last);
            last == Some(count)
        });
        assert!(exact, "round {round}: {last:?} of {count}");
    }
    let settled = eventually(LIMIT, || {
        get(address, "/metrics");
        descriptors() <= before + 4
    });
    assert!(settled, "{before} descriptors before, {} after", descriptors());
    assert_eq!(Metrics::scrape(address).value("allocscope_processes_over_limit_total", &[]), Some(0.0));
    stop(daemon);
}

/// The same for 300 processes that nobody waits for, found at their fork; slots serve again. Each process'
/// last scrape is its final one.
#[test]
fn a_churn_of_processes_keeps_its_counts_apart() {
    let _alone = CHURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new();
    let outputs = dir.join("truths");
    let running = std::fs::read_dir("/proc").unwrap().count();
    let (daemon, address) = daemon(&format!("--all --max-processes {}", running + 200));
    let script = format!(
        "for i in $(seq 300); do {PROGRAM} workload map --sizes 1MiB --count $((i % 7 + 1)); done > {}",
        outputs.display()
    );
    let mut churn = Running::start(Command::new("sh").args(["-c", &script]));
    let mut seen = BTreeMap::new();
    let mut is_over = false;
    while !is_over {
        is_over = !churn.is_running();
        let metrics = Metrics::scrape(address);
        seen.extend(calls_by_pid(&metrics, "1MiB"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let truths = Truth::all_in_output(&std::fs::read_to_string(&outputs).unwrap());
    assert_eq!(truths.len(), 300);
    let metrics = Metrics::scrape(address);
    seen.extend(calls_by_pid(&metrics, "1MiB"));
    for truth in truths {
        let expected = truth.0["sizes"][0]["count"].as_u64();
        assert_eq!(seen.get(&truth.pid()).copied(), expected, "{}", truth.0);
    }
    assert_eq!(metrics.value("allocscope_processes_over_limit_total", &[]), Some(0.0));
    stop(daemon);
}

/// Processes that ended unseen keep no slot from one that runs.
#[test]
fn a_daemon_that_nobody_scrapes_traces_who_comes() {
    let _alone = CHURN.lock().unwrap_or_else(PoisonError::into_inner);
    let running = std::fs::read_dir("/proc").unwrap().count();
    let (daemon, address) = daemon(&format!("--all --max-processes {}", running + 100));
    let churn =
        Running::start(Command::new("sh").args(["-c", "for i in $(seq 600); do /bin/true; done"])).wait();
    assert_eq!(churn.code, Some(0), "{churn}");
    let workload = Workload::waiting("map --sizes 4MiB --count 15 --hold");
    let pid = workload.pid();
    // Whoever found no slot for the moment is looked for again within some seconds.
    std::thread::sleep(Duration::from_secs(5));
    workload.go();
    let mut last = None;
    let exact = eventually(LIMIT, || {
        last = calls(&Metrics::scrape(address), pid, "4MiB").or(last);
        last == Some(15)
    });
    let metrics = Metrics::scrape(address);
    assert!(exact, "{last:?}: {}", metrics.0);
    let unscraped = metrics.value("allocscope_processes_retired_unscraped_total", &[]).unwrap();
    assert!(unscraped >= 100.0, "{unscraped}");
    stop(daemon);
}

/// One that found no slot is traced when there is one.
#[test]
fn a_process_over_the_limit_is_traced_when_another_one_has_ended() {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "queue");
    let first = Workload::waiting_at(&copy, "map --count 1");
    let second = Workload::waiting_at(&copy, "map --count 1 --hold");
    let (daemon, address) = daemon("--comm ^queue$ --max-processes 1");
    let known = |pid| is_known(&Metrics::scrape(address), pid);
    let (ends, waits) = if known(first.pid()) { (first, second) } else { (second, first) };
    assert!(known(ends.pid()) && !known(waits.pid()));
    let waiting = waits.pid();
    drop(ends);
    assert!(eventually(LIMIT, || known(waiting)));
    assert_eq!(Metrics::scrape(address).value("allocscope_processes_over_limit_total", &[]), Some(1.0));
    stop(daemon);
}

/// The same counts as [`calls`], of every process.
fn calls_by_pid(metrics: &Metrics, size: &str) -> BTreeMap<u64, u64> {
    let wanted = format!("allocator=\"mmap\",size=\"{size}\"}} ");
    let lines = metrics.0.lines().filter(|line| line.starts_with("allocscope_allocations_total{pid="));
    let counts = lines.filter_map(|line| {
        let count = line.split_once(&wanted)?.1;
        Some((line.split('"').nth(1)?.parse().ok()?, count.parse().ok()?))
    });
    counts.collect()
}

#[test]
fn processes_over_the_limit_are_counted() {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "crowd");
    let workloads: Vec<_> = (0..5).map(|_| Workload::waiting_at(&copy, "map --count 1")).collect();
    let (daemon, address) = daemon("--comm ^crowd$ --max-processes 3");
    let metrics = Metrics::scrape(address);
    let known = workloads.iter().filter(|workload| is_known(&metrics, workload.pid())).count();
    assert_eq!(known, 3);
    assert_eq!(metrics.value("allocscope_processes_over_limit_total", &[]), Some(2.0));
    stop(daemon);
}

/// Of all processes on the machine, the test's own are looked at.
#[test]
fn the_daemon_traces_everyone_but_itself() {
    let (daemon, address) = daemon("--all");
    let workload = Workload::waiting("map --sizes 4MiB --count 15 --hold");
    let pid = workload.pid();
    assert!(eventually(LIMIT, || is_known(&Metrics::scrape(address), pid)));
    let metrics = Metrics::scrape(address);
    assert!(!is_known(&metrics, daemon.pid()), "{}", metrics.0);
    workload.go();
    let mut last = None;
    let exact = eventually(LIMIT, || {
        last = calls(&Metrics::scrape(address), pid, "4MiB").or(last);
        last == Some(15)
    });
    assert!(exact, "{last:?}");
    stop(daemon);
}

#[test]
fn a_stopped_daemon_frees_its_port() {
    let (daemon, address) = daemon(&format!("--pid {}", std::process::id()));
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/").0, 200);
    assert_eq!(get(address, "/nowhere").0, 404);
    stop(daemon);
    TcpListener::bind(address).unwrap();
}

/// The manual and the completions come from the same description of the command line.
#[test]
fn the_manual_and_completions_are_written() {
    for (arguments, word) in [(["man"].as_slice(), ".TH"), (&["completions", "bash"], "_allocscope")] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(word));
    }
}

/// A program in C of this test's folder.
fn compiled(dir: &TempDir, source: &str) -> PathBuf {
    let output = dir.join(source.trim_end_matches(".c"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lifecycle").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-o"]).arg(&output).arg(source);
    assert!(cc.status().unwrap().success());
    output
}
