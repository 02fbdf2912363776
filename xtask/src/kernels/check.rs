//! What a machine printed into checks that passed, or the first reasons why they did not.

use super::traced::{Counts, Traced, elements, faults, number};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;

/// A check that passed.
pub struct Passed {
    /// Its name.
    pub name: &'static str,
    /// When it ended, in seconds since the machine was started.
    pub seconds: f64,
    /// What it compared.
    pub summary: String,
}

/// A check's name in `init.sh`, and what compares the lines that it printed.
type Check = (&'static str, fn(&[Value]) -> Result<String>);

const CHECKS: [Check; 13] = [
    ("doctor", doctor),
    ("map", map),
    ("threads", threads),
    ("remap", remap),
    ("brk", brk),
    ("native", native),
    ("sampled", sampled),
    ("go", go),
    ("attach", attach),
    ("numa", numa),
    ("pressure", pressure),
    ("reclaim", reclaim),
    ("compaction", compaction),
];

/// Half of what the verifier of these kernels stops at (linux/bpf.h, BPF_COMPLEXITY_LIMIT_INSNS): each kernel
/// looks at the same program in another way.
const VERIFIED_INSTRUCTIONS: u64 = 500_000;

/// From where on the pool's policy acts, see `DEFAULT_STALL` there.
const STALLED: f64 = 0.1;

/// What these kernels can do, and a kernel without function tracing cannot.
const SYSTEM_CALLS_VIA: &str = "fentry";

/// Compares everything that a machine printed, whose kernel's best way to attach uprobes is `attached_via`; an
/// error tells all that is wrong.
pub fn all(results: &str, attached_via: &str) -> Result<Vec<Passed>> {
    let lines: Vec<Value> =
        results.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    let mut sections = lines.split_inclusive(|line| line["check"].is_string());
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for (name, compare) in CHECKS {
        match sections.next().context("it did not end").and_then(|lines| one(name, compare, lines)) {
            Ok(check) => passed.push(check),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    let reports = lines.iter().filter_map(|line| line["tool"]["attached_via"].as_str());
    if let Some(other) = reports.into_iter().find(|via| *via != attached_via) {
        failed.push(format!("uprobes were attached via {other} and not {attached_via}"));
    }
    let calls = lines.iter().filter_map(|line| line["tool"]["system_calls_via"].as_str());
    if let Some(other) = calls.into_iter().find(|via| *via != SYSTEM_CALLS_VIA) {
        failed.push(format!("system calls were seen by {other} and not by {SYSTEM_CALLS_VIA}"));
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(passed)
}

/// A check's last line tells its name, and how its program ended.
fn one(name: &'static str, compare: fn(&[Value]) -> Result<String>, lines: &[Value]) -> Result<Passed> {
    let (end, lines) = lines.split_last().context("it did not run")?;
    ensure!(end["check"] == name, "it did not end: {end}");
    let summary = compare(lines);
    ensure!(end["code"] == 0, "its exit code is {}", end["code"]);
    Ok(Passed { name, seconds: end["seconds"].as_f64().unwrap_or(0.0), summary: summary? })
}

/// What the kernel has.
fn doctor(lines: &[Value]) -> Result<String> {
    let checks = lines.first().and_then(Value::as_array).context("it printed nothing")?;
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    if let Some(check) = checks.iter().find(|check| check["verdict"] == "fails") {
        bail!("{}", text(check, "detail"));
    }
    let details = checks.iter().filter(|check| !text(check, "name").starts_with("CAP_"));
    Ok(details.map(|check| text(check, "detail")).collect::<Vec<_>>().join("; "))
}

fn map(lines: &[Value]) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    let sizes = elements(traced.truth, "sizes");
    ensure!(sizes.len() == 3, "{} sizes", sizes.len());
    for size in sizes {
        let bytes = number(size, "size_bytes");
        traced.expect("mmap", bytes, Counts::whole(number(size, "count"), bytes))?;
    }
    traced.expect_lost(&[])?;
    traced.expect_attributed(sizes.iter().map(|size| number(size, "pages_touched")).sum())?;
    traced.expect_the_kernels_faults()?;
    Ok(traced.to_string())
}

/// One mapping more than is passed on is the one whose pages the child copies. The child knows of no live
/// ranges, so its faults count as other.
fn threads(lines: &[Value]) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    let (mappings, child) = (&traced.truth["mappings"], &traced.truth["child"]);
    let (size, copied) = (number(mappings, "size_bytes"), number(child, "pages_copied"));
    traced.expect("mmap", size, Counts::whole(number(mappings, "count") + 1, size))?;
    traced.expect_lost(&[])?;
    traced.expect_attributed(number(mappings, "pages_touched") + copied)?;
    let child = traced.process(number(child, "pid"))?;
    ensure!(faults(child, "other") >= copied, "fewer faults of the child than {copied} pages copied");
    ensure!(Counts::of(child, "mmap", size) == Counts::default(), "the child's mappings are counted");
    Ok(traced.to_string())
}

/// What a round does, and why the parts above a hole are not attributed, is told where `tests/truth.rs` has the
/// same comparison.
fn remap(lines: &[Value]) -> Result<String> {
    const MIB: u64 = 1 << 20;
    let mut traced = Traced::find(lines)?;
    let (truth, rounds) = (traced.truth, number(traced.truth, "rounds"));
    let calls = |calls, size: u64| Counts { calls, bytes: calls * size, ..Counts::default() };
    traced.expect("mmap", MIB, calls(number(truth, "mmap_calls"), MIB))?;
    let sizes = [2, 4, 8, 16, 32, 64].map(|size| size * MIB);
    ensure!(traced.classes("mremap")? == sizes, "sizes of mremap: {:?}", traced.classes("mremap")?);
    for size in sizes {
        traced.expect("mremap", size, calls(rounds, size))?;
    }
    let discarded = number(truth, "madvise_bytes");
    let discards =
        Counts { releases: number(truth, "madvise_calls"), released_bytes: discarded, ..Counts::default() };
    traced.expect("madvise", 16 * MIB, discards)?;
    let own = traced.process(number(truth, "pid"))?;
    let released = |size| Counts::of(own, "mmap", size).releases;
    ensure!(
        released(64 * MIB) == rounds && released(16 * MIB) == rounds,
        "not {rounds} releases of 64 and of 16 MiB"
    );
    ensure!(Counts::of(own, "mmap", 64 * MIB).touches == rounds, "not {rounds} touches of 64 MiB");
    ensure!(number(own, "partial_releases") == 2 * rounds, "not {} partial releases", 2 * rounds);
    traced.expect_lost(&[("range_split", rounds)])?;
    traced.expect_attributed(number(truth, "pages_touched") + number(truth, "pages_retouched"))?;
    Ok(traced.to_string())
}

/// The heap is no live range: its faults count as other.
fn brk(lines: &[Value]) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    let (step, steps) = (number(traced.truth, "step_bytes"), number(traced.truth, "grow_calls"));
    let expected = Counts { touches: 0, ..Counts::whole(steps, step) };
    ensure!(number(traced.truth, "bytes") == expected.bytes, "the truth is not of {steps} steps");
    traced.expect("brk", step, expected)?;
    traced.expect_lost(&[])?;
    traced.expect_others(number(traced.truth, "pages_touched"))?;
    traced.expect_the_kernels_faults()?;
    Ok(traced.to_string())
}

/// A range that was resized is released in the class of its last size.
fn native(lines: &[Value]) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    traced.expect_tier("large-path")?;
    let truth = traced.truth;
    for class in classes(&[&truth["malloc"], &truth["munmap"]])? {
        let (calls, bytes) = of_class(&truth["malloc"], class);
        let (releases, released_bytes) = of_class(&truth["munmap"], class);
        traced.expect(
            "glibc",
            class,
            Counts { calls, touches: releases, releases, bytes, released_bytes },
        )?;
    }
    let resized = classes(&[&truth["mremap"]])?;
    ensure!(traced.classes("mremap")? == Vec::from_iter(resized.clone()), "other sizes were resized");
    for class in resized {
        let (calls, bytes) = of_class(&truth["mremap"], class);
        traced.expect("mremap", class, Counts { calls, bytes, ..Counts::default() })?;
    }
    traced.expect_lost(&[])?;
    traced.expect_attributed(number(truth, "pages_touched"))?;
    Ok(format!("{traced}, attached via {}", traced.attached_via()?))
}

