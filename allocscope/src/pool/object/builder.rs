//! Wishes into an object pool.

use super::Pool;
use super::recipe::{Hooks, PoolError};
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a pool may hold; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items held idle.
    pub max_idle: Option<usize>,
    /// Bytes held idle; two locked instructions per get and put where items differ in size.
    pub max_idle_bytes: Option<usize>,
    /// Bytes of one item: a larger one is dropped when it comes back. Only where items differ in size.
    pub max_item_bytes: Option<usize>,
    /// How long an item may be idle.
    pub max_age: Option<Duration>,
    /// Items that neither age nor `release` takes.
    pub min_idle: usize,
    /// Items idle and in use.
    pub max_total: Option<usize>,
    /// How long a get waits at `max_total`.
    pub max_wait: Duration,
    /// Threads that have a part of their own; those beyond share one.
    pub threads: usize,
    /// Time since any fixed moment.
    pub clock: fn() -> Duration,
}

impl Default for Limits {
    /// No limits, and time that passes.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            max_idle: None,
            max_idle_bytes: None,
            max_item_bytes: None,
            max_age: None,
            min_idle: 0,
            max_total: None,
            max_wait: Duration::ZERO,
            threads: (4 * processors).clamp(16, 128),
            clock: monotonic,
        }
    }
}

/// Time since this function was first called.
fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Builds a [`Pool`].
pub struct PoolBuilder<T> {
    pub(super) hooks: Hooks<T>,
    pub(super) limits: Limits,
}

impl<T: Send> PoolBuilder<T> {
    pub(super) fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let hooks = Hooks { make: Box::new(make), try_make: None, reset: None, bytes: None, plain: true };
        Self { hooks, limits: Limits::default() }
    }

    /// How [`Pool::try_get`] makes an item; without it, as [`Pool::get`] does.
    #[must_use]
    pub fn try_make(mut self, make: impl Fn() -> Result<T, PoolError> + Send + Sync + 'static) -> Self {
        self.hooks.try_make = Some(Box::new(make));
        self
    }

    /// Makes an item clean that comes back; where it says `false` the item is dropped.
    #[must_use]
    pub fn reset(mut self, reset: fn(&mut T) -> bool) -> Self {
        self.hooks.reset = Some(reset);
        self.hooks.plain = false;
        self
    }

    /// Bytes that an idle item holds; without it, `size_of::<T>()`. Costs a call per get and put.
    #[must_use]
    pub fn size_of(mut self, bytes: fn(&T) -> usize) -> Self {
        self.hooks.bytes = Some(bytes);
        self.hooks.plain = false;
        self
    }

    /// Replaces all limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// At most so many items idle.
    #[must_use]
    pub fn max_idle(mut self, items: usize) -> Self {
        self.limits.max_idle = Some(items);
        self
    }

    /// At most so many bytes idle, as `size_of` measures them.
    #[must_use]
    pub fn max_idle_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_idle_bytes = Some(bytes);
        self
    }

    /// No item kept that is larger, as `size_of` measures it.
    #[must_use]
    pub fn max_item_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_item_bytes = Some(bytes);
        self
    }

    /// No item idle for longer, as far as somebody calls [`Pool::age`]; slow paths do.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.limits.max_age = Some(age);
        self
    }

    /// So many idle items are kept whatever their age.
    #[must_use]
    pub fn min_idle(mut self, items: usize) -> Self {
        self.limits.min_idle = items;
        self
    }

    /// At most so many items idle and in use.
    #[must_use]
    pub fn max_total(mut self, items: usize) -> Self {
        self.limits.max_total = Some(items);
        self
    }

    /// How long a get waits for an item at `max_total`; without it, not at all.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.limits.max_wait = wait;
        self
    }

    /// Threads that have a part of their own.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.limits.threads = threads;
        self
    }

    /// Another source of time.
    #[must_use]
    pub fn clock(mut self, clock: fn() -> Duration) -> Self {
        self.limits.clock = clock;
        self
    }

    /// The pool. Makes no item.
    pub fn build(self) -> Pool<T> {
        Pool::with_recipe(self.hooks, self.limits)
    }
}

impl<T: Default + Send + 'static> Default for Pool<T> {
    /// A pool of items that are made by their `default`, without limits.
    fn default() -> Self {
        Self::builder(T::default).build()
    }
}

impl<T> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}
