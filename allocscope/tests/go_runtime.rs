//! What allocscope reports of Go's runtime, against what Go programs know of their own, and what the time of their
//! large allocations goes to, in programs in which that is one thing.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::go::{DEBIAN, PLAIN, STRIPPED, VERSIONS, build, truth_in};
use support::http::{Metrics, address};
use support::{LIMIT, Report, Running, allocscope, attach, eventually, program};

/// `allocscope run FLAGS` of a Go program: its truth and its process in the final report.
fn run(flags: &str, go: &Path, arguments: &[&str]) -> (Value, Value) {
    let mut command = program(&format!("run --format json {flags} --"));
    let ended = Running::start(command.arg(go).args(arguments)).wait();
    assert_eq!(ended.code, Some(0), "{}: {ended}", go.display());
    let (truth, report) = (truth_in(&ended.stdout), Report::last_in(&ended.stdout));
    assert_eq!(report.losses(), [], "{report}");
    let process = report.process(truth["pid"].as_u64().unwrap()).0.clone();
    (truth, process)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// One test a toolchain: cycles, stops, slow gets, calls of `New` and cleaned pools, exactly.
macro_rules! what_the_runtime_does_is_counted {
    ($($test:ident: $version:expr),*) => { $(
        #[test]
        fn $test() {
            for flags in [PLAIN, STRIPPED] {
                assert_exact($version, &build($version, "runtime", flags));
            }
        }
    )* };
}

what_the_runtime_does_is_counted! {
    runtime_1_19: DEBIAN, runtime_1_21: "1.21.13", runtime_1_22: "1.22.10", runtime_1_23: "1.23.9",
    runtime_1_24: "1.24.11", runtime_1_25: "1.25.5", runtime_1_26: "1.26.6", runtime_1_27: "1.27.3"
}

fn assert_exact(version: &str, go: &Path) {
    let (truth, process) = run("--go-runtime", go, &["20"]);
    let seen = &process["go_runtime"];
    let all = format!("{}: {truth} against {seen}", go.display());
    assert_eq!(process["coverage"]["misses"], serde_json::json!([]), "{all}");
    for (truth, seen) in [
        (&truth["cycles"], &seen["gc_cycles"]),
        (&truth["slow"], &seen["pool_slow_gets"]),
        (&truth["made"], &seen["pool_new"]),
        (&truth["cycles"], &seen["pool_cleanups"]),
        (&truth["pools"], &seen["pools_cleaned"]),
    ] {
        assert_eq!(truth, seen, "{all}");
    }
    // Some more may be the scavenger's in the background.
    assert!(number(&seen["scavenged_bytes"]) >= number(&truth["scavenged"]), "{all}");
    assert_stops(version, &truth, seen, &all);
}

/// Two stops a collection.
fn assert_stops(version: &str, truth: &Value, seen: &Value, all: &str) {
    let stops = seen["stop_the_world"].as_array().unwrap();
    let count_of = |reason: &str| {
        let stop = stops.iter().find(|stop| stop["reason"] == reason);
        number(&stop.unwrap_or_else(|| panic!("no {reason}: {all}"))["count"])
    };
    let cycles = number(&truth["cycles"]) * 2;
    if version == DEBIAN {
        // It does not tell the collector's from those of ReadMemStats, GOMAXPROCS and SetGCPercent.
        assert!((cycles..=cycles + 8).contains(&count_of("unknown")), "{all}");
    } else {
        assert_eq!(count_of("gc"), cycles, "{all}");
        assert!(count_of("other") >= 3, "{all}");
    }
}

/// The program gives back what it knows, once it is traced.
#[test]
fn what_goes_back_to_the_system_is_counted() {
    for version in [DEBIAN, "1.22.10", "1.25.5", "1.27.3"] {
        let go = build(version, "runtime", PLAIN);
        let mut target = Running::start(Command::new(&go).args(["1", "0", "last"]));
        target.until_stdout("ready");
        let tracer = attach(target.pid(), "--go-runtime");
        target.tell("");
        let truth = truth_in(&target.wait().stdout);
        let report = Report::last_in(&tracer.wait().stdout);
        let process = report.process(number(&truth["pid"])).0;
        let scavenged = &process["go_runtime"]["scavenged_bytes"];
        // The program's own figure is a balance: what it uses again meanwhile is off it.
        let (scavenged, balance) = (number(scavenged), number(&truth["scavenged"]));
        assert!((balance..balance + (256 << 10)).contains(&scavenged), "{version}: {balance}, {report}");
    }
}

/// One get of ten finds nothing, in all windows alike. A window opens after a second.
#[test]
fn the_hit_rate_of_pools_is_sampled() {
    for version in [DEBIAN, "1.27.3"] {
        let go = build(version, "runtime", PLAIN);
        let (truth, process) = run("--go-runtime", &go, &["1", "2500"]);
        let sample = &process["go_runtime"]["pool_sample"];
        let gets = number(&sample["gets"]);
        assert!(gets > 1000 && gets < number(&truth["gets"]) / 4, "{sample}, {truth}");
        let ratio = sample["hit_ratio"].as_f64().unwrap();
        assert!((ratio - 0.9).abs() < 0.005, "{sample}");
    }
}

#[test]
fn the_runtime_is_told_in_metrics() {
    let go = build("1.25.5", "runtime", &["-o", "metered"]);
    let daemon = Running::start(&mut program("daemon --listen 127.0.0.1:0 --comm ^metered$ --go-runtime"));
    let address = address(&daemon);
    let mut target = Running::start(Command::new(&go).args(["5", "4000", "first"]));
    target.until_stdout("ready");
    let count = |name: &str| Metrics::scrape(address).of_process(name, target.pid(), &[]);
    assert!(eventually(LIMIT, || count("allocscope_process_info").is_some()));
    target.tell("");
    let count = |name: &str| Metrics::scrape(address).of_process(name, target.pid(), &[]);
    assert!(eventually(LIMIT, || count("allocscope_go_gc_cycles_total") == Some(15)));
    assert_eq!(count("allocscope_go_pool_cleanups_total"), Some(15));
    assert!(count("allocscope_go_pool_slow_gets_total") >= Some(3000));
    let stops = "allocscope_go_stop_the_world_duration_seconds_count";
    assert_eq!(Metrics::scrape(address).of_process(stops, target.pid(), &[("reason", "gc")]), Some(30));
    assert_eq!(target.wait().code, Some(0));
}

/// Nothing of the runtime where it was not asked for.
#[test]
fn the_runtime_is_traced_on_request_only() {
    let (_, process) = run("", &build("1.25.5", "runtime", PLAIN), &["3"]);
    assert_eq!(process.get("go_runtime"), None);
}

/// The time of the large allocations' calls, that of each cause, the longest first, and the process. The causes sum to
/// the time of all windows: calls, releases and page faults.
fn causes(version: &str, words: &[&str]) -> (f64, Vec<(f64, String)>, Value) {
    let (truth, mut process) = run("--go-runtime", &build(version, "causes", PLAIN), words);
    let allocations = process["allocations"].as_array().unwrap().iter();
    let of_go = allocations.filter(|class| class["allocator"] == "go");
    let call: f64 = of_go.map(|class| class["stages"]["call"]["time_seconds"].as_f64().unwrap()).sum();
    let causes = process["causes"].as_object().unwrap().iter();
    let mut causes: Vec<_> =
        causes.map(|(cause, seconds)| (seconds.as_f64().unwrap(), cause.clone())).collect();
    causes.sort_by(|one, other| other.0.total_cmp(&one.0));
    let sum: f64 = causes.iter().map(|(seconds, _)| seconds).sum();
    let windows = process["window_seconds"].as_f64().unwrap();
    assert!((sum - windows).abs() < 1e-6, "{version} {words:?}: {sum} of {windows} in {causes:?}");
    // None is lost, whatever threads its goroutine was on.
    assert!(windows >= call - 1e-6, "{version} {words:?}: {windows} of {call} in {causes:?}");
    process["pause_ns"] = truth["pause_ns"].clone();
    (call, causes, process)
}

fn seconds_of(causes: &[(f64, String)], name: &str) -> f64 {
    causes.iter().find(|(_, cause)| cause == name).unwrap().0
}

#[test]
fn assists_dominate_where_a_heap_is_collected_all_the_time() {
    for version in VERSIONS {
        let (call, causes, process) = causes(version, &["assist"]);
        // Page faults are those of the whole program; for how long it is ready to run is up to the machine.
        let others = |cause: &str| cause != "page_fault" && cause != "runnable";
        let (seconds, cause) = causes.iter().find(|(_, cause)| others(cause)).unwrap();
        let ran = call - seconds_of(&causes, "runnable");
        assert!(cause == "gc_assist" && *seconds > ran * 0.5, "{version}: {causes:?} in {call}");
        // Those of small allocations are assists as well.
        let all = process["go_runtime"]["gc_assist"]["seconds"].as_f64().unwrap();
        assert!(all >= *seconds * 0.9, "{version}: {all}, {causes:?}");
    }
}

#[test]
fn the_heap_grows_where_nothing_is_collected() {
    for version in [DEBIAN, "1.22.10", "1.25.5", "1.27.3"] {
        let (call, causes, _) = causes(version, &["grow"]);
        let grow = seconds_of(&causes, "heap_grow");
        let others: f64 =
            ["gc_assist", "gc_start", "gc_stop", "sweep"].map(|name| seconds_of(&causes, name)).iter().sum();
        // A system call or two for each of 200 objects, none of which is less than a microsecond.
        assert!(grow > 200e-6 && grow > others, "{version}: {causes:?} in {call}");
    }
}

/// Before 1.24 clearing comes behind the call that is timed.
#[test]
fn zeroing_dominates_where_pointers_were() {
    for version in ["1.24.11", "1.25.5", "1.26.6", "1.27.3"] {
        let (call, causes, _) = causes(version, &["zeroing"]);
        let zeroing = seconds_of(&causes, "zeroing");
        // Whoever else has the CPU meanwhile is no part of it.
        assert!(zeroing > (call - seconds_of(&causes, "runnable")) * 0.7, "{version}: {causes:?} in {call}");
    }
}

/// The sum of the stops is the program's own within 15 %, long as they are here.
///
/// A copy of 256 MiB takes tens of milliseconds, for which a world that is to be stopped waits, and with it the
/// goroutine that starts a collection or ends its marking.
#[test]
fn stops_of_the_world_show_where_something_cannot_be_stopped() {
    for version in ["1.22.10", "1.25.5", "1.27.3"] {
        let (_, causes, process) = causes(version, &["stop"]);
        let stopped = seconds_of(&causes, "gc_stop");
        let worlds = process["go_runtime"]["stop_the_world"].as_array().unwrap();
        let longest = worlds.iter().map(|stop| stop["max_seconds"].as_f64().unwrap()).fold(0.0, f64::max);
        assert!(longest > 0.005 && stopped > 0.005, "{version}: {longest}, {causes:?}, {worlds:?}");
        let gc = worlds.iter().find(|stop| stop["reason"] == "gc").unwrap()["seconds"].as_f64().unwrap();
        let truth = number(&process["pause_ns"]) as f64 / 1e9;
        assert!((gc / truth - 1.0).abs() < 0.15, "{version}: {gc} of {truth} s, {worlds:?}");
    }
}

/// Each place of a stripped program is where it is with symbols, and every one is emulated.
#[test]
fn places_are_the_same_with_and_without_symbols() {
    for version in VERSIONS {
        let places = [PLAIN, STRIPPED].map(|flags| {
            let go = build(version, "runtime", flags);
            let ended = allocscope(&format!("inspect --go-runtime --format json {}", go.display()));
            assert_eq!(ended.code, Some(0), "{ended}");
            let view: Value = serde_json::from_str(&ended.stdout).unwrap();
            let sites = view["sites"].as_array().unwrap().clone();
            assert!(sites.iter().all(|site| site["class"] == "emulated"), "{version}: {view}");
            let place = |site: &Value| (site["role"].to_string(), site["function_offset"].to_string());
            sites.iter().map(place).collect::<Vec<_>>()
        });
        assert_eq!(places[0], places[1], "{version}");
        assert!(places[0].len() >= 20, "{version}: {places:?}");
    }
}
