//! The workloads of pools and arenas, alone and traced: they do the same, and what allocscope counts of them is what
//! they count of themselves.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use serde_json::Value;
use support::report::Process;
use support::{Report, Truth, Workload, run_workload};

/// Page faults and which part of a pool had an item are the machine's doing.
const OF_THE_MACHINE: [&str; 4] = ["pid", "faults", "hits", "ns_per_increment_median"];

#[test]
fn a_pool_beside_malloc_is_counted_exactly() {
    for (words, hits) in
        [("pool --live 7 --rate 50", 343), ("pool --by pool --live 3 --size 1MiB --rate 50", 147)]
    {
        let (truth, report) = same_alone_and_traced(words);
        assert_eq!(sum(&truth.0["pool"]["hits"]), hits, "{}", truth.0);
        assert_large_blocks(&truth, &report);
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
    assert_large_blocks(&truth, &report);
}

#[test]
fn buffers_are_counted_exactly() {
    let (truth, report) = same_alone_and_traced("buffers --rate 400 --tick-every 40");
    let (reused, churned) = (&truth.0["reused"], &truth.0["churned"]);
    assert_eq!((number(reused, "count"), number(churned, "count")), (400, 400));
    assert_eq!(reused["bytes"], churned["bytes"]);
    let classes = truth.0["classes"].as_array().unwrap();
    let of_classes = |name: &str| classes.iter().map(|class| number(class, name)).sum::<u64>();
    assert_eq!(of_classes("gets"), 400);
    assert!(of_classes("misses") < 200, "{}", truth.0);
    assert_large_blocks(&truth, &report);
}

#[test]
fn false_sharing_is_no_allocation() {
    let (truth, report) = same_alone_and_traced("false-sharing --threads 2 --rate 20");
    for layout in ["shared", "padded"] {
        assert_eq!(number(&truth.0[layout], "increments"), 2 * 20 * 100_000);
    }
    assert_large_blocks(&truth, &report);
}

/// One request in 4 keeps its object for 30 more: once 8 are kept, each further one is given back as one is taken.
#[test]
fn objects_held_past_their_request_are_counted_exactly() {
    let (truth, report) =
        same_alone_and_traced("lifetimes --rate 200 --every 4 --held-for 30 --tick-every 1000");
    let [matched, mismatched] = ["matched", "mismatched"].map(|kind| &truth.0[kind]);
    assert_eq!(number(&matched["pool"], "misses"), 1);
    assert_eq!((number(mismatched, "held"), number(mismatched, "most_held")), (50, 8));
    assert_eq!(number(&mismatched["pool"], "misses"), 9, "{}", truth.0);
    assert_large_blocks(&truth, &report);
}

/// Runs a workload alone, under `run` and attached to: what it says of itself differs in times only.
fn same_alone_and_traced(words: &str) -> (Truth, Report) {
    let words = format!("{words} --seconds 1");
    let alone = Workload::waiting(&words).go();
    let (run, of_run) = run_workload("", &words);
    let (attached, report) = traced(&words);
    let alone = deeds(&alone.0);
    assert_eq!(alone, deeds(&run.0));
    assert_eq!(alone, deeds(&attached.0));
    assert_large_blocks(&run, &of_run);
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

/// Each class of malloc's large blocks: no call more or less than the workload made, and no other class.
fn assert_large_blocks(truth: &Truth, report: &Report) {
    let process = report.process(truth.pid());
    let told = truth.0["large"].as_array().unwrap();
    let of_truth = |name: &str| told.iter().map(|class| number(class, name)).collect::<Vec<_>>();
    let (classes, calls) = (of_truth("class_bytes"), of_truth("count"));
    assert_eq!(process.classes("glibc"), classes, "{report}");
    assert_eq!(of_tracer(process, &classes, |counts| counts.calls), calls, "{report}");
    assert_eq!(of_tracer(process, &classes, |counts| counts.bytes), of_truth("bytes"), "{report}");
    assert_eq!(report.losses(), [], "{report}");
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