/// Samples by `otel_memory`, whose weights are in every register and in memory.
fn sampled(lines: &[Value]) -> Result<String> {
    let traced = Traced::find(lines)?;
    let process = traced.process(number(traced.truth, "pid"))?;
    for probe in ["otel_alloc", "otel_free"] {
        let truth = &traced.truth["told"][probe];
        let row = elements(process, "provider").iter().find(|row| row["probe"] == probe);
        let row = row.with_context(|| format!("{probe} is not told"))?;
        let (told, heard) = (number(row, "count"), number(truth, "heard"));
        ensure!(told == heard && heard == number(truth, "count"), "{probe}: {row} and not {truth}");
        ensure!(number(row, "bytes") == number(truth, "bytes"), "{probe}: {row} and not {truth}");
    }
    traced.expect_lost(&[])?;
    let alloc = &traced.truth["told"]["otel_alloc"];
    Ok(format!("{} samples of {} bytes", number(alloc, "count"), number(alloc, "bytes")))
}

/// The size classes of objects like `{"65536":[COUNT,BYTES]}`.
fn classes(objects: &[&Value]) -> Result<BTreeSet<u64>> {
    let mut classes = BTreeSet::new();
    for object in objects {
        let object = object.as_object().context("the truth is incomplete")?;
        ensure!(!object.is_empty(), "the truth is empty");
        for class in object.keys() {
            classes.insert(class.parse::<u64>().context("a class is no number")?);
        }
    }
    Ok(classes)
}

/// Count and bytes of a class of such an object.
fn of_class(object: &Value, class: u64) -> (u64, u64) {
    let of = &object[class.to_string()];
    (of[0].as_u64().unwrap_or(0), of[1].as_u64().unwrap_or(0))
}

