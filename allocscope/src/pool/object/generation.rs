//! Time and want of memory into items that are dropped.

use super::recipe::Recipe;
use super::store::Turn;
use super::tally::Event;
use super::{Pool, probe};
use crate::pool::pressure::Release;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<T, R: Recipe<T>> Pool<T, R> {
    /// Begins a new generation: what was idle for two of them is dropped, but for `min_idle`.
    ///
    /// Reaches what sleeping threads keep for themselves; a thread that was stopped within the few instructions of a
    /// get or put keeps its items until the next tick.
    pub fn tick(&self) {
        let began = probe::pool_evict::begin();
        let mut bytes = 0;
        // What is dropped may itself use the pool: no more than is there now.
        let mut most = self.counters().idle;
        let left = loop {
            match self.store.turn(|| most > 0 && self.idle_beyond_least()) {
                Turn::Drop(item) => bytes += self.evict(item, Event::Aged),
                Turn::Turned(left) => break left,
            }
            most = most.saturating_sub(1);
        };
        bytes += left.into_iter().map(|item| self.evict(item, Event::Full)).sum::<usize>();
        self.tally.add(Event::Ticked, 1);
        self.notify();
        if bytes > 0 {
            probe::pool_evict::end(began, bytes, std::ptr::from_ref(self).addr());
        }
    }

    /// Calls [`tick`](Self::tick) where half of `max_age` passed since the last such time: what is idle for `max_age`
    /// is dropped by the next call after. Slow paths call it; a pool that is not used wants somebody else to.
    #[inline(always)]
    pub fn age(&self) {
        if let Some(age) = self.limits.max_age {
            self.tick_where_due(age);
        }
    }

    #[inline(never)]
    fn tick_where_due(&self, age: Duration) {
        let now = nanoseconds((self.limits.clock)());
        let last = self.ticked.load(Ordering::Relaxed);
        let passed = now.saturating_sub(last);
        let due = passed >= nanoseconds(age) / 2;
        if !due || self.ticked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        self.tick();
        if passed >= nanoseconds(age) {
            // Nobody looked for so long that what is idle is too old already.
            self.tick();
        }
    }

    /// Drops what is idle, but for `min_idle`; says how many bytes it were.
    pub fn trim(&self) -> usize {
        self.release(usize::MAX)
    }

    fn idle_beyond_least(&self) -> bool {
        self.limits.min_idle == 0 || self.counters().idle > self.limits.min_idle as u64
    }

    fn evict(&self, item: T, reason: Event) -> usize {
        let bytes = self.recipe.bytes(&item);
        self.weigh_out(&item);
        self.discard(item, reason);
        bytes
    }

    /// An idle item, the oldest first; those of threads' own parts where there is no other.
    fn take_idle(&self) -> Option<T> {
        if !self.idle_beyond_least() {
            return None;
        }
        self.store.take_any().or_else(|| {
            self.store.gather();
            self.store.take_any()
        })
    }
}

impl<T, R: Recipe<T>> Release for Pool<T, R> {
    fn idle_bytes(&self) -> usize {
        usize::try_from(self.counters().idle_bytes).unwrap_or(usize::MAX)
    }

    fn release(&self, bytes: usize) -> usize {
        let began = probe::pool_evict::begin();
        let mut freed = 0;
        // What is dropped may itself use the pool: no more than is there now.
        for _ in 0..self.counters().idle {
            let item = if freed < bytes { self.take_idle() } else { None };
            let Some(item) = item else { break };
            freed += self.evict(item, Event::Released);
        }
        if freed > 0 {
            probe::pool_evict::end(began, freed, std::ptr::from_ref(self).addr());
        }
        freed
    }
}

/// For as long as a `u64` has room: 584 years.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
