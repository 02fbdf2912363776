//! The C library's allocations of three sizes at a steady, moderate rate: what a service under some load does.

use std::ptr::NonNull;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::is_stopped;
use super::mapping::touch_pages;
use super::truth::{Faults, SizeTruth, ns, timed};
use crate::cli::workload::ChurnArgs;

/// Above glibc's largest mmap threshold (32 MiB), so that each is a mapping of its own.
const LARGE_BYTES: u64 = 64 << 20;
/// glibc maps the first only: freeing it raises the mmap threshold, and from then on these come from a heap
/// whose pages stay, so that touching them is cheap.
const MIDDLE_BYTES: u64 = 1 << 20;

/// One middle allocation a tick: 200 a second.
const TICK: Duration = Duration::from_millis(5);
/// One large allocation in so many ticks: 10 a second, about a third of one CPU.
const TICKS_PER_LARGE: u64 = 20;
/// Small allocations a tick, live until the next.
const SMALL_PER_TICK: usize = 100;
/// How far a thread may lag behind before it gives up ticks.
const MAX_LAG: Duration = Duration::from_secs(1);

/// What churn did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChurnTruth {
    workload: &'static str,
    pid: u32,
    threads: u32,
    elapsed_ns: u64,
    large: SizeTruth,
    middle: SizeTruth,
    small: SmallTruth,
    faults: Faults,
}

/// Allocations that no tracer should see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct SmallTruth {
    count: u64,
    bytes: u64,
}

/// Churns until the time is over or a signal comes.
pub fn run(args: &ChurnArgs) -> anyhow::Result<ChurnTruth> {
    let before = Faults::so_far()?;
    let started = Instant::now();
    let end = args.seconds.and_then(|seconds| started.checked_add(Duration::from_secs(seconds)));
    let shares = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("churn".into()).spawn_scoped(scope, move || churn(end));
        let threads: Vec<_> =
            (0..args.threads).map(spawn).collect::<Result<_, _>>().context("cannot start a thread")?;
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow::anyhow!("a thread died"))?;
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<Share>>>()
    })?;
    let mut sum = Share::default();
    shares.iter().for_each(|share| sum.merge(share));
    Ok(ChurnTruth {
        workload: "churn",
        pid: std::process::id(),
        threads: args.threads,
        elapsed_ns: ns(started.elapsed()),
        large: sum.large,
        middle: sum.middle,
        small: sum.small,
        faults: Faults::so_far()? - before,
    })
}

/// What one thread did.
#[derive(Clone, Copy, Debug)]
struct Share {
    large: SizeTruth,
    middle: SizeTruth,
    small: SmallTruth,
}

impl Default for Share {
    fn default() -> Self {
        let (large, middle) = (SizeTruth::of_size(LARGE_BYTES), SizeTruth::of_size(MIDDLE_BYTES));
        Self { large, middle, small: SmallTruth::default() }
    }
}

impl Share {
    fn merge(&mut self, other: &Self) {
        self.large.merge(&other.large);
        self.middle.merge(&other.middle);
        self.small.count += other.small.count;
        self.small.bytes += other.small.bytes;
    }
}

fn churn(end: Option<Instant>) -> anyhow::Result<Share> {
    let mut share = Share::default();
    let mut small = Vec::with_capacity(SMALL_PER_TICK);
    let mut next = Instant::now();
    for tick in 0.. {
        if is_stopped() || end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        allocate_small(&mut small, &mut share.small);
        allocate_touch_free(&mut share.middle)?;
        if tick % TICKS_PER_LARGE == 0 {
            allocate_touch_free(&mut share.large)?;
        }
        next = (next + TICK).max(Instant::now().checked_sub(MAX_LAG).unwrap_or(next));
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(share)
}

/// Replaces the last tick's small allocations by new ones of 64 to 1,024 bytes.
fn allocate_small(live: &mut Vec<Box<[u8]>>, truth: &mut SmallTruth) {
    live.clear();
    for i in 0..SMALL_PER_TICK {
        let bytes = vec![i as u8; 64 + i * 64 % 1024].into_boxed_slice();
        truth.count += 1;
        truth.bytes += bytes.len() as u64;
        live.push(std::hint::black_box(bytes));
    }
}

/// By malloc and free themselves, so that no layer in between adds calls or leaves some out.
fn allocate_touch_free(truth: &mut SizeTruth) -> anyhow::Result<()> {
    let size = truth.size_bytes;
    // SAFETY: malloc has no preconditions.
    let start = timed(&mut truth.call_ns, || unsafe { libc::malloc(size as usize) });
    let start = NonNull::new(start.cast::<u8>()).with_context(|| format!("malloc refused {size} bytes"))?;
    // The block starts behind malloc's own header, whose page malloc has touched: that fault is in the call.
    // SAFETY: the block is `size` bytes long and nobody else knows of it.
    truth.pages_touched += timed(&mut truth.touch_ns, || unsafe { touch_pages(start.as_ptr(), size) });
    // SAFETY: `start` came from malloc just now and is not used again.
    timed(&mut truth.release_ns, || unsafe { libc::free(start.as_ptr().cast()) });
    truth.count += 1;
    truth.bytes += size;
    Ok(())
}
