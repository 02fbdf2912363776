//! A buffer that is out, back into its class when it is dropped.

use super::BufferPool;
use super::class::{Block, Class};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::{Arc, OnceLock};

/// Where a buffer goes back to; by default nowhere, as a plain one does.
pub trait Home: Default {
    /// The class that takes it back.
    fn class(&self) -> Option<&Class>;
}

/// A class of a pool that is borrowed.
#[derive(Clone, Copy, Default)]
pub struct Borrowed<'p>(pub(super) Option<&'p Class>);

/// A pool that is kept alive, and the number of a class of it that is there.
#[derive(Default)]
pub struct Shared(pub(super) Option<(Arc<BufferPool>, usize)>);

impl Home for Borrowed<'_> {
    #[inline(always)]
    fn class(&self) -> Option<&Class> {
        self.0
    }
}

impl Home for Shared {
    #[inline(always)]
    fn class(&self) -> Option<&Class> {
        let (pool, number) = self.0.as_ref()?;
        pool.classes.get(*number).and_then(OnceLock::get)
    }
}

/// A buffer of a [`BufferPool`], and its way back there: a reference ([`PooledBuffer`]) or a share of the pool
/// ([`OwnedPooledBuffer`]).
///
/// It is used again only with the capacity that it had: one that its user has made larger is dropped, and one that a
/// panic drops.
#[must_use = "a buffer that is not used goes straight back"]
pub struct BufferGuard<H: Home> {
    home: H,
    buffer: ManuallyDrop<Vec<u8>>,
}

/// A buffer with room for what was asked and length 0, of a pool that is borrowed; goes back when dropped.
///
/// It is used again only with the capacity that it had: one that its user has made larger is dropped.
pub type PooledBuffer<'p> = BufferGuard<Borrowed<'p>>;

/// A buffer with room for what was asked and length 0, of a pool that is kept alive by it, as an [`Arc`] is; goes back
/// when dropped, in whichever thread that is.
///
/// It is `'static`, and goes into tasks, channels and structs: see [`BufferPool::get_owned`]. It is used again only with
/// the capacity that it had: one that its user has made larger is dropped.
pub type OwnedPooledBuffer = BufferGuard<Shared>;

impl<H: Home> BufferGuard<H> {
    #[inline(always)]
    pub(super) fn new(home: H, buffer: Vec<u8>) -> Self {
        Self { home, buffer: ManuallyDrop::new(buffer) }
    }

    /// Takes the buffer out for good.
    pub fn take(self) -> Vec<u8> {
        let mut guard = ManuallyDrop::new(self);
        guard.home.class().iter().for_each(|class| class.took());
        // SAFETY: both are read once, and the guard is never dropped nor used again.
        let (buffer, _home) =
            unsafe { (ManuallyDrop::take(&mut guard.buffer), ptr::read(&raw const guard.home)) };
        buffer
    }
}

/// By value: a guard whose address is never taken stays in registers.
#[cold]
#[inline(never)]
fn drop_plain(block: Block) {
    drop(block);
}

impl<H: Home> Drop for BufferGuard<H> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the guard is being dropped, and its buffer is not used again.
        let block = Block::new(unsafe { ManuallyDrop::take(&mut self.buffer) });
        let Some(class) = self.home.class() else { return drop_plain(block) };
        let mut block = ManuallyDrop::new(block);
        // SAFETY: the block is not used again, nor dropped.
        unsafe { class.give_back(&mut block) };
    }
}

impl<H: Home> Deref for BufferGuard<H> {
    type Target = Vec<u8>;

    #[inline(always)]
    fn deref(&self) -> &Vec<u8> {
        &self.buffer
    }
}

impl<H: Home> DerefMut for BufferGuard<H> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }
}

/// For what takes bytes of any owner, such as `std::io::Cursor` and `bytes::Bytes::from_owner`.
impl<H: Home> AsRef<[u8]> for BufferGuard<H> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<H: Home> fmt::Debug for BufferGuard<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.len(), self.capacity())
    }
}
