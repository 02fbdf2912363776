//! Threads that each count for themselves, with their counters on one cache line and on lines of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::joined;
use super::pace::Pace;
use super::pool_truth::LargeBlocks;
use super::truth::ns;
use crate::cli::pooled::FalseSharingArgs;

/// Increments of each thread in a round: many times what it takes to start a thread.
const BATCH: u64 = 100_000;

/// What false sharing did.
#[derive(Clone, Debug, Serialize)]
pub struct FalseSharingTruth {
    workload: &'static str,
    pid: u32,
    threads: u32,
    elapsed_ns: u64,
    rounds: u64,
    /// Counters side by side.
    shared: Counted,
    /// Counters 128 bytes apart.
    padded: Counted,
    /// Calls of malloc: none is large.
    large: LargeBlocks,
}

/// One way to lay counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Counted {
    /// By what the counters say.
    increments: u64,
    /// Of the middle round, in each thread.
    ns_per_increment_median: f64,
}

/// On lines of its own: two, because processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

/// Works until the time is over or a signal comes.
pub fn run(args: &FalseSharingArgs) -> anyhow::Result<FalseSharingTruth> {
    let shared: Vec<AtomicU64> = (0..args.threads).map(|_| AtomicU64::default()).collect();
    let padded: Vec<Padded> = (0..args.threads).map(|_| Padded::default()).collect();
    let (shared, padded) = (shared.iter().collect::<Vec<_>>(), padded.iter().map(|one| &one.0).collect());
    let (mut shared_ns, mut padded_ns) = (Vec::new(), Vec::new());
    let mut pace = Pace::new(&args.pace);
    let mut rounds = 0;
    for round in &mut pace {
        if args.padding.is_off() {
            shared_ns.push(count(&shared)?);
        }
        if args.padding.is_on() {
            padded_ns.push(count(&padded)?);
        }
        rounds = round + 1;
    }
    Ok(FalseSharingTruth {
        workload: "false-sharing",
        pid: std::process::id(),
        threads: args.threads,
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        shared: Counted::new(&shared, shared_ns),
        padded: Counted::new(&padded, padded_ns),
        large: LargeBlocks::default(),
    })
}

/// Each counter in a thread of its own; returns the mean time of an increment in ns.
fn count(counters: &Vec<&AtomicU64>) -> anyhow::Result<f64> {
    let times = thread::scope(|scope| {
        let spawn = |&counter| {
            thread::Builder::new().name("count".into()).spawn_scoped(scope, move || batch(counter))
        };
        let threads: Vec<_> =
            counters.iter().map(spawn).collect::<Result<_, _>>().context("cannot start a thread")?;
        threads.into_iter().map(|thread| joined(thread.join())).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(times.iter().sum::<f64>() / times.len().max(1) as f64)
}

fn batch(counter: &AtomicU64) -> f64 {
    let started = Instant::now();
    for _ in 0..BATCH {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    started.elapsed().as_secs_f64() * 1e9 / BATCH as f64
}

impl Counted {
    fn new(counters: &[&AtomicU64], mut rounds_ns: Vec<f64>) -> Self {
        rounds_ns.sort_unstable_by(f64::total_cmp);
        Self {
            increments: counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum(),
            ns_per_increment_median: rounds_ns.get(rounds_ns.len() / 2).copied().unwrap_or(0.0),
        }
    }
}
