//! An item that is out, back into its pool when it is dropped.

use super::Pool;
use super::recipe::{Hooks, Recipe};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::Arc;

/// An item of a [`Pool`], and its way back there: a reference ([`Pooled`]) or a share of the pool ([`OwnedPooled`]).
///
/// The item goes back when the guard is dropped. Dropped by a panic, the item is dropped too.
#[must_use = "an item that is not used goes straight back"]
pub struct Guard<H, T, R = Hooks<T>>
where
    H: Deref<Target = Pool<T, R>>,
    R: Recipe<T>,
{
    pool: H,
    item: ManuallyDrop<T>,
}

/// An item of a [`Pool`] that is borrowed; goes back when dropped. Dropped by a panic, the item is dropped too.
///
/// Of a pool in a `static` it is `'static` at no cost; of any other, [`OwnedPooled`] is.
pub type Pooled<'p, T, R = Hooks<T>> = Guard<&'p Pool<T, R>, T, R>;

/// An item of a [`Pool`] that is kept alive by it, as an [`Arc`] is; goes back when dropped, in whichever thread that
/// is. Dropped by a panic, the item is dropped too.
///
/// It is `'static` where the item is, and goes into tasks, channels and structs: see [`Pool::get_owned`]. An item that
/// has a guard of its own pool within it keeps the pool alive for ever once it is idle.
pub type OwnedPooled<T, R = Hooks<T>> = Guard<Arc<Pool<T, R>>, T, R>;

impl<H, T, R> Guard<H, T, R>
where
    H: Deref<Target = Pool<T, R>>,
    R: Recipe<T>,
{
    #[inline(always)]
    pub(super) fn new(pool: H, item: T) -> Self {
        Self { pool, item: ManuallyDrop::new(item) }
    }

    /// Takes the item out for good.
    pub fn take(self) -> T {
        let mut guard = ManuallyDrop::new(self);
        guard.pool.took();
        // SAFETY: both are read once, and the guard is never dropped nor used again.
        let (item, _pool) =
            unsafe { (ManuallyDrop::take(&mut guard.item), ptr::read(&raw const guard.pool)) };
        item
    }
}

impl<H, T, R> Drop for Guard<H, T, R>
where
    H: Deref<Target = Pool<T, R>>,
    R: Recipe<T>,
{
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the guard is being dropped, and its item is not used again.
        unsafe { self.pool.give_back(&mut self.item) };
    }
}

impl<H, T, R> Deref for Guard<H, T, R>
where
    H: Deref<Target = Pool<T, R>>,
    R: Recipe<T>,
{
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.item
    }
}

impl<H, T, R> DerefMut for Guard<H, T, R>
where
    H: Deref<Target = Pool<T, R>>,
    R: Recipe<T>,
{
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<H, T, R> fmt::Debug for Guard<H, T, R>
where
    H: Deref<Target = Pool<T, R>>,
    T: fmt::Debug,
    R: Recipe<T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
