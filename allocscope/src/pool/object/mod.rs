//! Items that are expensive to make into items that are used again: an object pool.

mod builder;
mod guard;
mod recipe;

pub use builder::{Limits, PoolBuilder};
pub use guard::Pooled;
pub use recipe::{Hooks, PoolError, Recipe};

use super::counters::PoolCounters;
use std::sync::Mutex;
use std::time::Duration;

/// A pool of items that any number of threads share.
pub struct Pool<T, R: Recipe<T> = Hooks<T>> {
    recipe: R,
    limits: Limits,
    idle: Mutex<(Vec<T>, PoolCounters)>,
}

impl<T> Pool<T> {
    /// A builder of a pool whose items `make` makes when one is wanted and none is idle.
    pub fn builder(make: impl Fn() -> T + Send + Sync + 'static) -> PoolBuilder<T> {
        PoolBuilder::new(make)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_idle: None,
            max_idle_bytes: None,
            max_item_bytes: None,
            max_age: None,
            min_idle: 0,
            max_total: None,
            max_wait: Duration::ZERO,
            threads: 64,
            clock: || Duration::ZERO,
        }
    }
}

impl<T, R: Recipe<T>> Pool<T, R> {
    /// A pool of a recipe of its own type: no indirect call on its way.
    pub fn with_recipe(recipe: R, limits: Limits) -> Self {
        Self { recipe, limits, idle: Mutex::default() }
    }

    pub(super) fn recipe(&self) -> &R {
        &self.recipe
    }

    fn with<O>(&self, f: impl FnOnce(&mut (Vec<T>, PoolCounters)) -> O) -> O {
        f(&mut self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// An item. Beyond `max_total`, after `max_wait`, one that is dropped when it comes back.
    pub fn get(&self) -> Pooled<'_, T, R> {
        let hit = self.with(|(idle, counters)| {
            let item = idle.pop();
            counters.gets += 1;
            counters.hits.private += u64::from(item.is_some());
            counters.misses += u64::from(item.is_none());
            item
        });
        Pooled::new(self, hit.unwrap_or_else(|| self.recipe.make()))
    }

    /// An item, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] at `max_total` after `max_wait`; what the factory says.
    pub fn try_get(&self) -> Result<Pooled<'_, T, R>, PoolError> {
        Ok(self.get())
    }

    /// Gives the pool an item, made by anybody.
    pub fn put(&self, item: T) {
        self.with(|(idle, counters)| {
            idle.push(item);
            counters.puts += 1;
        });
    }

    fn took(&self) {
        self.with(|(_, counters)| counters.takes += 1);
    }

    fn give_back(&self, mut item: T) {
        let keep = self.recipe.reset(&mut item);
        self.with(|(idle, counters)| {
            counters.returns += 1;
            counters.drops.rejected += u64::from(!keep);
            idle.extend(keep.then_some(item));
        });
    }

    /// Begins a new generation: what was idle for two of them is dropped, but for `min_idle`.
    pub fn tick(&self) {
        let aged = self.with(|(idle, _)| std::mem::take(idle));
        self.with(|(_, counters)| counters.drops.aged += aged.len() as u64);
    }

    /// Calls [`tick`](Self::tick) where half of `max_age` passed since the last one.
    pub fn age(&self) {
        let _ = (self.limits.clock)();
    }

    /// What it did and holds.
    pub fn counters(&self) -> PoolCounters {
        self.with(|(idle, counters)| {
            let mut counters = *counters;
            counters.idle = idle.len() as u64;
            counters.idle_bytes = idle.iter().map(|item| self.recipe.bytes(item) as u64).sum();
            counters.in_use = counters.gets - counters.returns - counters.takes;
            counters
        })
    }
}

impl<T, R: Recipe<T>> super::pressure::Release for Pool<T, R> {
    fn idle_bytes(&self) -> usize {
        usize::try_from(self.counters().idle_bytes).unwrap_or(usize::MAX)
    }

    fn release(&self, bytes: usize) -> usize {
        let before = self.idle_bytes();
        if bytes > 0 {
            self.tick();
        }
        before - self.idle_bytes()
    }
}
