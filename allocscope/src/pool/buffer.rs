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
use class::{Block, Class, OfSize, allocate, no_memory};
use guard::{Borrowed, Home, Shared};
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Classes to a power of two, as a power of two.
const STEPS_LOG2: u32 = 2;
/// Smallest class that there can be: below it, four steps are no whole bytes.
const LEAST_LOG2: u32 = 4;
/// Largest class that there can be.
const MOST_LOG2: u32 = 40;

/// Gets that say something of those to come; in Miri, which takes a second for a hundred, a few do.
const ENOUGH: u64 = if cfg!(miri) { 16 } else { 1000 };

/// A pool of `Vec<u8>`. On cache lines of its own, as an object pool is: the count of an `Arc` around it is not on them.
#[repr(align(128))]
pub struct BufferPool {
    /// In an `Arc`, as what points into it stays good where the pool is moved.
    classes: Arc<[OnceLock<Class>]>,
    /// The class that most gets are of, looked at first; null where there is none such.
    usual: AtomicPtr<Class>,
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
            usual: AtomicPtr::new(ptr::null_mut()),
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
        BufferGuard::new(self.shared_home(class), buffer)
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
        Ok(BufferGuard::new(self.shared_home(class), buffer))
    }

    #[inline(always)]
    fn shared_home(self: &Arc<Self>, class: &Class) -> Shared {
        Shared(Some((Arc::clone(self), class.recipe().number)))
    }

    /// The class that has buffers of so many bytes.
    ///
    /// That it is the usual one is a guess that the processor makes too: it goes on with that class's address before the
    /// length is looked at. Else all that a get does waits for the address to be computed from the length (2 of 6 ns).
    #[inline(always)]
    fn class(&self, len: usize) -> Option<&Class> {
        match self.usual() {
            Some(usual) if usual.recipe().serves(len) => Some(usual),
            _ => self.class_by_number(len),
        }
    }

    #[inline(always)]
    fn usual(&self) -> Option<&Class> {
        // SAFETY: it is null or one of `classes`, which stay where they are for as long as this pool is there.
        unsafe { self.usual.load(Ordering::Acquire).as_ref() }
    }

    #[inline(always)]
    fn class_by_number(&self, len: usize) -> Option<&Class> {
        let number = class_of(len.max(1)).saturating_sub(self.first);
        let class = self.classes.get(number)?;
        Some(class.get().unwrap_or_else(|| self.new_class(number)))
    }

    #[cold]
    #[inline(never)]
    fn new_class(&self, number: usize) -> &Class {
        let class = self.classes[number].get_or_init(|| {
            let bytes_of = |number: usize| bytes_of(number + self.first);
            let least = number.checked_sub(1).map_or(0, |below| bytes_of(below) + 1);
            Pool::with_recipe(OfSize::new(number, least, bytes_of(number), bytes_of(number + 1)), self.limits)
        });
        self.choose_usual();
        class
    }

    /// Looks anew which class is the usual one, if any. Seldom, and written only where it is another, as every get reads
    /// the line that it is on.
    fn choose_usual(&self) {
        let usual = self.most_asked().map_or(ptr::null(), ptr::from_ref);
        if usual != self.usual.load(Ordering::Relaxed) {
            self.usual.store(usual.cast_mut(), Ordering::Release);
        }
    }

    /// The only class, or the one that by far the most gets are of. A wrong guess costs twice what a right one saves.
    fn most_asked(&self) -> Option<&Class> {
        let gets: Vec<_> = self.used().map(|class| (class.counters().gets, class)).collect();
        let all: u64 = gets.iter().map(|(gets, _)| gets).sum();
        let (most, class) = *gets.iter().max_by_key(|(gets, _)| gets)?;
        let is_usual = gets.len() == 1 || (all >= ENOUGH && most >= all - all / 4);
        is_usual.then_some(class)
    }

    #[inline(always)]
    fn oversized<H: Home>(&self, len: usize) -> BufferGuard<H> {
        BufferGuard::new(H::default(), self.allocate_oversized(len).into_buffer())
    }

    #[inline(always)]
    fn try_oversized<H: Home>(&self, len: usize) -> Result<BufferGuard<H>, PoolError> {
        Ok(BufferGuard::new(H::default(), self.try_allocate_oversized(len)?.into_buffer()))
    }

    /// A block and no guard, as that is returned in registers: so the guard of who calls stays in registers too.
    #[cold]
    #[inline(never)]
    fn allocate_oversized(&self, len: usize) -> Block {
        self.try_allocate_oversized(len).unwrap_or_else(|_| no_memory(len))
    }

    #[cold]
    #[inline(never)]
    fn try_allocate_oversized(&self, len: usize) -> Result<Block, PoolError> {
        self.oversized.fetch_add(1, Ordering::Relaxed);
        allocate(len).map(Block::new)
    }

    fn used(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter().filter_map(OnceLock::get)
    }

    /// Begins a new generation in each class.
    pub fn tick(&self) {
        self.used().for_each(|class| class.tick());
        self.choose_usual();
    }

    /// Begins one in each class where half of `max_age` passed since its last.
    pub fn age(&self) {
        self.used().for_each(|class| class.age());
    }

    /// Drops all that is idle but for `min_idle` of each class; says how many bytes it were.
    pub fn trim(&self) -> usize {
        self.used().map(|class| class.trim()).sum()
    }

    /// What it did and holds. Where most of that was with one class, that is from now on the quickest, as after each
    /// [`tick`](Self::tick).
    pub fn counters(&self) -> BufferCounters {
        self.choose_usual();
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
