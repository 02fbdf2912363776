//! Buffers of bytes into buffers that are used again, by classes of size.
//!
//! A class is a pool of its own, made when it is first asked for. There are four classes to a power of two, so that
//! less than a fifth of a buffer is more than was asked for.

mod class;
mod guard;

pub use guard::{BufferGuard, OwnedPooledBuffer, PooledBuffer};

use super::counters::{BufferCounters, ClassCounters};
use super::object::{Limits, Pool, PoolError};
use super::pressure::Release;
use class::{Class, OfSize, allocate, no_memory};
use guard::{Borrowed, Home, Shared};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Classes to a power of two, as a power of two.
const STEPS_LOG2: u32 = 2;
/// Smallest class that there can be: below it, four steps are no whole bytes.
const LEAST_LOG2: u32 = 4;
/// Largest class that there can be.
const MOST_LOG2: u32 = 40;

/// A pool of `Vec<u8>`. On cache lines of its own, as an object pool is: the count of an `Arc` around it is not on them.
#[repr(align(128))]
pub struct BufferPool {
    classes: Box<[OnceLock<Class>]>,
    /// Number of the smallest class.
    first: usize,
    limits: Limits,
    oversized: AtomicU64,
}

/// Builds a [`BufferPool`].
#[derive(Clone, Copy, Debug)]
pub struct BufferPoolBuilder {
    smallest: usize,
    largest: usize,
    limits: Limits,
}

impl BufferPoolBuilder {
    /// Capacity of the smallest class in bytes, rounded up to a power of two from 16 on.
    #[must_use]
    pub fn smallest(mut self, bytes: usize) -> Self {
        self.smallest = bytes;
        self
    }

    /// Capacity of the largest class in bytes, rounded up to a power of two. Larger buffers are never pooled.
    #[must_use]
    pub fn largest(mut self, bytes: usize) -> Self {
        self.largest = bytes;
        self
    }

    /// Limits of each class.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The pool. Makes no buffer.
    pub fn build(self) -> BufferPool {
        let log2 = |bytes: usize| bytes.max(1).checked_next_power_of_two().map_or(MOST_LOG2, usize::ilog2);
        let smallest = log2(self.smallest).clamp(LEAST_LOG2, MOST_LOG2);
        let largest = log2(self.largest).clamp(smallest, MOST_LOG2);
        let (first, last) = (class_of(1 << smallest), class_of(1 << largest));
        BufferPool {
            classes: (first..=last).map(|_| OnceLock::new()).collect(),
            first,
            limits: self.limits,
            oversized: AtomicU64::new(0),
        }
    }
}

/// The smallest class with so many bytes, from 1 on; classes are numbered from 1 byte on.
#[inline(always)]
fn class_of(bytes: usize) -> usize {
    let last = (bytes - 1).max((1 << LEAST_LOG2) - 1);
    let log2 = last.ilog2();
    // The highest bit counts as one step, so that the next power of two follows the last step.
    ((log2 as usize) << STEPS_LOG2) + (last >> (log2 - STEPS_LOG2)) - (1 << STEPS_LOG2) + 1
}

