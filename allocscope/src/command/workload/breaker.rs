//! A pool that is exhausted again and again, a breaker that then leaves it alone, and malloc meanwhile.
//!
//! The breaker's clock counts rounds, so that each run does the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::pace::Pace;
use super::pool_truth::{LargeBlocks, PoolTruth};
use super::room;
use super::truth::{Faults, ns, timed};
use crate::cli::pooled::BreakerArgs;
use crate::pool::breaker::{Breaker, BreakerOptions, BreakerState};
use crate::pool::fallback::{Fallback, FallbackCounters, Served};
use crate::pool::{Pool, Pooled};

/// Rounds of calm, in which each object goes back at once, and then as many of a rush, in which each is kept for
/// twice as many rounds as the pool has objects.
const PHASE: u64 = 50;

/// A round is a millisecond of this clock.
const OPTIONS: BreakerOptions = BreakerOptions {
    failure_share: 0.5,
    least_calls: 4,
    window: Duration::from_millis(20),
    open_for: Duration::from_millis(10),
    probes: 1,
    successes: 3,
    max_wait: None,
};

/// What breaker did.
#[derive(Clone, Debug, Serialize)]
pub struct BreakerTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    rounds: u64,
    size_bytes: u64,
    max_total: u64,
    /// Rounds that the pool served.
    pooled: u64,
    /// Rounds that malloc served, by why the pool did not.
    plain: BTreeMap<&'static str, u64>,
    breaker: Changes,
    pages_touched: u64,
    get_ns: u64,
    touch_ns: u64,
    pool: PoolTruth,
    /// Calls of malloc by both.
    large: LargeBlocks,
    faults: Faults,
}

/// What the breaker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Changes {
    state: &'static str,
    /// Times it went to each state.
    to: BTreeMap<&'static str, u64>,
    rejected: u64,
    failures: u64,
}

type Object<'p> = Served<Pooled<'p, Vec<u8>>, Vec<u8>>;

/// Works until the time is over or a signal comes.
pub fn run(args: &BreakerArgs) -> anyhow::Result<BreakerTruth> {
    let pool = room::pool(args.size)?.max_total(usize::try_from(args.max_total)?).build();
    let now = AtomicU64::new(0);
    let clock = || Duration::from_millis(now.load(Ordering::Relaxed));
    let breaker = Breaker::with_clock(OPTIONS, clock)?;
    let fallback = Fallback::new(&pool, |()| room::by_malloc(args.size), breaker);
    let before = Faults::so_far()?;
    let (mut get_ns, mut touch_ns, mut pages_touched, mut pooled) = (0, 0, 0, 0);
    let mut kept: VecDeque<(u64, Object<'_>)> = VecDeque::new();
    let mut pace = Pace::new(&args.pace);
    let mut rounds = 0;
    for round in &mut pace {
        now.store(round, Ordering::Relaxed);
        while kept.front().is_some_and(|(until, _)| *until <= round) {
            kept.pop_front();
        }
        let mut object = timed(&mut get_ns, || fallback.get(())).ok().context("malloc refused an object")?;
        pages_touched += timed(&mut touch_ns, || room::touch(&mut object));
        pooled += u64::from(!object.is_plain());
        if round / PHASE % 2 == 1 {
            kept.push_back((round + 2 * args.max_total, object));
        }
        rounds = round + 1;
    }
    kept.clear();
    let counters = fallback.counters();
    Ok(BreakerTruth {
        workload: "breaker",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        size_bytes: args.size,
        max_total: args.max_total,
        pooled,
        plain: counters.by_reason().into_iter().collect(),
        breaker: changes(fallback.breaker()),
        pages_touched,
        get_ns,
        touch_ns,
        large: large(args, &pool, &counters),
        pool: pool.counters().into(),
        faults: Faults::so_far()? - before,
    })
}

fn changes<C: crate::pool::breaker::Clock>(breaker: &Breaker<C>) -> Changes {
    let counters = breaker.counters();
    let to = BreakerState::ALL.map(|state| (state.name(), counters.transitions[state as usize]));
    Changes {
        state: counters.state.name(),
        to: to.into_iter().collect(),
        rejected: counters.rejected,
        failures: counters.failures,
    }
}

fn large(args: &BreakerArgs, pool: &Pool<Vec<u8>>, counters: &FallbackCounters) -> LargeBlocks {
    let mut large = LargeBlocks::default();
    large.add(pool.counters().misses + counters.plain(), args.size);
    large
}
