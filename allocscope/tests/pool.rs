//! The workloads of pools and arenas, alone and traced: they do the same, and what allocscope counts of them is what
//! they count of themselves.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use serde_json::Value;
use support::report::Process;
use support::{Report, Truth, Workload, run_workload};

/// Page faults and which part of a pool had an item are the machine's doing.
const OF_THE_MACHINE: [&str; 5] = ["pid", "faults", "touch_faults", "hits", "ns_per_increment_median"];

#[test]
fn a_pool_beside_malloc_is_counted_exactly() {
    for (words, hits) in
        [("pool --live 7 --rate 50", 343), ("pool --by pool --live 3 --size 1MiB --rate 50", 147)]
    {
        let (truth, _) = same_alone_and_traced(words, Compared::CallsAndBytes);
        assert_eq!(sum(&truth.0["pool"]["hits"]), hits, "{}", truth.0);
    }
}

#[test]
fn threads_of_one_pool_are_counted_exactly() {
    let (truth, report) = traced("pool --seconds 1 --threads 4 --live 5 --rate 200");
    let (pool, rounds) = (&truth.0["pool"], truth.number("rounds"));
    assert_eq!(rounds, 4 * 200);
    assert_eq!(number(pool, "gets"), 5 * rounds);
    assert_eq!(sum(&pool["hits"]) + number(pool, "misses"), 5 * rounds, "{pool}");
    assert_eq!((number(pool, "returns"), number(pool, "in_use")), (5 * rounds, 0));
    assert_eq!(number(pool, "idle") + sum(&pool["drops"]), number(pool, "misses"), "{pool}");
    assert_counted(&truth, &report, Compared::CallsAndBytes);
}

#[test]
fn buffers_are_counted_exactly() {
    let (truth, _) = same_alone_and_traced("buffers --rate 400 --tick-every 40", Compared::CallsAndBytes);
    let (reused, churned) = (&truth.0["reused"], &truth.0["churned"]);
    assert_eq!((number(reused, "count"), number(churned, "count")), (400, 400));
    assert_eq!(reused["bytes"], churned["bytes"]);
    let classes = truth.0["classes"].as_array().unwrap();
    let of_classes = |name: &str| classes.iter().map(|class| number(class, name)).sum::<u64>();
    assert_eq!(of_classes("gets"), 400);
    assert!(of_classes("misses") < 200, "{}", truth.0);
}

#[test]
fn false_sharing_is_no_allocation() {
    let (truth, _) = same_alone_and_traced("false-sharing --threads 2 --rate 20", Compared::CallsAndBytes);
    for layout in ["shared", "padded"] {
        assert_eq!(number(&truth.0[layout], "increments"), 2 * 20 * 100_000);
    }
}

/// One request in 4 keeps its object for 30 more: once 8 are kept, each further one is given back as one is taken.
#[test]
fn objects_held_past_their_request_are_counted_exactly() {
    let (truth, _) = same_alone_and_traced(
        "lifetimes --rate 200 --every 4 --held-for 30 --tick-every 1000",
        Compared::CallsAndBytes,
    );
    let [matched, mismatched] = ["matched", "mismatched"].map(|kind| &truth.0[kind]);
    assert_eq!(number(&matched["pool"], "misses"), 1);
    assert_eq!((number(mismatched, "held"), number(mismatched, "most_held")), (50, 8));
    assert_eq!(number(&mismatched["pool"], "misses"), 9, "{}", truth.0);
}

/// An arena asks for chunks on whole cache lines, for which the C library takes some bytes more than it is asked for.
#[test]
fn requests_in_an_arena_are_counted_exactly() {
    let (truth, report) = same_alone_and_traced("requests --rate 100", Compared::Calls);
    let [arena, malloc] = ["arena", "malloc"].map(|kind| &truth.0[kind]);
    for name in ["objects", "bytes", "pages_touched"] {
        assert_eq!(arena[name], malloc[name]);
    }
    assert_eq!((number(arena, "objects"), truth.number("promoted")), (20_000, 100));
    let sizes = &truth.0["arena_sizes"];
    assert_eq!(number(sizes, "resets"), 100);
    // A request needs more than the body, and what it needs was kept since the one before.
    assert!(number(sizes, "peak_used_bytes") > 128 << 10, "{sizes}");
    assert!(number(sizes, "reserved_bytes") < 512 << 10, "{sizes}");
    assert_eq!(told(&report, &truth, "arena_grow").0, truth.number("arena_grows"), "{report}");
}

