//! Buffers of bytes into buffers that are used again, by classes of size.
//!
//! A class is a pool of its own, made when it is first asked for. There are four classes to a power of two, so that
//! less than a fifth of a buffer is more than was asked for.

use super::counters::{BufferCounters, ClassCounters};
use super::object::{Limits, Pool, PoolError, Recipe};
use super::pressure::Release;
use std::alloc::Layout;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Classes to a power of two, as a power of two.
const STEPS_LOG2: u32 = 2;
/// Smallest class that there can be: below it, four steps are no whole bytes.
const LEAST_LOG2: u32 = 4;
/// Largest class that there can be.
const MOST_LOG2: u32 = 40;

/// A pool of `Vec<u8>`.
pub struct BufferPool {
    classes: Box<[OnceLock<Class>]>,
    /// Number of the smallest class.
    first: usize,
    limits: Limits,
    oversized: AtomicU64,
}

/// Buffers of one size.
type Class = Pool<Block, OfSize>;

/// Memory of a buffer that is idle: a `Vec` without its length, which two registers hold.
struct Block {
    bytes: NonNull<u8>,
    capacity: usize,
}

// SAFETY: it owns its memory, as a `Vec` does.
unsafe impl Send for Block {}

impl Block {
    #[inline(always)]
    fn new(buffer: Vec<u8>) -> Self {
        let mut buffer = ManuallyDrop::new(buffer);
        // SAFETY: the pointer of a `Vec` is never null.
        Self { bytes: unsafe { NonNull::new_unchecked(buffer.as_mut_ptr()) }, capacity: buffer.capacity() }
    }

    /// An empty buffer.
    #[inline(always)]
    fn into_buffer(self) -> Vec<u8> {
        let block = ManuallyDrop::new(self);
        // SAFETY: pointer and capacity are those of a `Vec` that was forgotten.
        unsafe { Vec::from_raw_parts(block.bytes.as_ptr(), 0, block.capacity) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: as above; the block is not used again.
        drop(unsafe { Vec::from_raw_parts(self.bytes.as_ptr(), 0, self.capacity) });
    }
}

/// How buffers of one size are made.
struct OfSize {
    bytes: usize,
    /// Bytes that buffers of this class do not have any more.
    next: usize,
}

impl Recipe<Block> for OfSize {
    fn make(&self) -> Block {
        self.try_make().unwrap_or_else(|_| no_memory(self.bytes))
    }

    fn try_make(&self) -> Result<Block, PoolError> {
        allocate(self.bytes).map(Block::new)
    }

    #[inline(always)]
    fn reset(&self, block: &mut Block) -> bool {
        // One comparison: what is less than `bytes` wraps.
        block.capacity.wrapping_sub(self.bytes) < self.next - self.bytes
    }

    #[inline(always)]
    fn usual_bytes(&self) -> usize {
        self.bytes
    }
}

fn allocate(bytes: usize) -> Result<Vec<u8>, PoolError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| PoolError::Memory(bytes))?;
    Ok(buffer)
}

/// What a plain `Vec` does where there is no memory.
fn no_memory(bytes: usize) -> ! {
    match Layout::array::<u8>(bytes) {
        Ok(layout) => std::alloc::handle_alloc_error(layout),
        Err(_) => panic!("no buffer has {bytes} bytes"),
    }
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

/// A buffer with room for what was asked and length 0; goes back when dropped.
///
/// It is used again only with the capacity that it had: one that its user has made larger is dropped.
#[must_use = "a buffer that is not used goes straight back"]
pub struct PooledBuffer<'p> {
    /// `None` for a plain buffer.
    class: Option<&'p Class>,
    buffer: ManuallyDrop<Vec<u8>>,
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
        PooledBuffer::new(Some(class), class.get_bare(len).into_buffer())
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] where there is no memory; [`PoolError::Exhausted`] at a limit.
    #[inline]
    pub fn try_get(&self, len: usize) -> Result<PooledBuffer<'_>, PoolError> {
        let Some(class) = self.class(len) else { return self.try_oversized(len) };
        Ok(PooledBuffer::new(Some(class), class.try_get_bare(len)?.into_buffer()))
    }

    /// The class that has buffers of so many bytes.
    #[inline(always)]
    fn class(&self, len: usize) -> Option<&Class> {
        let number = class_of(len.max(1)).saturating_sub(self.first);
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
    fn oversized(&self, len: usize) -> PooledBuffer<'_> {
        self.try_oversized(len).unwrap_or_else(|_| no_memory(len))
    }

    #[cold]
    fn try_oversized(&self, len: usize) -> Result<PooledBuffer<'_>, PoolError> {
        self.oversized.fetch_add(1, Ordering::Relaxed);
        Ok(PooledBuffer::new(None, allocate(len)?))
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

impl<'p> PooledBuffer<'p> {
    #[inline(always)]
    fn new(class: Option<&'p Class>, buffer: Vec<u8>) -> Self {
        Self { class, buffer: ManuallyDrop::new(buffer) }
    }

    /// Takes the buffer out for good.
    pub fn take(self) -> Vec<u8> {
        let mut guard = ManuallyDrop::new(self);
        guard.class.iter().for_each(|class| class.took());
        // SAFETY: the guard is never dropped nor used again.
        unsafe { ManuallyDrop::take(&mut guard.buffer) }
    }
}

#[cold]
#[inline(never)]
fn drop_plain(buffer: Vec<u8>) {
    drop(buffer);
}

impl Drop for PooledBuffer<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the guard is being dropped, and its buffer is not used again.
        let buffer = unsafe { ManuallyDrop::take(&mut self.buffer) };
        let Some(class) = self.class else { return drop_plain(buffer) };
        let mut block = ManuallyDrop::new(Block::new(buffer));
        // SAFETY: the block is not used again, nor dropped.
        unsafe { class.give_back(&mut block) };
    }
}

impl Deref for PooledBuffer<'_> {
    type Target = Vec<u8>;

    #[inline(always)]
    fn deref(&self) -> &Vec<u8> {
        &self.buffer
    }
}

impl DerefMut for PooledBuffer<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }
}

impl fmt::Debug for PooledBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.len(), self.capacity())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
