//! `advise` on real programs: what is found, that following it saves what it says, and who gets no advice.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use support::{Ended, PROGRAM, Report, Running, TempDir, program};

const MIB: u64 = 1 << 20;
/// Programs here take seconds by themselves, and the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);
/// Rounds whose medians are compared.
const ROUNDS: usize = 5;

/// `advise/work.c`, built once.
fn work() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/advise/work.c");
        let output =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("advise-work-{}", std::process::id()));
        let flags = ["-std=gnu11", "-O2", "-fno-builtin", "-pthread", "-Wall", "-Wextra"];
        let said = Command::new("cc").args(flags).arg(&source).arg("-o").arg(&output).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        output
    })
}

type Setting = [(String, String)];

/// `advise --format json` on a command with these variables.
fn advise(setting: &Setting, command: &[&str]) -> Ended {
    let mut advise = program("advise --format json");
    for (name, value) in setting {
        advise.arg("--env").arg(format!("{name}={value}"));
    }
    let ended = Running::start(advise.arg("--").args(command)).wait_for(LIMIT);
    assert_eq!(ended.code, Some(0), "{ended}");
    ended
}

/// The findings of the only process.
fn findings(ended: &Ended) -> Vec<Value> {
    let report = Report::last_in(&ended.stdout);
    assert_eq!(report.processes().count(), 1, "{ended}");
    report.0["processes"][0]["findings"].as_array().unwrap().clone()
}

fn find<'a>(findings: &'a [Value], kind: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["kind"] == kind)
        .unwrap_or_else(|| panic!("no {kind}: {findings:?}"))
}

