//! Requests that take an object each, of which some keep it past their end, beside the same where none does.

use std::collections::VecDeque;

use serde::Serialize;

use super::pace::Pace;
use super::pool_truth::{LargeBlocks, PoolTruth};
use super::room;
use super::truth::{Faults, ns, timed};
use crate::cli::pooled::LifetimesArgs;
use crate::pool::{Pool, Pooled};

/// What lifetimes did.
#[derive(Clone, Debug, Serialize)]
pub struct LifetimesTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    size_bytes: u64,
    /// Requests of each kind.
    requests: u64,
    /// Each object goes back when its request ends.
    matched: Requests,
    /// Some are kept.
    mismatched: Requests,
    /// Calls of malloc by both.
    large: LargeBlocks,
    faults: Faults,
}

/// Requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Requests {
    /// Objects kept past their request's end.
    held: u64,
    /// At the same time.
    most_held: u64,
    pages_touched: u64,
    get_ns: u64,
    touch_ns: u64,
    pool: PoolTruth,
}

/// An object that is kept until a request begins.
struct Held<'p> {
    until: u64,
    _object: Pooled<'p, Vec<u8>>,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &LifetimesArgs) -> anyhow::Result<LifetimesTruth> {
    let pools = [room::pool(args.size)?.build(), room::pool(args.size)?.build()];
    let before = Faults::so_far()?;
    let (mut matched, mut mismatched) = (Requests::default(), Requests::default());
    let mut held = VecDeque::new();
    let mut pace = Pace::new(&args.pace);
    let mut requests = 0;
    for request in &mut pace {
        drop(matched.one(&pools[0])?);
        give_back(request, &mut held);
        let object = mismatched.one(&pools[1])?;
        if request % args.every == 0 {
            mismatched.hold(Held { until: request + args.held_for, _object: object }, &mut held);
        }
        if request % args.tick_every == args.tick_every - 1 {
            pools.iter().for_each(Pool::tick);
        }
        requests = request + 1;
    }
    held.clear();
    let counters = pools.each_ref().map(Pool::counters);
    let mut large = LargeBlocks::default();
    large.add(counters.iter().map(|counters| counters.misses).sum(), args.size);
    [matched.pool, mismatched.pool] = counters.map(PoolTruth::from);
    Ok(LifetimesTruth {
        workload: "lifetimes",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        size_bytes: args.size,
        requests,
        matched,
        mismatched,
        large,
        faults: Faults::so_far()? - before,
    })
}

impl Requests {
    fn one<'p>(&mut self, pool: &'p Pool<Vec<u8>>) -> anyhow::Result<Pooled<'p, Vec<u8>>> {
        let mut object = timed(&mut self.get_ns, || pool.try_get())?;
        self.pages_touched += timed(&mut self.touch_ns, || room::touch(&mut object));
        Ok(object)
    }

    fn hold<'p>(&mut self, object: Held<'p>, held: &mut VecDeque<Held<'p>>) {
        held.push_back(object);
        self.held += 1;
        self.most_held = self.most_held.max(held.len() as u64);
    }
}

/// Those that were kept long enough.
fn give_back(request: u64, held: &mut VecDeque<Held<'_>>) {
    while held.front().is_some_and(|object| object.until <= request) {
        held.pop_front();
    }
}
