//! The cases of traced large events: a pool's miss that its provider tells, beside malloc of the same size.

use super::program;
use crate::bench::case::{Case, Counts, GLIBC, Variant, allocscope, bpftrace, large, per_op, untraced};
use crate::bench::{sample::Sample, stats::median};
use anyhow::Result;
use serde_json::Value;

const MILLISECONDS: &str = "400";
const QUICK_MILLISECONDS: &str = "20";

const TIME_MALLOCS: &str = "\
uprobe:LIB:malloc /pid == PID && arg0 >= 32768/ { @start[tid] = nsecs; }
uretprobe:LIB:malloc /@start[tid]/ {
  @time = hist(nsecs - @start[tid]); @mallocs = count(); delete(@start[tid]);
}
";

/// Which case and variant.
pub struct Place {
    case: usize,
    variant: usize,
}

/// An event through the provider, by allocscope.
pub const OURS: Place = Place { case: 0, variant: 1 };
/// A large malloc, by bpftrace.
pub const BPFTRACE: Place = Place { case: 1, variant: 2 };

/// All of them.
pub fn cases(quick: bool) -> Result<Vec<Case>> {
    let bpftrace_seen = |truth: &Value, report: &Value| {
        Some(Counts::new(report["@mallocs"].as_u64().unwrap_or(0), large(truth)?))
    };
    let own = vec![untraced(), allocscope(|truth, report| Some(Counts::new(told(report)?, large(truth)?)))];
    let malloc = vec![
        untraced(),
        allocscope(|truth, report| Some(Counts::new(mallocs(report)?, large(truth)?))),
        bpftrace("bpftrace, timing malloc of 32 KiB or more", TIME_MALLOCS, Some(bpftrace_seen)),
    ];
    Ok(vec![
        case("a pool's miss of 64 KiB, told by its provider", "miss", quick, own)?,
        case("malloc and free of 64 KiB, glibc", "malloc", quick, malloc)?,
    ])
}

fn case(name: &str, kind: &str, quick: bool, variants: Vec<Variant>) -> Result<Case> {
    let milliseconds = if quick { QUICK_MILLISECONDS } else { MILLISECONDS };
    let words = ["event", kind, milliseconds].map(Into::into);
    Ok(Case {
        name: name.to_owned(),
        unit: "event",
        command: [program::rust()?.into()].into_iter().chain(words).collect(),
        preload: None,
        library: GLIBC,
        metric: per_op,
        stays: true,
        elsewhere: false,
        crowd: 0,
        variants,
        note: "in CPU time; the pool's items cost nothing to make and count as 64 KiB",
    })
}

/// Misses that the provider told.
fn told(report: &Value) -> Option<u64> {
    let told = report["processes"][0]["provider"].as_array()?;
    told.iter().find(|row| row["probe"] == "pool_miss")?["count"].as_u64()
}

fn mallocs(report: &Value) -> Option<u64> {
    let rows = report["processes"][0]["allocations"].as_array()?.iter();
    let rows = rows.filter(|row| row["allocator"] == "glibc" && row["size"] == "64KiB");
    Some(rows.filter_map(|row| row["count"].as_u64()).sum())
}

/// What tracing adds to an event in nanoseconds, the median over rounds; `None` where it was not measured.
pub fn added_ns(samples: &[Sample], place: &Place) -> Option<f64> {
    let of = |variant: usize, round: u32| {
        let is_it = |sample: &&Sample| {
            sample.case == place.case && sample.variant == variant && sample.round == round
        };
        samples.iter().find(is_it)?.outcome.as_ref().ok().map(|outcome| outcome.ns)
    };
    let rounds = samples.iter().map(|sample| sample.round).max()?;
    let added: Vec<f64> =
        (0..=rounds).filter_map(|round| Some(of(place.variant, round)? - of(0, round)?)).collect();
    median(&added)
}
