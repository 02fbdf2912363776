//! Atomics and cells into those of the standard library, or into those that loom explores (`--cfg loom`).

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// What a protocol beside it gives to one thread at a time; loom finds out where that does not hold.
#[cfg(not(loom))]
#[repr(transparent)]
pub(crate) struct Guarded<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> Guarded<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Works on the value by its address.
    #[inline(always)]
    pub(crate) fn with_mut<O>(&self, work: impl FnOnce(*mut T) -> O) -> O {
        work(self.0.get())
    }
}

#[cfg(loom)]
pub(crate) struct Guarded<T>(loom::cell::UnsafeCell<T>);

#[cfg(loom)]
impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with_mut<O>(&self, work: impl FnOnce(*mut T) -> O) -> O {
        self.0.with_mut(work)
    }
}

/// A full fence between an exchange of this thread, just before, and what it loads after. On x86-64 the exchange is one.
#[inline(always)]
pub(crate) fn fence_after_swap() {
    #[cfg(all(target_arch = "x86_64", not(any(miri, loom))))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(any(miri, loom)))))]
    fence(Ordering::SeqCst);
}

/// Waits a little for another thread: the more `patience`, the longer.
pub(crate) fn give_way(patience: u32) {
    #[cfg(loom)]
    let _ = patience;
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    match patience {
        0 => std::hint::spin_loop(),
        1 => std::thread::yield_now(),
        _ => std::thread::sleep(std::time::Duration::from_micros(100)),
    }
}
