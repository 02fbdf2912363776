//! Buffers of many sizes, from a buffer pool and each time anew.

use std::collections::VecDeque;

use serde::Serialize;

use super::pace::Pace;
use super::pool_truth::{BufferClassTruth, LargeBlocks, buffer_classes};
use super::room;
use super::truth::{Faults, ns, timed};
use crate::cli::pooled::BuffersArgs;
use crate::pool::BufferPool;

/// The smallest; large enough for a tracer to see each.
const SMALLEST: u64 = 32 << 10;
/// Sizes lie between the smallest and so many powers of two above it.
const POWERS: u64 = 6;

/// What buffers did.
#[derive(Clone, Debug, Serialize)]
pub struct BuffersTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    rounds: u64,
    /// From the pool.
    reused: Buffers,
    /// By malloc, each time anew.
    churned: Buffers,
    classes: Vec<BufferClassTruth>,
    /// Bytes that the pool holds at the end.
    idle_bytes: u64,
    /// Calls of malloc by both.
    large: LargeBlocks,
    faults: Faults,
}

/// Buffers that came one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Buffers {
    count: u64,
    /// Asked for.
    bytes: u64,
    pages_touched: u64,
    get_ns: u64,
    touch_ns: u64,
    put_ns: u64,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &BuffersArgs) -> anyhow::Result<BuffersTruth> {
    let pool = BufferPool::builder().build();
    let before = Faults::so_far()?;
    let (mut reused, mut churned) = (Buffers::default(), Buffers::default());
    let (mut live_reused, mut live_churned) = (VecDeque::new(), VecDeque::new());
    let mut large = LargeBlocks::default();
    let mut sizes = Sizes::default();
    let mut pace = Pace::new(&args.pace);
    let mut rounds = 0;
    for round in &mut pace {
        let bytes = sizes.next();
        if args.by.is_pool() {
            let get = || pool.try_get(bytes as usize).map_err(anyhow::Error::from);
            reused.one(args, bytes, &mut live_reused, get, |buffer| room::touch(buffer))?;
            if round % args.tick_every == args.tick_every - 1 {
                pool.tick();
            }
        }
        if args.by.is_malloc() {
            churned.one(args, bytes, &mut live_churned, || room::by_malloc(bytes), room::touch)?;
            large.add(1, bytes);
        }
        rounds = round + 1;
    }
    drop((live_reused, live_churned));
    let counters = pool.counters();
    large.add_misses(&counters);
    Ok(BuffersTruth {
        workload: "buffers",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        reused,
        churned,
        classes: buffer_classes(&counters),
        idle_bytes: counters.idle_bytes(),
        large,
        faults: Faults::so_far()? - before,
    })
}

impl Buffers {
    /// Gets one, touches it, and gives back the oldest where there are too many.
    fn one<B>(
        &mut self,
        args: &BuffersArgs,
        bytes: u64,
        live: &mut VecDeque<B>,
        get: impl FnOnce() -> anyhow::Result<B>,
        touch: impl FnOnce(&mut B) -> u64,
    ) -> anyhow::Result<()> {
        let mut buffer = timed(&mut self.get_ns, get)?;
        self.pages_touched += timed(&mut self.touch_ns, || touch(&mut buffer));
        self.count += 1;
        self.bytes += bytes;
        live.push_back(buffer);
        if live.len() as u64 > args.live {
            timed(&mut self.put_ns, || drop(live.pop_front()));
        }
        Ok(())
    }
}

/// The same sizes in each run, as many of each power of two.
struct Sizes(u64);

impl Default for Sizes {
    fn default() -> Self {
        Self(88_172_645_463_325_252)
    }
}

impl Sizes {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift of 64 bits.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let least = SMALLEST << (self.0 % POWERS);
        least + (self.0 >> 8) % least
    }
}
