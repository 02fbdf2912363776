//! Events of one thread into counts that only this thread writes and anybody reads.

use crate::pool::counters::PoolCounters;
use crate::pool::sync::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy)]
pub(super) enum Event {
    Private,
    Returned,
    Put,
    Taken,
    Shared,
    Stolen,
    Victim,
    BytesIn,
    BytesOut,
    Asked,
    Missed,
    Failed,
    BeyondLimit,
    Waited,
    TimedOut,
    Ticked,
    Full,
    Oversized,
    Poisoned,
    Rejected,
    Aged,
    Released,
    DroppedBeyondLimit,
}

/// Events of a thread's own part.
const OWN: usize = Event::Missed as usize;
const ALL: usize = Event::DroppedBeyondLimit as usize + 1;

/// Counts that one thread writes without a locked instruction.
pub(super) struct Own([AtomicU64; OWN]);

/// Counts that every thread writes; on lines of their own, as what is beside them is read on the way of each get.
#[repr(align(128))]
pub(super) struct Common([AtomicU64; ALL]);

impl Own {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// So many more. Only by the slot's owner.
    #[inline(always)]
    pub(super) fn add(&self, event: Event, count: u64) {
        let at = &self.0[event as usize];
        at.store(at.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn read(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}

impl Common {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(super) fn add(&self, event: Event, count: u64) {
        self.0[event as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn read(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}

/// The sum of all counts; what is held follows from it.
pub(super) fn sum<'c>(common: &Common, own: impl Iterator<Item = &'c Own>) -> PoolCounters {
    let mut totals = [0u64; ALL];
    for own in own {
        add(&mut totals, &own.0);
    }
    add(&mut totals, &common.0);
    counters(|event| totals[event as usize])
}

fn add(totals: &mut [u64; ALL], counts: &[AtomicU64]) {
    for (total, count) in totals.iter_mut().zip(counts) {
        *total = total.wrapping_add(count.load(Ordering::Relaxed));
    }
}

fn counters(of: impl Fn(Event) -> u64) -> PoolCounters {
    let mut counters = PoolCounters {
        misses: of(Event::Missed),
        failures: of(Event::Failed),
        returns: of(Event::Returned),
        puts: of(Event::Put),
        takes: of(Event::Taken),
        waits: of(Event::Waited),
        timeouts: of(Event::TimedOut),
        beyond_limit: of(Event::BeyondLimit),
        ticks: of(Event::Ticked),
        idle_bytes: of(Event::BytesIn).saturating_sub(of(Event::BytesOut)),
        ..PoolCounters::default()
    };
    let hits = &mut counters.hits;
    (hits.private, hits.shared) = (of(Event::Private), of(Event::Shared));
    (hits.stolen, hits.victim) = (of(Event::Stolen), of(Event::Victim));
    let drops = &mut counters.drops;
    (drops.full, drops.oversized) = (of(Event::Full), of(Event::Oversized));
    (drops.poisoned, drops.rejected) = (of(Event::Poisoned), of(Event::Rejected));
    (drops.aged, drops.released) = (of(Event::Aged), of(Event::Released));
    drops.beyond_limit = of(Event::DroppedBeyondLimit);
    counters.gets = counters.hits.all() + counters.misses;
    counters.in_use = counters.gets.saturating_sub(counters.returns + counters.takes);
    let gone = counters.drops.all() + counters.hits.all();
    counters.idle = (counters.returns + counters.puts).saturating_sub(gone);
    counters
}