/// What a finding says to set.
fn setting(finding: &Value) -> Vec<(String, String)> {
    let variables = finding["environment"].as_object().unwrap();
    assert!(!variables.is_empty(), "{finding}");
    variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// All that following the finding would have saved in the run.
fn saving_seconds(finding: &Value) -> f64 {
    let rate = finding["recoverable_seconds_per_second"].as_f64().unwrap();
    rate * finding["figures"]["observed_seconds"].as_f64().unwrap()
}

/// CPU time of `work`, untraced, by its own clock. The wall's has the time in it that other programs had the CPU.
fn cpu_seconds(setting: &Setting, arguments: &[&str]) -> f64 {
    let mut command = Command::new(work());
    command.args(arguments).envs(setting.iter().map(|(name, value)| (name, value)));
    let ended = Running::start(&mut command).wait_for(LIMIT);
    assert_eq!(ended.code, Some(0), "{ended}");
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    said["cpu_ns"].as_f64().unwrap() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The same work traced, untraced, and untraced with what the first was told to set: what was said, and what was saved.
fn round(command: &[&str], arguments: &[&str]) -> (f64, f64) {
    let findings = findings(&advise(&[], command));
    let churn = find(&findings, "threshold_churn");
    assert_eq!(churn["allocator"], "glibc");
    let before = cpu_seconds(&[], arguments);
    (saving_seconds(churn), before - cpu_seconds(&setting(churn), arguments))
}

/// The median over rounds of what was said by what was saved, within a round: others use the machine too, and for longer
/// than that. Where it is not what it should be, as many rounds more tell whether that was theirs.
fn assert_saves_what_it_says(size: u64, count: &str, kind: &str) {
    let size = size.to_string();
    let arguments = [kind, size.as_str(), count];
    let command: Vec<&str> = [work().to_str().unwrap()].into_iter().chain(arguments).collect();
    let mut ratios = Vec::new();
    for rounds in [ROUNDS, 2 * ROUNDS] {
        while ratios.len() < rounds {
            let (said, saved) = round(&command, &arguments);
            eprintln!("{kind} {size}: said {said:.3} s, saved {saved:.3} s");
            ratios.push(said / saved);
        }
        if (0.8..=1.2).contains(&median(ratios.clone())) {
            return;
        }
    }
    panic!("said by saved: {ratios:.3?}");
}

#[test]
fn pinning_the_thresholds_saves_what_was_said() {
    assert_saves_what_it_says(64 * MIB, "60", "churn");
}

/// Blocks that do not fit into the heap of a thread's arena.
#[test]
fn pinning_them_for_threads_saves_what_was_said() {
    assert_saves_what_it_says(96 * MIB, "40", "thread");
}

/// No page fault tells of these pages, and the time that it takes to get them is as lost.
#[test]
fn memory_that_is_populated_again_and_again_is_churn() {
    let found =
        findings(&advise(&[], &[PROGRAM, "workload", "map", "--sizes=64MiB", "--count=200", "--prefault"]));
    let churn = find(&found, "threshold_churn");
    assert_eq!(
        (&churn["allocator"], &churn["sizes"]),
        (&"mmap".into(), &serde_json::json!(["64MiB"])),
        "{churn}"
    );
    let figure = |name: &str| churn["figures"][name].as_f64().unwrap();
    assert_eq!(figure("releases"), 199.0, "{churn}");
    assert!(figure("touch_seconds_per_second") > figure("release_seconds_per_second"), "{churn}");
}

/// 64 MiB is above what glibc's moving threshold reaches; blocks of 1 MiB beside it soon come from the heap.
#[test]
fn the_bundled_churn_is_found_and_ended_by_its_setting() {
    let command = [PROGRAM, "workload", "churn", "--seconds", "4"];
    let found = findings(&advise(&[], &command));
    let churn = find(&found, "threshold_churn");
    assert_eq!(churn["sizes"], serde_json::json!(["64MiB"]), "{churn}");
    let figures = &churn["figures"];
    let sum: f64 = ["call", "touch", "release"]
        .map(|stage| figures[format!("{stage}_seconds_per_second")].as_f64().unwrap())
        .iter()
        .sum();
    assert!((sum - churn["recoverable_seconds_per_second"].as_f64().unwrap()).abs() < 1e-9, "{churn}");
    assert!(churn["risk"].as_str().unwrap().contains("MiB stay in use"), "{churn}");
    let pinned = advise(&setting(churn), &command);
    assert_eq!(findings(&pinned), Vec::<Value>::new(), "{pinned}");
}

/// An allocator that takes the place of the C library's.
fn library(name: &str) -> String {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let tools = std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(beside, PathBuf::from);
    let folders = tools.join("allocators/usr/lib").read_dir().into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join(name)).find(|path| path.is_file());
    let path = found.unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask setup`"));
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// Whatever is set is the library's own: with it, nothing is purged any more.
#[test]
fn purging_by_jemalloc_is_found_and_ended_by_its_setting() {
    let preloaded = ("LD_PRELOAD".to_owned(), library("libjemalloc.so.2"));
    let size = (16 * MIB).to_string();
    let command = [work().to_str().unwrap(), "churn", &size, "300"];
    let found = findings(&advise(std::slice::from_ref(&preloaded), &command));
    let churn = find(&found, "threshold_churn");
    assert_eq!((&churn["allocator"], &churn["sizes"][0]), (&"jemalloc".into(), &"16MiB".into()), "{churn}");
    let all: Vec<_> = [preloaded].into_iter().chain(setting(churn)).collect();
    let ended = advise(&all, &command);
    assert_eq!(findings(&ended), Vec::<Value>::new(), "{ended}");
}

#[test]
fn a_streaming_reader_gets_no_advice() {
    let folder = TempDir::new();
    let file = folder.join("file");
    std::fs::write(&file, vec![7; 64 << 20]).unwrap();
    let command = [work().to_str().unwrap(), "read", file.to_str().unwrap(), "3"];
    let ended = advise(&[], &command);
    assert_eq!(findings(&ended), Vec::<Value>::new(), "{ended}");
}

#[test]
fn an_idle_process_gets_one_line() {
    let mut idle = Running::start(Command::new("sleep").arg("60"));
    let pid = idle.pid();
    let ended = support::allocscope(&format!("advise --pid {pid} --duration 2s --fail-on-finding"));
    assert_eq!(ended.code, Some(0), "{ended}");
    let line = "no findings: looked at 0 large allocations and 0 page faults in them, of 1 process, over ";
    assert!(ended.stdout.starts_with(line) && ended.stdout.lines().count() == 1, "{ended}");
    assert!(idle.is_running());
}

#[test]
fn findings_fail_on_demand_and_stand_in_reports_and_metrics() {
    let churn = Running::start(&mut program("workload churn"));
    let pid = churn.pid();
    let ended = support::allocscope(&format!("advise --pid {pid} --duration 3s --fail-on-finding"));
    assert_eq!(ended.code, Some(11), "{ended}");
    assert!(ended.stdout.contains("1. threshold_churn, glibc 64MiB: saves about "), "{ended}");
    assert!(ended.stdout.contains("GLIBC_TUNABLES=glibc.malloc.mmap_threshold=134217728:"), "{ended}");
    let tracer = Running::start(&mut program(&format!("attach --pid {pid} --listen 127.0.0.1:0")));
    let address = support::http::address(&tracer);
    let found = || {
        let page = support::http::Metrics::scrape(address).0;
        let is_it = |line: &&str| line.starts_with("allocscope_finding{") && line.contains("threshold_churn");
        let value = page.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.is_some_and(|seconds| seconds > 0.01)
    };
    assert!(support::eventually(support::LIMIT, found), "no finding in the metrics");
    tracer.signal(Signal::SIGINT);
    let ended = tracer.wait();
    assert!(ended.stdout.contains("\nAdvice\n1. threshold_churn, glibc 64MiB"), "{ended}");
}

#[test]
fn a_command_that_fails_keeps_its_exit_code() {
    let ended = support::allocscope("advise --fail-on-finding -- sh -c false");
    assert_eq!(ended.code, Some(1), "{ended}");
    assert_eq!(support::allocscope("advise -- no-such-command").code, Some(127));
    assert_eq!(support::allocscope("advise").code, Some(2));
    assert_eq!(support::allocscope("advise --pid 1 -- true").code, Some(2));
}
