//! Asks that a pool cannot serve into plain allocations, counted; and a pool that keeps failing is not asked for a while.

mod serve;

pub use serve::Regions;

use super::breaker::{Breaker, Clock, Monotonic};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What may be unable to serve: a pool at its limit, a region where mmap fails.
pub trait Serve {
    /// What is asked for, such as a length; `()` where all items are the same.
    type Ask: Copy;
    /// What is given.
    type Item;
    /// Why nothing is given.
    type Error;

    /// Gives what is asked for, or says why not.
    fn serve(&self, ask: Self::Ask) -> Result<Self::Item, Self::Error>;

    /// Whether an error tells of something that may pass and that the breaker should know; not so where the ask itself
    /// can never be served.
    fn is_fault(error: &Self::Error) -> bool {
        let _ = error;
        true
    }
}

/// A pool, what to do without it, and the breaker that decides.
pub struct Fallback<S, P, C = Monotonic> {
    serve: S,
    plain: P,
    breaker: Breaker<C>,
    counts: Counts,
}

/// Counted on the slow path only: what the pool served is in its own counters.
#[derive(Default)]
struct Counts {
    faults: AtomicU64,
    refused: AtomicU64,
    open: AtomicU64,
    unserved: AtomicU64,
}

/// How often the pool did not serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FallbackCounters {
    /// The pool was asked and failed.
    pub faults: u64,
    /// The pool was asked and does not serve such asks.
    pub refused: u64,
    /// The breaker was open, the pool was not asked.
    pub open: u64,
    /// Of all these, asks that plain allocation could not serve either.
    pub unserved: u64,
}

impl FallbackCounters {
    /// Asks that plain allocation served.
    pub fn plain(&self) -> u64 {
        (self.faults + self.refused + self.open).saturating_sub(self.unserved)
    }

    /// Asks that went to plain allocation, each with the reason's name, as a label has it.
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        [("fault", self.faults), ("refused", self.refused), ("open", self.open)]
    }
}

/// What was got, and from where.
#[derive(Debug)]
pub enum Served<I, T> {
    /// Of the pool.
    Pooled(I),
    /// Allocated for this one use.
    Plain(T),
}

impl<I, T> Served<I, T> {
    /// Whether the pool did not serve.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl<I: Deref<Target = T>, T> Deref for Served<I, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            Self::Pooled(item) => item,
            Self::Plain(item) => item,
        }
    }
}

impl<I: DerefMut<Target = T>, T> DerefMut for Served<I, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Pooled(item) => item,
            Self::Plain(item) => item,
        }
    }
}

/// Neither the pool nor plain allocation served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unserved<E, F> {
    /// Why the pool did not; `None` where it was not asked.
    pub pool: Option<E>,
    /// Why plain allocation did not.
    pub plain: F,
}

impl<E: fmt::Display, F: fmt::Display> fmt::Display for Unserved<E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pool {
            Some(pool) => write!(f, "neither the pool served ({pool}) nor plain allocation ({})", self.plain),
            None => write!(f, "the breaker is open, and plain allocation failed ({})", self.plain),
        }
    }
}

impl<E: fmt::Debug + fmt::Display, F: fmt::Debug + fmt::Display> std::error::Error for Unserved<E, F> {}

impl<S, P, C> Fallback<S, P, C> {
    /// The breaker: its state and counters.
    pub fn breaker(&self) -> &Breaker<C> {
        &self.breaker
    }

    /// How often the pool did not serve.
    pub fn counters(&self) -> FallbackCounters {
        let Counts { faults, refused, open, unserved } = &self.counts;
        let [faults, refused, open, unserved] =
            [faults, refused, open, unserved].map(|count| count.load(Relaxed));
        FallbackCounters { faults, refused, open, unserved }
    }
}

impl<S: fmt::Debug, P, C: Clock> fmt::Debug for Fallback<S, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Fallback");
        out.field("serve", &self.serve).field("breaker", &self.breaker);
        out.field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl<S, P, C, T, F> Fallback<S, P, C>
where
    S: Serve,
    P: Fn(S::Ask) -> Result<T, F>,
    C: Clock,
{
    /// Asks `serve` while the breaker lets it, and `plain` where that fails.
    pub fn new(serve: S, plain: P, breaker: Breaker<C>) -> Self {
        Self { serve, plain, breaker, counts: Counts::default() }
    }

    /// What is asked for, of the pool if it can be.
    ///
    /// # Errors
    ///
    /// Both reasons, where plain allocation fails as well.
    #[inline]
    pub fn get(&self, ask: S::Ask) -> Result<Served<S::Item, T>, Unserved<S::Error, F>> {
        if !self.breaker.is_healthy() {
            return self.get_watched(ask);
        }
        match self.serve.serve(ask) {
            Ok(item) => {
                self.breaker.tell_of_healthy(true);
                Ok(Served::Pooled(item))
            }
            Err(error) => self.first_failure(ask, error),
        }
    }

    /// Asks through the breaker. Errors that are no faults are no failures of the call.
    #[cold]
    #[inline(never)]
    fn get_watched(&self, ask: S::Ask) -> Result<Served<S::Item, T>, Unserved<S::Error, F>> {
        let call = || match self.serve.serve(ask) {
            Err(error) if S::is_fault(&error) => Err(error),
            other => Ok(other),
        };
        let (count, pool) = match self.breaker.call(call) {
            Ok(Ok(item)) => return Ok(Served::Pooled(item)),
            Ok(Err(refused)) => (&self.counts.refused, Some(refused)),
            Err(Some(fault)) => (&self.counts.faults, Some(fault)),
            Err(None) => (&self.counts.open, None),
        };
        self.allocate(ask, count, pool)
    }

    /// Where nothing failed before.
    #[cold]
    #[inline(never)]
    fn first_failure(
        &self,
        ask: S::Ask,
        error: S::Error,
    ) -> Result<Served<S::Item, T>, Unserved<S::Error, F>> {
        let is_fault = S::is_fault(&error);
        self.breaker.tell_of_healthy(!is_fault);
        let count = if is_fault { &self.counts.faults } else { &self.counts.refused };
        self.allocate(ask, count, Some(error))
    }

    fn allocate(
        &self,
        ask: S::Ask,
        count: &AtomicU64,
        pool: Option<S::Error>,
    ) -> Result<Served<S::Item, T>, Unserved<S::Error, F>> {
        count.fetch_add(1, Relaxed);
        (self.plain)(ask).map(Served::Plain).map_err(|plain| {
            self.counts.unserved.fetch_add(1, Relaxed);
            Unserved { pool, plain }
        })
    }
}

