//! Pools, arenas and regions as what a [`Fallback`](super::Fallback) can ask.

use super::Serve;
use crate::pool::arena::{AllocError, Arena};
use crate::pool::buffer::{BufferPool, OwnedPooledBuffer, PooledBuffer};
use crate::pool::object::{OwnedPooled, Pool, PoolError, Pooled, Recipe};
use crate::pool::region::{Region, RegionError, RegionOptions, Step};
use std::alloc::Layout;
use std::sync::Arc;

/// Items; all errors may pass.
impl<'p, T, R: Recipe<T>> Serve for &'p Pool<T, R> {
    type Ask = ();
    type Item = Pooled<'p, T, R>;
    type Error = PoolError;

    #[inline]
    fn serve(&self, (): ()) -> Result<Self::Item, PoolError> {
        self.try_get()
    }
}

/// Empty buffers with room for so many bytes; all errors may pass.
impl<'p> Serve for &'p BufferPool {
    type Ask = usize;
    type Item = PooledBuffer<'p>;
    type Error = PoolError;

    #[inline]
    fn serve(&self, bytes: usize) -> Result<Self::Item, PoolError> {
        self.try_get(bytes)
    }
}

/// Items whose guards share the pool; all errors may pass.
impl<T, R: Recipe<T>> Serve for Arc<Pool<T, R>> {
    type Ask = ();
    type Item = OwnedPooled<T, R>;
    type Error = PoolError;

    #[inline]
    fn serve(&self, (): ()) -> Result<Self::Item, PoolError> {
        self.try_get_owned()
    }
}

/// The same whose guards share the pool.
impl Serve for Arc<BufferPool> {
    type Ask = usize;
    type Item = OwnedPooledBuffer;
    type Error = PoolError;

    #[inline]
    fn serve(&self, bytes: usize) -> Result<Self::Item, PoolError> {
        self.try_get_owned(bytes)
    }
}

/// Zeroed memory of a size and an alignment.
impl<'a> Serve for &'a Arena {
    type Ask = Layout;
    type Item = &'a mut [u8];
    type Error = AllocError;

    #[inline]
    fn serve(&self, layout: Layout) -> Result<Self::Item, AllocError> {
        self.try_alloc_zeroed(layout.size(), layout.align())
    }

    fn is_fault(error: &AllocError) -> bool {
        *error != AllocError::Impossible
    }
}

/// Regions of so many bytes, all of them usable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Regions(pub RegionOptions);

impl Serve for Regions {
    type Ask = usize;
    type Item = Region;
    type Error = RegionError;

    fn serve(&self, bytes: usize) -> Result<Region, RegionError> {
        let mut region = Region::reserve(bytes, self.0)?;
        region.commit(bytes)?;
        Ok(region)
    }