fn go(lines: &[Value]) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    traced.expect_tier("large-path")?;
    let expected = classes(&[&traced.truth["classes"]])?;
    ensure!(expected.len() >= 4, "the program allocated in {} classes", expected.len());
    let mut counted = traced.classes("go")?;
    counted.sort_unstable();
    ensure!(counted == Vec::from_iter(expected.clone()), "{counted:?} and not {expected:?}");
    for class in expected {
        traced.expect_calls("go", class, of_class(&traced.truth["classes"], class))?;
    }
    traced.expect_none_lost(&["call_overwritten", "exit_unmatched", "result_unreadable"])?;
    Ok(traced.to_string())
}

/// The same while it runs; and what the verifier had to look at for each program.
fn attach(lines: &[Value]) -> Result<String> {
    let counted = go(lines)?;
    let looked_at = lines.iter().filter_map(|line| line["verified_instructions"].as_u64());
    let largest = looked_at.max().context("the kernel tells of no programs")?;
    ensure!(
        largest <= VERIFIED_INSTRUCTIONS,
        "the verifier looked at {largest} instructions of a program, where {VERIFIED_INSTRUCTIONS} are the most that leave room"
    );
    Ok(format!("{counted}; at most {largest} instructions of a program verified"))
}

/// Regions whose pages lie on the node that they were bound to, on a machine with two.
fn numa(lines: &[Value]) -> Result<String> {
    let traced = Traced::find(lines)?;
    let nodes = elements(traced.truth, "nodes");
    ensure!(nodes.len() == 2, "{} nodes", nodes.len());
    for node in nodes {
        let (count, touched) = (number(node, "count"), number(node, "pages_touched"));
        ensure!(count > 0 && number(node, "bound") == count, "not all regions were bound: {node}");
        ensure!(number(node, "pages_there") == touched, "pages lie on other nodes: {node}");
    }
    let process = traced.process(number(traced.truth, "pid"))?;
    let regions = (number(traced.truth, "regions"), number(traced.truth, "region_bytes"));
    for probe in ["region_map", "region_release"] {
        let row = elements(process, "provider").iter().find(|row| row["probe"] == probe);
        let told = row.map(|row| (number(row, "count"), number(row, "bytes")));
        ensure!(told == Some(regions), "{probe}: {told:?} and not {regions:?}");
    }
    traced.expect_lost(&[])?;
    let pages: u64 = nodes.iter().map(|node| number(node, "pages_there")).sum();
    Ok(format!("{} regions told exactly, all of their {pages} pages on the nodes asked for", regions.0))
}

/// A pool with more than its cgroup may have gives all of it back while the kernel makes its program wait.
fn pressure(lines: &[Value]) -> Result<String> {
    let truth = lines.iter().find(|line| line["pid"].is_u64()).context("the program printed nothing")?;
    let share = truth["stall"]["highest_share"].as_f64().context("the kernel tells of no stalls")?;
    ensure!(share >= STALLED, "tasks waited for {:.1} % of ten seconds", share * 100.0);
    let [before, after, released] =
        ["idle_before_bytes", "idle_after_bytes", "released_bytes"].map(|name| number(truth, name));
    ensure!(before == 32 << 20 && before - released == after, "{released} bytes of {before}, {after} left");
    ensure!(after <= before / 4, "{after} bytes of {before} are still idle");
    let steps = number(truth, "releases");
    Ok(format!(
        "tasks waited for {:.1} % of ten seconds; {released} of {before} idle bytes given back in {steps} steps",
        share * 100.0
    ))
}

/// Memory that the kernel had to find first, while the counts are exact.
fn reclaim(lines: &[Value]) -> Result<String> {
    provoked(lines, "reclaim")
}

/// Pages that the kernel had to move first.
fn compaction(lines: &[Value]) -> Result<String> {
    provoked(lines, "compaction")
}

fn provoked(lines: &[Value], cause: &str) -> Result<String> {
    let mut traced = Traced::find(lines)?;
    for size in elements(traced.truth, "sizes") {
        let bytes = number(size, "size_bytes");
        traced.expect("mmap", bytes, Counts::whole(number(size, "count"), bytes))?;
    }
    let seconds = traced.process(number(traced.truth, "pid"))?["causes"][cause].as_f64().unwrap_or(0.0);
    ensure!(seconds > 0.0, "no time went to {cause}");
    Ok(format!("{traced}; {:.1} ms went to {cause}", seconds * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_passes_nothing() {
        let error = all("", "perf").err().unwrap().to_string();
        assert_eq!(error.lines().count(), CHECKS.len());
        assert!(error.starts_with("doctor: it did not end"));
    }

    #[test]
    fn a_failed_program_is_no_pass() {
        let lines =
            [serde_json::json!([]), serde_json::json!({"check": "doctor", "code": 4, "seconds": 1.5})];
        assert!(one("doctor", doctor, &lines).is_err());
        assert!(one("map", map, &lines).is_err());
        let good = [serde_json::json!([]), serde_json::json!({"check": "doctor", "code": 0, "seconds": 1.5})];
        assert!(one("doctor", doctor, &good).is_ok());
    }
}