/// Bytes of the heap, zeroed, or the number of bytes that could not be had: plain allocation for [`Fallback`].
pub fn plain_bytes(bytes: usize) -> Result<Vec<u8>, usize> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| bytes)?;
    buffer.resize(bytes, 0);
    Ok(buffer)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::breaker::{BreakerOptions, BreakerState};
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    /// Serves as long as there are items; does not know of asks above 100.
    struct Store {
        items: Cell<u32>,
        asked: Cell<u32>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum StoreError {
        Empty,
        TooLarge,
    }

    impl Serve for &Store {
        type Ask = u32;
        type Item = Box<u32>;
        type Error = StoreError;

        fn serve(&self, ask: u32) -> Result<Box<u32>, StoreError> {
            self.asked.set(self.asked.get() + 1);
            if ask > 100 {
                return Err(StoreError::TooLarge);
            }
            let left = self.items.get().checked_sub(1).ok_or(StoreError::Empty)?;
            self.items.set(left);
            Ok(Box::new(ask))
        }

        fn is_fault(error: &StoreError) -> bool {
            *error == StoreError::Empty
        }
    }

    fn store(items: u32) -> Store {
        Store { items: Cell::new(items), asked: Cell::new(0) }
    }

    fn plain(ask: u32) -> Result<u32, &'static str> {
        if ask == 13 { Err("no memory") } else { Ok(ask) }
    }

    const OPTIONS: BreakerOptions = BreakerOptions {
        failure_share: 1.0,
        least_calls: 3,
        window: Duration::from_secs(1),
        open_for: Duration::from_millis(10),
        probes: 1,
        successes: 3,
        max_wait: None,
    };

    /// A breaker for which no time passes.
    fn still() -> Breaker<impl Clock> {
        Breaker::with_clock(OPTIONS, || Duration::ZERO).unwrap()
    }

    #[test]
    fn an_empty_store_is_left_alone_until_it_serves_again() {
        let (store, hands) = (store(2), AtomicU64::new(0));
        let clock = || Duration::from_millis(hands.load(Relaxed));
        let fallback = Fallback::new(&store, plain, Breaker::with_clock(OPTIONS, clock).unwrap());
        let plain = |times| (0..times).map(|ask| fallback.get(ask).unwrap().is_plain()).collect::<Vec<_>>();
        assert_eq!(plain(5), [false, false, true, true, true]);
        assert_eq!((fallback.breaker().state(), store.asked.get()), (BreakerState::Open, 5));
        assert_eq!(plain(10), [true; 10]);
        assert_eq!(store.asked.get(), 5, "an open breaker does not ask");
        hands.store(10, Relaxed);
        assert_eq!(plain(2), [true; 2]);
        assert_eq!(store.asked.get(), 6, "one probe, which failed");
        store.items.set(3);
        hands.store(20, Relaxed);
        assert_eq!(plain(4), [false, false, false, true]);
        assert_eq!(fallback.breaker().state(), BreakerState::Closed);
        let expected = FallbackCounters { faults: 5, refused: 0, open: 11, unserved: 0 };
        assert_eq!((fallback.counters(), expected.plain()), (expected, 16));
    }

    #[test]
    fn what_can_never_be_served_does_not_open_the_breaker() {
        let store = store(1);
        let fallback = Fallback::new(&store, plain, still());
        assert!((0..9).all(|_| fallback.get(101).unwrap().is_plain()));
        assert!(!fallback.get(1).unwrap().is_plain());
        assert_eq!(fallback.counters().by_reason(), [("fault", 0), ("refused", 9), ("open", 0)]);
    }

    #[test]
    fn where_nothing_serves_both_reasons_are_told() {
        let store = store(0);
        let fallback = Fallback::new(&store, plain, still());
        let told: Vec<_> = (0..4).map(|_| fallback.get(13).unwrap_err()).collect();
        let asked = Unserved { pool: Some(StoreError::Empty), plain: "no memory" };
        assert_eq!(told, [asked, asked, asked, Unserved { pool: None, ..asked }]);
        assert_eq!((fallback.counters().unserved, fallback.counters().plain()), (4, 0));
    }

    #[test]
    fn both_kinds_are_used_alike() {
        let store = store(1);
        let fallback = Fallback::new(&store, plain, still());
        for _ in 0..2 {
            let mut item = fallback.get(7).unwrap();
            *item += 1;
            assert_eq!(*item, 8);
        }
    }

    #[test]
    fn bytes_that_cannot_be_had_are_an_error() {
        assert_eq!(plain_bytes(3), Ok(vec![0; 3]));
        assert_eq!(plain_bytes(usize::MAX), Err(usize::MAX));
        // Miri itself ends where it has no memory.
        #[cfg(not(miri))]
        assert_eq!(plain_bytes(isize::MAX as usize), Err(isize::MAX as usize));
    }
}
