//! Bytes asked for into buffers with room for them, from malloc or a pool of such, refused as an error.

use anyhow::Context;

use super::mapping::touch_pages;
use crate::pool::{Limits, Pool, PoolBuilder, PoolError};

/// A buffer with room for so many bytes, by one call of malloc.
///
/// # Errors
/// Where there is no memory for it.
pub fn by_malloc(bytes: u64) -> anyhow::Result<Vec<u8>> {
    let refused = || format!("malloc refused {bytes} bytes");
    room(usize::try_from(bytes).with_context(refused)?).with_context(refused)
}

/// A pool of such buffers.
///
/// # Errors
/// Where the size is beyond this machine.
pub fn pool(bytes: u64) -> anyhow::Result<PoolBuilder<Vec<u8>>> {
    let bytes = usize::try_from(bytes)?;
    let make = move || room(bytes).unwrap_or_default();
    Ok(Pool::builder(make).try_make(move || room(bytes)).size_of(Vec::capacity).limits(Limits::default()))
}

fn room(bytes: usize) -> Result<Vec<u8>, PoolError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| PoolError::Memory(bytes))?;
    Ok(buffer)
}

/// Writes one byte into each page of what a buffer has room for; returns how many.
pub fn touch(buffer: &mut Vec<u8>) -> u64 {
    let bytes = buffer.capacity() as u64;
    // SAFETY: a vector's room is writable to its capacity, nobody else has it, and bytes have no invariants.
    unsafe { touch_pages(buffer.as_mut_ptr(), bytes) }
}
