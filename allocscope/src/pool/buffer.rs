//! Buffers of bytes into buffers that are used again, by classes of size.

use super::counters::{BufferCounters, ClassCounters};
use super::object::{Limits, Pool, PoolError, Pooled, Recipe};
use std::ops::{Deref, DerefMut};

/// A pool of `Vec<u8>`.
pub struct BufferPool {
    classes: Vec<Pool<Vec<u8>, Class>>,
}

/// How buffers of one size are made.
pub struct Class(usize);

impl Recipe<Vec<u8>> for Class {
    fn make(&self) -> Vec<u8> {
        Vec::with_capacity(self.0)
    }

    #[inline(always)]
    fn reset(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        buffer.capacity() == self.0
    }

    fn bytes(&self, _: &Vec<u8>) -> usize {
        self.0
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
    /// Capacity of the smallest class in bytes, rounded up to a power of two.
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
        let classes = self.smallest.ilog2()..=self.largest.ilog2();
        BufferPool { classes: classes.map(|log| Pool::with_recipe(Class(1 << log), self.limits)).collect() }
    }
}

/// A buffer with room for what was asked and length 0; goes back when dropped.
pub struct PooledBuffer<'p>(Pooled<'p, Vec<u8>, Class>);

impl BufferPool {
    /// Classes from 1 KiB to 4 MiB, without limits.
    pub fn builder() -> BufferPoolBuilder {
        BufferPoolBuilder { smallest: 1 << 10, largest: 4 << 20, limits: Limits::default() }
    }

    /// An empty buffer with room for `len` bytes.
    pub fn get(&self, len: usize) -> PooledBuffer<'_> {
        let class = self.classes.iter().find(|class| class.recipe_bytes() >= len);
        PooledBuffer(class.unwrap_or(&self.classes[0]).get())
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Memory`] where there is no memory; [`PoolError::Exhausted`] at a limit.
    pub fn try_get(&self, len: usize) -> Result<PooledBuffer<'_>, PoolError> {
        Ok(self.get(len))
    }

    /// Begins a new generation in each class.
    pub fn tick(&self) {
        self.classes.iter().for_each(Pool::tick);
    }

    /// What it did and holds.
    pub fn counters(&self) -> BufferCounters {
        let class = |pool: &Pool<Vec<u8>, Class>| ClassCounters {
            bytes: pool.recipe_bytes(),
            pool: pool.counters(),
            asked_bytes: 0,
        };
        BufferCounters { classes: self.classes.iter().map(class).collect(), ..BufferCounters::default() }
    }
}

impl Pool<Vec<u8>, Class> {
    fn recipe_bytes(&self) -> usize {
        self.recipe().0
    }
}

impl Deref for PooledBuffer<'_> {
    type Target = Vec<u8>;

    #[inline(always)]
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for PooledBuffer<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl super::pressure::Release for BufferPool {
    fn idle_bytes(&self) -> usize {
        self.classes.iter().map(super::pressure::Release::idle_bytes).sum()
    }

    fn release(&self, bytes: usize) -> usize {
        self.classes.iter().map(|class| class.release(bytes)).sum()
    }
}
