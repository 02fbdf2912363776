//! Objects taken, touched and given back, by a pool and by malloc.

use std::thread;

use anyhow::Context;
use serde::Serialize;

use super::pace::Pace;
use super::pool_truth::{LargeBlocks, PoolTruth};
use super::truth::{Faults, SizeTruth, ns, timed, timed_with_cpu};
use super::{joined, room};
use crate::cli::pooled::PoolArgs;
use crate::pool::{Pool, PoolError};

/// What pool did.
#[derive(Clone, Debug, Serialize)]
pub struct PoolWorkTruth {
    workload: &'static str,
    pid: u32,
    threads: u32,
    elapsed_ns: u64,
    /// Rounds of all threads.
    rounds: u64,
    /// By the pool; a release is a put.
    pooled: SizeTruth,
    /// By malloc and free.
    malloc: SizeTruth,
    pool: PoolTruth,
    /// Calls of malloc by both.
    large: LargeBlocks,
    faults: Faults,
}

/// What one thread did.
#[derive(Clone, Copy, Default)]
struct Share {
    rounds: u64,
    pooled: SizeTruth,
    malloc: SizeTruth,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &PoolArgs) -> anyhow::Result<PoolWorkTruth> {
    let pool = room::pool(args.size)?.build();
    let before = Faults::so_far()?;
    let pace = Pace::new(&args.pace);
    let shares = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("pool".into()).spawn_scoped(scope, || share(args, &pool));
        let threads: Vec<_> =
            (0..args.threads).map(spawn).collect::<Result<_, _>>().context("cannot start a thread")?;
        threads.into_iter().map(|thread| joined(thread.join())?).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let (size, counters) = (SizeTruth::of_size(args.size), pool.counters());
    let mut sum = Share { rounds: 0, pooled: size, malloc: size };
    shares.iter().for_each(|share| sum.merge(share));
    let mut large = LargeBlocks::default();
    large.add(counters.misses + sum.malloc.count, args.size);
    Ok(PoolWorkTruth {
        workload: "pool",
        pid: std::process::id(),
        threads: args.threads,
        elapsed_ns: ns(pace.elapsed()),
        rounds: sum.rounds,
        pooled: sum.pooled,
        malloc: sum.malloc,
        pool: counters.into(),
        large,
        faults: Faults::so_far()? - before,
    })
}

impl Share {
    fn merge(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.pooled.merge(&other.pooled);
        self.malloc.merge(&other.malloc);
    }
}

fn share(args: &PoolArgs, pool: &Pool<Vec<u8>>) -> anyhow::Result<Share> {
    let mut share = Share::default();
    for _ in Pace::new(&args.pace) {
        if args.by.is_pool() {
            from_pool(args, pool, &mut share.pooled)?;
        }
        if args.by.is_malloc() {
            from_malloc(args, &mut share.malloc)?;
        }
        share.rounds += 1;
    }
    Ok(share)
}

fn from_pool(args: &PoolArgs, pool: &Pool<Vec<u8>>, truth: &mut SizeTruth) -> anyhow::Result<()> {
    let get = || (0..args.live).map(|_| pool.try_get()).collect::<Result<Vec<_>, PoolError>>();
    let mut live = timed(&mut truth.call_ns, get)?;
    let touch = || live.iter_mut().map(|object| room::touch(object)).sum::<u64>();
    truth.pages_touched += timed_with_cpu(&mut truth.touch_ns, &mut truth.touch_cpu_ns, touch)?;
    timed(&mut truth.release_ns, || live.clear());
    count(args, truth);
    Ok(())
}

fn from_malloc(args: &PoolArgs, truth: &mut SizeTruth) -> anyhow::Result<()> {
    let get = || (0..args.live).map(|_| room::by_malloc(args.size)).collect::<anyhow::Result<Vec<_>>>();
    let mut live = timed(&mut truth.call_ns, get)?;
    let touch = || live.iter_mut().map(room::touch).sum::<u64>();
    truth.pages_touched += timed_with_cpu(&mut truth.touch_ns, &mut truth.touch_cpu_ns, touch)?;
    timed(&mut truth.release_ns, || live.clear());
    count(args, truth);
    Ok(())
}

fn count(args: &PoolArgs, truth: &mut SizeTruth) {
    truth.count += args.live;
    truth.bytes += args.live * args.size;
}
