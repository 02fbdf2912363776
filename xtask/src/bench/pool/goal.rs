//! What was measured into whether it is what was to be reached.

use super::events::{BPFTRACE, OURS, added_ns};
use super::{Measured, NO_PROBES, OWN, Traced};
use crate::bench::report::short;
use std::fmt::Write as _;

/// By how much of its time the same may be slower in another build, if only because its code lies elsewhere.
const NOISE: f64 = 0.05;

/// One line of the table.
struct Goal {
    what: String,
    at_most: String,
    measured: String,
    is_reached: bool,
}

/// Each goal that was measured.
pub fn table(measured: &Measured, traced: &Traced<'_>) -> String {
    let mut goals = Vec::new();
    goals.extend(["object-4096", "object-65536"].iter().filter_map(|case| object(measured, case)));
    let peers = ["crossbeam ArrayQueue", "opool Pool"];
    goals.extend(
        peers.iter().filter_map(|peer| beside(measured, ("cross", 2), "put in another thread", peer)),
    );
    goals.extend(limit(measured, "buffer-65536", "buffer pool, get and put of 64 KiB", 4.0));
    goals.extend(limit(measured, "arena-64", "arena, 64-byte object", 1.2));
    goals.extend(beside(measured, ("arena-64", 1), "the same", "bumpalo"));
    goals.extend(region(measured));
    goals.extend(["object-4096", "miss"].iter().filter_map(|case| idle(measured, case)));
    goals.extend(event(traced));
    let mut text = "| to reach | at most | measured | reached |\n|---|---:|---:|---|\n".to_owned();
    for goal in goals {
        let word = if goal.is_reached { "yes" } else { "**no**" };
        let _ = writeln!(text, "| {} | {} | {} | {word} |", goal.what, goal.at_most, goal.measured);
    }
    text
}

/// With one thread and with two.
fn object(measured: &Measured, case: &str) -> Option<Goal> {
    let both = [1, 2].map(|threads| measured.median_of(case, OWN, threads));
    let (one, two) = (both[0]?, both[1]?);
    Some(Goal {
        what: format!("{case}: get and put, with 1 and 2 threads"),
        at_most: "2.5 ns".to_owned(),
        measured: format!("{} / {} ns", short(one), short(two)),
        is_reached: one.max(two) <= 2.5,
    })
}

/// A case with so many threads; by ratios within rounds, as times on a busy machine differ more from round to round.
fn beside(measured: &Measured, (case, threads): (&str, u64), what: &str, peer: &str) -> Option<Goal> {
    let own = measured.median_of(case, OWN, threads)?;
    let peers = measured.named(case, peer)?;
    let ratio = 1.0 / measured.ratio(peers, threads)?;
    Some(Goal {
        what: format!("{what}, beside {peer}"),
        at_most: format!("{} ns", short(measured.median(peers, threads)?)),
        measured: format!("{} ns, {ratio:.2} of it", short(own)),
        is_reached: ratio <= 1.0,
    })
}

fn limit(measured: &Measured, case: &str, what: &str, at_most: f64) -> Option<Goal> {
    let own = measured.median_of(case, OWN, 1)?;
    Some(Goal {
        what: what.to_owned(),
        at_most: format!("{at_most} ns"),
        measured: format!("{} ns", short(own)),
        is_reached: own <= at_most,
    })
}

fn region(measured: &Measured) -> Option<Goal> {
    let glibc = measured.named("region-64MiB", "glibc malloc, touch, free")?;
    let ratio = 1.0 / measured.ratio(glibc, 1)?;
    Some(Goal {
        what: "region of 64 MiB, prefaulted huge pages, used again, by malloc, touch and free".to_owned(),
        at_most: "0.1".to_owned(),
        measured: format!("{ratio:.4}"),
        is_reached: ratio <= 0.1,
    })
}

fn idle(measured: &Measured, case: &str) -> Option<Goal> {
    let own = measured.median_of(case, OWN, 1)?;
    let without = measured.named(case, NO_PROBES)?;
    let ratio = 1.0 / measured.ratio(without, 1)?;
    Some(Goal {
        what: format!("{case}: idle probes, beside a build without"),
        at_most: format!("{} ns, within noise", short(measured.median(without, 1)?)),
        measured: format!("{} ns, {ratio:.2} of it", short(own)),
        is_reached: ratio <= 1.0 + NOISE,
    })
}

fn event(traced: &Traced<'_>) -> Option<Goal> {
    let own = added_ns(traced.samples, &OURS)?;
    let other = added_ns(traced.samples, &BPFTRACE)
        .map_or_else(String::new, |ns| format!(" (bpftrace on malloc: {} ns)", short(ns)));
    Some(Goal {
        what: "traced large event through the provider, added".to_owned(),
        at_most: "370 ns".to_owned(),
        measured: format!("{} ns{other}", short(own)),
        is_reached: own <= 370.0,
    })
}