    fn is_fault(error: &RegionError) -> bool {
        error.step() != Step::Size
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::{Fallback, FallbackCounters, Served, plain_bytes};
    use super::*;
    use crate::pool::breaker::{Breaker, BreakerOptions, BreakerState, Clock};
    use crate::pool::region::failing::{Call, Failing};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    const OPTIONS: BreakerOptions = BreakerOptions {
        failure_share: 0.5,
        least_calls: 4,
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

    /// A pool of four: what it lacks is allocated; as long as it lacks much it is not asked; when items come back it is.
    #[test]
    fn an_exhausted_pool_is_bypassed_and_found_again() {
        let pool = Pool::builder(|| Box::new(0u64)).max_total(4).build();
        let hands = AtomicU64::new(0);
        let breaker = Breaker::with_clock(OPTIONS, || Duration::from_millis(hands.load(Relaxed))).unwrap();
        let fallback = Fallback::new(&pool, |()| Ok::<_, ()>(Box::new(0u64)), breaker);
        let mut held: Vec<_> = (0..16).map(|_| fallback.get(()).unwrap()).collect();
        held.iter_mut().zip(1..).for_each(|(item, value)| ***item = value);
        assert_eq!(held.iter().map(|item| ***item).sum::<u64>(), 136);

        // The window began with the fifth call: four failures of four opened it.
        assert_eq!(held.iter().filter(|item| item.is_plain()).count(), 12);
        let expected = FallbackCounters { faults: 4, refused: 0, open: 8, unserved: 0 };
        assert_eq!((fallback.counters(), expected.plain()), (expected, 12));
        assert_eq!(fallback.breaker().state(), BreakerState::Open);
        assert_eq!((pool.counters().gets, pool.counters().in_use), (4, 4));

        hands.store(10, Relaxed);
        assert!(fallback.get(()).unwrap().is_plain(), "the probe fails, items are still out");
        held.clear();
        assert!(fallback.get(()).unwrap().is_plain(), "it is open again");
        hands.store(20, Relaxed);
        assert!((0..10).all(|_| !fallback.get(()).unwrap().is_plain()));
        let counters = fallback.breaker().counters();
        assert_eq!((counters.state, counters.transitions), (BreakerState::Closed, [1, 2, 2]));
        assert_eq!(pool.counters().in_use, 0);
    }

    /// A factory that fails is such a failure as well.
    #[test]
    fn a_factory_that_fails_is_bypassed() {
        let pool = Pool::builder(|| 0u64).try_make(|| Err(PoolError::Factory("no more"))).build();
        let fallback = Fallback::new(&pool, |()| Ok::<_, ()>(7), still());
        assert!((0..5).all(|_| *fallback.get(()).unwrap() == 7));
        assert_eq!(fallback.counters(), FallbackCounters { faults: 4, open: 1, ..Default::default() });
    }

    /// Threads that want more than there is: each gets something of its own, and all is counted.
    #[test]
    fn threads_share_a_pool_that_is_too_small() {
        const ROUNDS: u64 = if cfg!(miri) { 10 } else { 2000 };
        let pool = Pool::builder(|| Box::new(0u64)).max_total(2).build();
        let fallback = Fallback::new(&pool, |()| Ok::<_, ()>(Box::new(0u64)), Breaker::new(OPTIONS).unwrap());
        let plain = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (fallback, plain) = (&fallback, &plain);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let mut item = fallback.get(()).unwrap();
                        **item = thread * ROUNDS + round;
                        plain.fetch_add(u64::from(item.is_plain()), Relaxed);
                        assert_eq!(**item, thread * ROUNDS + round);
                    }
                });
            }
        });
        let plain = plain.into_inner();
        assert_eq!((fallback.counters().plain(), fallback.counters().unserved), (plain, 0));
        assert_eq!((pool.counters().gets, pool.counters().in_use), (3 * ROUNDS - plain, 0));
    }

    #[test]
    fn buffers_of_both_kinds_are_vectors() {
        let pool = BufferPool::builder().build();
        let plain = |bytes| Ok::<_, usize>(Vec::with_capacity(bytes));
        let fallback = Fallback::new(&pool, plain, still());
        let mut buffer = fallback.get(5000).unwrap();
        buffer.extend_from_slice(b"abc");
        assert!(!buffer.is_plain() && buffer.capacity() >= 5000);
        assert_eq!(buffer.as_slice(), b"abc");
    }

    /// What is served may outlive who asked: nothing is borrowed.
    #[test]
    fn a_shared_pool_serves_guards_of_its_own() {
        let pool = Arc::new(Pool::builder(|| Box::new(1u64)).max_total(1).build());
        let fallback = Fallback::new(Arc::clone(&pool), |()| Ok::<_, ()>(Box::new(2u64)), still());
        let served = [fallback.get(()).unwrap(), fallback.get(()).unwrap()];
        assert_eq!(fallback.counters().faults, 1);
        let text = format!("{fallback:?}");
        assert!(
            text.starts_with("Fallback { serve: Pool { limits:") && text.contains("state: Closed"),
            "{text}"
        );
        drop(fallback);
        let sum = std::thread::spawn(move || served.iter().map(|item| ***item).sum::<u64>());
        assert_eq!((sum.join().unwrap(), pool.counters().in_use), (3, 0));

        let buffers = Arc::new(BufferPool::default());
        let plain = |bytes| Ok::<_, usize>(Vec::<u8>::with_capacity(bytes));
        let buffer = Fallback::new(Arc::clone(&buffers), plain, still()).get(5000).unwrap();
        assert_eq!((buffer.is_plain(), Arc::strong_count(&buffers)), (false, 2));
    }

    /// A kernel that refuses mappings for a while.
    #[test]
    fn where_mmap_fails_the_heap_serves() {
        static SYSTEM: Failing = Failing::new(Call::Map, libc::ENOMEM, 1);
        let hands = AtomicU64::new(0);
        let breaker = Breaker::with_clock(OPTIONS, || Duration::from_millis(hands.load(Relaxed))).unwrap();
        let regions = Regions(RegionOptions { system: &SYSTEM, ..RegionOptions::default() });
        let fallback = Fallback::new(regions, plain_bytes, breaker);
        let write = || match fallback.get(8192).unwrap() {
            Served::Pooled(mut region) => region.bytes_mut()[8191].write(1) == &1,
            Served::Plain(mut bytes) => {
                bytes[8191] = 1;
                false
            }
        };
        let in_regions: Vec<bool> = (0..6).map(|_| write()).collect();
        assert_eq!(in_regions, [true, false, false, false, false, false]);
        assert_eq!(fallback.breaker().state(), BreakerState::Open);
        SYSTEM.let_pass(100);
        hands.store(10, Relaxed);
        assert!((0..5).all(|_| write()));
        assert_eq!(fallback.counters(), FallbackCounters { faults: 4, open: 1, ..Default::default() });
        assert_eq!(SYSTEM.mapped.load(Relaxed), 0, "no mapping is left");
    }

    /// More than the address space has is the kernel's own refusal; no bytes at all is nobody's fault.
    #[cfg(not(miri))]
    #[test]
    fn the_kernels_own_refusal_is_a_fault_and_an_impossible_size_is_none() {
        let fallback = Fallback::new(Regions::default(), |_| Ok::<_, ()>(()), still());
        assert!(fallback.get(1 << 47).unwrap().is_plain());
        assert!(fallback.get(0).unwrap().is_plain());
        assert_eq!(fallback.counters(), FallbackCounters { faults: 1, refused: 1, ..Default::default() });
    }

    #[test]
    fn an_arena_at_its_limit_is_bypassed() {
        use crate::pool::arena::ArenaOptions;
        let arena = Arena::with_options(ArenaOptions { limit: 1 << 16, ..ArenaOptions::default() });
        let plain = |layout: Layout| plain_bytes(layout.size());
        let fallback = Fallback::new(&arena, plain, still());
        let layout = Layout::from_size_align(4096, 64).unwrap();
        let plain = (0..40).filter(|_| fallback.get(layout).unwrap().is_plain()).count();
        assert!((24..32).contains(&plain), "{plain} of 40 times 4 KiB did not fit in 64 KiB");
        let counters = fallback.counters();
        assert_eq!((counters.faults, counters.plain(), counters.refused), (4, plain as u64, 0));
    }
}