/// In a rush the pool's 8 objects are out and it fails; then it is left alone, and malloc serves.
#[test]
fn what_a_breaker_does_is_counted_exactly() {
    let (truth, report) = same_alone_and_traced("breaker --rate 200", Compared::CallsAndBytes);
    let breaker = &truth.0["breaker"];
    let of_malloc = sum(&truth.0["plain"]);
    assert_eq!(truth.number("pooled") + of_malloc, 200);
    assert_eq!(number(&truth.0["pool"], "misses"), 8);
    assert_eq!(truth.0["plain"]["fault"], breaker["failures"]);
    assert_eq!(truth.0["plain"]["open"], breaker["rejected"]);
    let to = &breaker["to"];
    assert!(number(to, "open") >= 2 && number(to, "closed") >= 2, "{breaker}");
    assert_eq!(told(&report, &truth, "breaker").0, sum(to), "{report}");
}

#[test]
fn regions_are_told_exactly() {
    let (truth, report) = same_alone_and_traced("regions --size 8MiB --rate 10", Compared::CallsAndBytes);
    let ways = truth.0["ways"].as_array().unwrap();
    assert_eq!((ways.len(), truth.number("regions")), (4, 40));
    for way in ways {
        assert_eq!(number(way, "pages_touched"), 10 * 2048, "{way}");
        let (faults, is_prefaulted) = (number(way, "touch_faults"), way["prefault"] == true);
        assert_eq!(faults == 0, is_prefaulted, "{way}");
        assert!(way["huge_pages"] == true || is_prefaulted || faults >= 10 * 2048, "{way}");
    }
    assert_regions(&truth, &report);
}

#[test]
fn regions_of_each_node_are_told_exactly() {
    let (truth, report) = same_alone_and_traced("numa --size 4MiB --rate 10", Compared::CallsAndBytes);
    let nodes = truth.0["nodes"].as_array().unwrap();
    assert_eq!(truth.number("regions"), 10 * nodes.len() as u64);
    let bound = if nodes.len() == 1 { 0 } else { 10 };
    assert!(nodes.iter().all(|node| number(node, "bound") == bound), "{}", truth.0);
    assert!(nodes.iter().all(|node| number(node, "pages_there") == 10 * 1024), "{}", truth.0);
    assert_eq!(truth.0["note"].as_str().unwrap().contains("one node"), nodes.len() == 1);
    assert_regions(&truth, &report);
}

/// What the machine stalls meanwhile is its own affair: `cargo xtask kernels` has a machine that does.
#[test]
fn what_pressure_takes_from_a_pool_is_counted_exactly() {
    let (truth, report) = traced("pressure --seconds 1 --idle 5MiB --rate 50");
    assert_eq!((truth.number("rounds"), truth.number("idle_before_bytes")), (50, 5 << 20));
    let (released, left) = (truth.number("released_bytes"), truth.number("idle_after_bytes"));
    assert_eq!(released + left, 5 << 20, "{}", truth.0);
    assert_eq!(released > 0, truth.number("releases") > 0, "{}", truth.0);
    let stall = &truth.0["stall"];
    assert_eq!(number(stall, "readings") == 50, stall["highest_share"].is_f64(), "{stall}");
    assert_eq!(number(stall, "readings") == 0, stall["note"].is_string(), "{stall}");
    assert_counted(&truth, &report, Compared::CallsAndBytes);
}