/// Bytes of a class.
fn bytes_of(class: usize) -> usize {
    let (log2, step) = (class >> STEPS_LOG2, class & ((1 << STEPS_LOG2) - 1));
    ((1 << STEPS_LOG2) + step) << (log2 - STEPS_LOG2 as usize)
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl BufferPool {
    /// Classes from 1 KiB to 4 MiB, without limits.
    pub fn builder() -> BufferPoolBuilder {
        BufferPoolBuilder { smallest: 1 << 10, largest: 4 << 20, limits: Limits::default() }
    }

    /// An empty buffer with room for `len` bytes. Aborts where there is no memory, as a `Vec` does.
    #[inline]
    pub fn get(&self, len: usize) -> PooledBuffer<'_> {
        let Some(class) = self.class(len) else { return self.oversized(len) };
        BufferGuard::new(Borrowed(Some(class)), class.get_bare(len).into_buffer())
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] where there is no memory; [`PoolError::Exhausted`] at a limit.
    #[inline]
    pub fn try_get(&self, len: usize) -> Result<PooledBuffer<'_>, PoolError> {
        let Some(class) = self.class(len) else { return self.try_oversized(len) };
        Ok(BufferGuard::new(Borrowed(Some(class)), class.try_get_bare(len)?.into_buffer()))
    }

    /// A buffer that goes where it likes: its guard shares the pool instead of borrowing it. Else as
    /// [`get`](Self::get); what it costs more is told by [`Pool::get_owned`].
    ///
    /// ```
    /// use allocscope::pool::BufferPool;
    /// use std::sync::{Arc, mpsc};
    /// use std::thread;
    ///
    /// let pool = Arc::new(BufferPool::default());
    /// let (sender, receiver) = mpsc::channel();
    /// let writes = thread::spawn(move || receiver.iter().map(|buffer: OwnedPooledBuffer| buffer.len()).sum::<usize>());
    /// # use allocscope::pool::OwnedPooledBuffer;
    /// for line in ["one", "two", "three"] {
    ///     let mut buffer = pool.get_owned(4096);
    ///     buffer.extend_from_slice(line.as_bytes());
    ///     sender.send(buffer)?;
    /// }
    /// drop(sender);
    /// assert_eq!(writes.join().unwrap(), 11);
    /// assert_eq!(pool.counters().classes[0].pool.in_use, 0);
    /// # Ok::<(), mpsc::SendError<OwnedPooledBuffer>>(())
    /// ```
    #[inline]
    pub fn get_owned(self: &Arc<Self>, len: usize) -> OwnedPooledBuffer {
        let Some(class) = self.class(len) else { return self.oversized(len) };
        let buffer = class.get_bare(len).into_buffer();
        BufferGuard::new(self.shared_home(len), buffer)
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] where there is no memory; [`PoolError::Exhausted`] at a limit.
    #[inline]
    pub fn try_get_owned(self: &Arc<Self>, len: usize) -> Result<OwnedPooledBuffer, PoolError> {
        let Some(class) = self.class(len) else { return self.try_oversized(len) };
        let buffer = class.try_get_bare(len)?.into_buffer();
        Ok(BufferGuard::new(self.shared_home(len), buffer))
    }

    #[inline(always)]
    fn shared_home(self: &Arc<Self>, len: usize) -> Shared {
        Shared(Some((Arc::clone(self), self.number(len))))
    }

    /// The number of the class that has buffers of so many bytes, if there is one.
    #[inline(always)]
    fn number(&self, len: usize) -> usize {
        class_of(len.max(1)).saturating_sub(self.first)
    }

    /// The class that has buffers of so many bytes.
    #[inline(always)]
    fn class(&self, len: usize) -> Option<&Class> {
        let number = self.number(len);
        let class = self.classes.get(number)?;
        Some(class.get().unwrap_or_else(|| self.new_class(number)))
    }

    #[cold]
    #[inline(never)]
    fn new_class(&self, number: usize) -> &Class {
        self.classes[number].get_or_init(|| {
            let (bytes, next) = (bytes_of(number + self.first), bytes_of(number + self.first + 1));
            Pool::with_recipe(OfSize { bytes, next }, self.limits)
        })
    }

    #[cold]
    fn oversized<H: Home>(&self, len: usize) -> BufferGuard<H> {
        self.try_oversized(len).unwrap_or_else(|_| no_memory(len))
    }

    #[cold]
    fn try_oversized<H: Home>(&self, len: usize) -> Result<BufferGuard<H>, PoolError> {
        self.oversized.fetch_add(1, Ordering::Relaxed);
        Ok(BufferGuard::new(H::default(), allocate(len)?))
    }

    fn used(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter().filter_map(OnceLock::get)
    }

    /// Begins a new generation in each class.
    pub fn tick(&self) {
        self.used().for_each(|class| class.tick());
    }

    /// Begins one in each class where half of `max_age` passed since its last.
    pub fn age(&self) {
        self.used().for_each(|class| class.age());
    }

    /// Drops all that is idle but for `min_idle` of each class; says how many bytes it were.
    pub fn trim(&self) -> usize {
        self.used().map(|class| class.trim()).sum()
    }

    /// What it did and holds.
    pub fn counters(&self) -> BufferCounters {
        let class = |class: &Class| ClassCounters {
            bytes: class.recipe().bytes,
            pool: class.counters(),
            asked_bytes: class.asked(),
        };
        let classes: Vec<_> = self.used().map(class).collect();
        BufferCounters {
            // Nothing but another capacity is a reason to reject a buffer.
            regrown: classes.iter().map(|class| class.pool.drops.rejected).sum(),
            oversized: self.oversized.load(Ordering::Relaxed),
            classes,
        }
    }
}

impl fmt::Debug for BufferPool {
    /// Limits and counters; no buffer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("BufferPool");
        out.field("limits", &self.limits).field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl Release for BufferPool {
    fn idle_bytes(&self) -> usize {
        self.used().map(Release::idle_bytes).sum()
    }

    /// Largest buffers first: fewest calls for the same bytes.
    fn release(&self, bytes: usize) -> usize {
        let used: Vec<_> = self.used().collect();
        let release = |freed: usize, class: &&Class| freed + class.release(bytes.saturating_sub(freed));
        used.iter().rev().fold(0, release)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
