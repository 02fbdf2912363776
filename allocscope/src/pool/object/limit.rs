//! `max_total` and other limits into who may make an item, who waits, and who goes without.

use super::builder::Limits;
use super::recipe::{PoolError, Recipe};
use super::tally::Event;
use super::{Pool, store};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

/// Items idle and in use, where they are limited.
pub(super) struct Total {
    most: Option<usize>,
    live: AtomicUsize,
    waiting: AtomicUsize,
}

impl Total {
    pub(super) fn new(most: Option<usize>) -> Self {
        Self { most, live: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Counts one more, unless there are as many as may be.
    fn join(&self, most: usize) -> bool {
        let update = |live: usize| (live < most).then(|| live + 1);
        self.live.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update).is_ok()
    }

    /// Counts one less, if there are more than may be.
    fn leave_beyond(&self, most: usize) -> bool {
        let update = |live: usize| (live > most).then(|| live - 1);
        self.live.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update).is_ok()
    }
}

/// Bytes that may be held.
pub(super) struct Bytes(AtomicUsize);

impl Bytes {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let update = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok()
    }

    pub(super) fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Items that may be idle: where all are of one size, bytes are items.
pub(super) fn max_idle<T>(limits: &Limits, recipe: &impl Recipe<T>) -> Option<usize> {
    let by_bytes = limits.max_idle_bytes.filter(|_| !recipe.weighs());
    let by_bytes = by_bytes.map(|bytes| bytes / recipe.usual_bytes().max(1));
    [limits.max_idle, by_bytes].into_iter().flatten().min()
}

/// A place in the queue of those who wait.
struct Place<'p, T, R: Recipe<T>> {
    pool: &'p Pool<T, R>,
    ticket: u64,
}

impl<T, R: Recipe<T>> Pool<T, R> {
    /// Counts an item that comes from outside; `false` where there are as many as may be.
    #[inline(always)]
    pub(super) fn joins(&self) -> bool {
        self.total.most.is_none_or(|most| self.total.join(most))
    }

    /// Counts an item that is gone.
    #[inline(always)]
    pub(super) fn leaves(&self) {
        if self.total.most.is_some() {
            self.total.live.fetch_sub(1, Ordering::SeqCst);
            self.notify();
        }
    }

    /// Whether an item that comes back is one too many; it is then counted as gone.
    pub(super) fn leaves_beyond(&self) -> bool {
        let left = self.total.most.is_some_and(|most| self.total.leave_beyond(most));
        if left {
            self.settle();
        }
        left
    }

    /// The right to make an item, or an idle one of another thread, if need be after a wait.
    pub(super) fn admit(&self) -> Result<Option<T>, PoolError> {
        let Some(most) = self.total.most else { return Ok(None) };
        if self.total.join(most) {
            return Ok(None);
        }
        if let Some(item) = self.reclaim() {
            return Ok(Some(item));
        }
        if self.limits.max_wait.is_zero() { Err(PoolError::Exhausted) } else { self.wait(most) }
    }

    /// Counts an item beyond the limit. From now on those that come back are looked at.
    pub(super) fn go_beyond(&self) {
        self.tally.add(Event::BeyondLimit, 1);
        self.total.live.fetch_add(1, Ordering::SeqCst);
        self.settle();
    }

    /// An item that another thread keeps for itself.
    fn reclaim(&self) -> Option<T> {
        if self.counters().idle > 0 {
            self.store.gather();
        }
        self.find()
    }

    fn wait(&self, most: usize) -> Result<Option<T>, PoolError> {
        let deadline = Instant::now() + self.limits.max_wait.min(FOREVER);
        let place = Place::new(self);
        self.store.gather();
        loop {
            if self.total.join(most) {
                return Ok(None);
            }
            if let Some(item) = self.find() {
                return Ok(Some(item));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.tally.add(Event::TimedOut, 1);
                drop(place);
                return Err(PoolError::Exhausted);
            }
            std::thread::park_timeout(left);
        }
    }

    /// Tells the first who waits that there may be something for it. The fence is for who begins to wait at that moment, and
    /// looks for an item after: it finds it, or is seen here.
    pub(super) fn notify(&self) {
        if self.total.most.is_none() {
            return;
        }
        fence(Ordering::SeqCst);
        if self.total.waiting.load(Ordering::SeqCst) > 0 {
            wake_first(&self.store.lock.lock());
        }
    }

    /// Closes or opens the gates of threads' own parts, as the limit wants it.
    fn settle(&self) {
        let mut lock = self.store.lock.lock();
        let beyond = self.total.most.is_some_and(|most| self.total.live.load(Ordering::SeqCst) > most);
        let limited = beyond || !lock.waiting.is_empty();
        self.store.limit(&mut lock, limited);
    }
}

/// Longer than any wait.
const FOREVER: Duration = Duration::from_secs(1 << 30);

fn wake_first(state: &store::State) {
    state.waiting.first().iter().for_each(|(_, thread)| thread.unpark());
}

impl<'p, T, R: Recipe<T>> Place<'p, T, R> {
    fn new(pool: &'p Pool<T, R>) -> Self {
        pool.tally.add(Event::Waited, 1);
        pool.total.waiting.fetch_add(1, Ordering::SeqCst);
        let mut lock = pool.store.lock.lock();
        let ticket = lock.tickets;
        lock.tickets += 1;
        lock.waiting.push((ticket, std::thread::current()));
        drop(lock);
        pool.settle();
        Self { pool, ticket }
    }
}

impl<T, R: Recipe<T>> Drop for Place<'_, T, R> {
    /// What it was woken for, the next may want.
    fn drop(&mut self) {
        let mut lock = self.pool.store.lock.lock();
        lock.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        wake_first(&lock);
        drop(lock);
        self.pool.total.waiting.fetch_sub(1, Ordering::SeqCst);
        self.pool.settle();
    }
}