/// What the program's own probes tell of its regions.
fn assert_regions(truth: &Truth, report: &Report) {
    let (count, bytes) = (truth.number("regions"), truth.number("region_bytes"));
    assert_eq!(told(report, truth, "region_map"), (count, bytes), "{report}");
    assert_eq!(told(report, truth, "region_release"), (count, bytes), "{report}");
}

/// How often a probe of the program's own was passed, and the bytes that it told of.
fn told(report: &Report, truth: &Truth, probe: &str) -> (u64, u64) {
    let mut rows = report.process(truth.pid()).0["provider"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["probe"] == probe);
    row.map_or((0, 0), |row| (number(row, "count"), row["bytes"].as_u64().unwrap_or(0)))
}

/// What is compared of malloc's large blocks.
#[derive(Clone, Copy, PartialEq)]
enum Compared {
    Calls,
    CallsAndBytes,
}

/// Runs a workload alone, under `run` and attached to: what it says of itself differs in times only.
fn same_alone_and_traced(words: &str, compared: Compared) -> (Truth, Report) {
    let words = format!("{words} --seconds 1");
    let alone = Workload::waiting(&words).go();
    let (run, of_run) = run_workload("", &words);
    let (attached, report) = traced(&words);
    let alone = deeds(&alone.0);
    assert_eq!(alone, deeds(&run.0));
    assert_eq!(alone, deeds(&attached.0));
    assert_counted(&run, &of_run, compared);
    assert_counted(&attached, &report, compared);
    (attached, report)
}

/// Attached to before it does anything.
fn traced(words: &str) -> (Truth, Report) {
    support::attach_workload("", words)
}

/// Without times and what else is the machine's.
fn deeds(truth: &Value) -> Value {
    match truth {
        Value::Object(fields) => {
            let is_deed = |name: &str| !name.ends_with("_ns") && !OF_THE_MACHINE.contains(&name);
            fields
                .iter()
                .filter(|(name, _)| is_deed(name))
                .map(|(name, of)| (name.clone(), deeds(of)))
                .collect()
        }
        Value::Array(items) => items.iter().map(deeds).collect(),
        other => other.clone(),
    }
}

/// By malloc's probes and by the program's own.
fn assert_counted(truth: &Truth, report: &Report, compared: Compared) {
    assert_large_blocks(truth, report, compared);
    assert_eq!(told(report, truth, "pool_miss").0, misses(&truth.0), "{report}");
    assert_eq!(report.losses(), [], "{report}");
}

/// Of all pools of a workload.
fn misses(truth: &Value) -> u64 {
    match truth {
        Value::Object(fields) => fields.iter().map(|(name, of)| own_misses(name, of) + misses(of)).sum(),
        Value::Array(items) => items.iter().map(misses).sum(),
        _ => 0,
    }
}

fn own_misses(name: &str, of: &Value) -> u64 {
    if name == "misses" { of.as_u64().unwrap() } else { 0 }
}

/// Each class of malloc's large blocks: no call more or less than the workload made, and no other class.
fn assert_large_blocks(truth: &Truth, report: &Report, compared: Compared) {
    let process = report.process(truth.pid());
    let told = truth.0["large"].as_array().unwrap();
    let of_truth = |name: &str| told.iter().map(|class| number(class, name)).collect::<Vec<_>>();
    let (classes, calls) = (of_truth("class_bytes"), of_truth("count"));
    assert_eq!(process.classes("glibc"), classes, "{report}");
    assert_eq!(of_tracer(process, &classes, |counts| counts.calls), calls, "{report}");
    if compared == Compared::CallsAndBytes {
        assert_eq!(of_tracer(process, &classes, |counts| counts.bytes), of_truth("bytes"), "{report}");
    }
}

fn of_tracer(process: Process<'_>, classes: &[u64], of: fn(support::report::Counts) -> u64) -> Vec<u64> {
    classes.iter().map(|&class| of(process.counts("glibc", class))).collect()
}

fn sum(numbers: &Value) -> u64 {
    numbers.as_object().unwrap().values().map(|number| number.as_u64().unwrap()).sum()
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("{name} in {of}"))
}
