//! Memory into buffers of one size, and back into what a pool keeps of them.

use crate::pool::object::{Pool, PoolError, Recipe};
use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Buffers of one size.
pub type Class = Pool<Block, OfSize>;

/// Memory of a buffer that is idle: a `Vec` without its length, which two registers hold.
pub struct Block {
    bytes: NonNull<u8>,
    capacity: usize,
}

// SAFETY: it owns its memory, as a `Vec` does.
unsafe impl Send for Block {}

impl Block {
    #[inline(always)]
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        let mut buffer = ManuallyDrop::new(buffer);
        // SAFETY: the pointer of a `Vec` is never null.
        Self { bytes: unsafe { NonNull::new_unchecked(buffer.as_mut_ptr()) }, capacity: buffer.capacity() }
    }

    /// An empty buffer.
    #[inline(always)]
    pub(super) fn into_buffer(self) -> Vec<u8> {
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
pub struct OfSize {
    /// Of the class in its pool.
    pub(super) number: usize,
    pub(super) bytes: usize,
    /// Fewest bytes that it is asked for.
    least: usize,
    /// Lengths that it is asked for.
    lengths: usize,
    /// Capacities that its buffers may have.
    capacities: usize,
}

impl OfSize {
    /// Of a class that is asked for `least` to `bytes` bytes, where the one above begins at `next`.
    pub(super) fn new(number: usize, least: usize, bytes: usize, next: usize) -> Self {
        Self { number, bytes, least, lengths: bytes - least + 1, capacities: next - bytes }
    }

    /// Whether so many bytes are asked of this class.
    #[inline(always)]
    pub(super) fn serves(&self, len: usize) -> bool {
        // One comparison: what is less than `least` wraps.
        len.wrapping_sub(self.least) < self.lengths
    }
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
        block.capacity.wrapping_sub(self.bytes) < self.capacities
    }

    #[inline(always)]
    fn usual_bytes(&self) -> usize {
        self.bytes
    }
}

pub(super) fn allocate(bytes: usize) -> Result<Vec<u8>, PoolError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| PoolError::Memory(bytes))?;
    Ok(buffer)
}

/// What a plain `Vec` does where there is no memory.
pub(super) fn no_memory(bytes: usize) -> ! {
    match Layout::array::<u8>(bytes) {
        Ok(layout) => std::alloc::handle_alloc_error(layout),
        Err(_) => panic!("no buffer has {bytes} bytes"),
    }
}
