//! An item that is out, back into its pool when it is dropped.

use super::Pool;
use super::recipe::{Hooks, Recipe};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// An item of a [`Pool`]; goes back when dropped. Dropped by a panic, the item is dropped too.
#[must_use = "an item that is not used goes straight back"]
pub struct Pooled<'p, T, R: Recipe<T> = Hooks<T>> {
    pool: &'p Pool<T, R>,
    item: ManuallyDrop<T>,
}

impl<'p, T, R: Recipe<T>> Pooled<'p, T, R> {
    #[inline(always)]
    pub(super) fn new(pool: &'p Pool<T, R>, item: T) -> Self {
        Self { pool, item: ManuallyDrop::new(item) }
    }

    /// Takes the item out for good.
    pub fn take(self) -> T {
        let mut guard = ManuallyDrop::new(self);
        guard.pool.took();
        // SAFETY: the guard is never dropped nor used again.
        unsafe { ManuallyDrop::take(&mut guard.item) }
    }
}

impl<T, R: Recipe<T>> Drop for Pooled<'_, T, R> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the guard is being dropped, and its item is not used again.
        unsafe { self.pool.give_back(&mut self.item) };
    }
}

impl<T, R: Recipe<T>> Deref for Pooled<'_, T, R> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T, R: Recipe<T>> DerefMut for Pooled<'_, T, R> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: fmt::Debug, R: Recipe<T>> fmt::Debug for Pooled<'_, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
