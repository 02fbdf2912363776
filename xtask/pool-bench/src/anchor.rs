//! Others' pools made alike: what each needs to be told to keep boxes of bytes.

use opool::PoolAllocator;
use sharded_slab::Clear;
use std::cell::{Cell, RefCell};
use std::ptr;

/// Objects that any pool may keep, for each thread where it has such.
pub const KEPT: usize = 64;

/// An object of so many bytes.
pub type Object<const N: usize> = Box<[u8; N]>;

/// A new one, all of it zero.
pub fn fresh<const N: usize>() -> Object<N> {
    // Never on the stack, which would be a copy of all of it.
    vec![0; N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("a slice of the same length"))
}

/// Writes its first byte, which no compiler leaves out.
#[inline(always)]
pub fn write_first(bytes: &mut [u8]) {
    // SAFETY: a valid place, which is what a reference is.
    unsafe { ptr::write_volatile(&raw mut bytes[0], 1) };
}

/// Has the compiler believe that somebody reads what is there, which costs no instruction; `black_box` of an address
/// stores the address itself as well.
#[inline(always)]
pub fn escape<T>(address: *mut T) {
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("/* {} */", in(reg) address, options(nostack, preserves_flags)) };
}

/// opool's way to make objects.
pub struct Maker;

impl<const N: usize> PoolAllocator<Object<N>> for Maker {
    fn allocate(&self) -> Object<N> {
        fresh()
    }
}

impl PoolAllocator<Vec<u8>> for Maker {
    fn allocate(&self) -> Vec<u8> {
        Vec::with_capacity(super::buffer::BYTES)
    }

    fn reset(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
    }
}

/// sharded-slab's way.
pub struct Slab<const N: usize>(pub Object<N>);

impl<const N: usize> Default for Slab<N> {
    fn default() -> Self {
        Self(fresh())
    }
}

impl<const N: usize> Clear for Slab<N> {
    fn clear(&mut self) {}
}

/// A stack of addresses in each thread, nothing checked but that it is not empty: less work cannot be done.
pub struct Floor {
    len: Cell<usize>,
    items: [Cell<*mut u8>; KEPT],
}

impl Floor {
    const fn new() -> Self {
        Self { len: Cell::new(0), items: [const { Cell::new(ptr::null_mut()) }; KEPT] }
    }

    /// The newest, or a block of so many bytes that is never freed.
    #[inline(always)]
    pub fn pop(&self, bytes: usize) -> *mut u8 {
        match self.len.get() {
            0 => Box::leak(vec![0; bytes].into_boxed_slice()).as_mut_ptr(),
            len => {
                self.len.set(len - 1);
                self.items[(len - 1) % KEPT].get()
            }
        }
    }

    /// Puts one on it; where there is no room, it is lost.
    #[inline(always)]
    pub fn push(&self, item: *mut u8) {
        let len = self.len.get();
        if len < KEPT {
            self.items[len].set(item);
            self.len.set(len + 1);
        }
    }
}

thread_local! {
    /// This thread's.
    pub static FLOOR: Floor = const { Floor::new() };
    /// What one writes without a pool.
    pub static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}
