//! Work that comes seldom into work that one thread does at a time, over a fork too.

use crate::pool::sync::give_way;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// A lock that may be released by another thread than took it: around a fork it is taken by the parent and released
/// by the child. It is held briefly and seldom; no user code runs under it.
pub(super) struct Lock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is used by who has the lock.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub(super) fn lock(&self) -> Locked<'_, T> {
        self.take();
        Locked(self)
    }

    /// Takes it without a guard.
    pub(super) fn take(&self) {
        let mut tries = 0u32;
        while self.taken.swap(true, Ordering::Acquire) {
            give_way(tries / 50);
            tries = tries.saturating_add(1);
        }
    }

    /// Releases it without a guard.
    ///
    /// # Safety
    ///
    /// It was [taken](Self::take) for this.
    pub(super) unsafe fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }

    /// The value, while it is [taken](Self::take).
    pub(super) fn value(&self) -> *mut T {
        self.value.get()
    }
}

/// The lock, held.
pub(super) struct Locked<'l, T>(&'l Lock<T>);

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the guard stands for the lock that was taken.
        unsafe { self.0.release() };
    }
}
