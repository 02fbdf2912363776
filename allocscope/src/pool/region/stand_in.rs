//! A region's wishes into plain allocations, for Miri, which has neither `mmap` nor `madvise`.
//!
//! Access is never taken away here: guards and poison are tested natively.

use super::extent::Extent;
use super::system::{Advised, Errno, System};
use std::alloc::{self, Layout};
use std::ptr::NonNull;

/// The global allocator in the kernel's place.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

fn layout(extent: Extent) -> Result<Layout, Errno> {
    Layout::from_size_align(extent.mapped(), extent.granule()).map_err(|_| libc::ENOMEM)
}

// SAFETY: an allocation is the caller's alone and as aligned as its layout.
unsafe impl System for Kernel {
    fn page_bytes(&self) -> usize {
        4096
    }

    fn map(&self, extent: Extent, explicit: bool) -> Result<NonNull<u8>, Errno> {
        if explicit {
            return Err(libc::ENOMEM);
        }
        // SAFETY: an extent is never empty.
        NonNull::new(unsafe { alloc::alloc_zeroed(layout(extent)?) }).ok_or(libc::ENOMEM)
    }

    unsafe fn unmap(&self, mapping: NonNull<u8>, extent: Extent) -> Result<(), Errno> {
        // SAFETY: allocated by `map` with this layout.
        unsafe { alloc::dealloc(mapping.as_ptr(), layout(extent)?) };
        Ok(())
    }

    unsafe fn protect(&self, _: NonNull<u8>, _: usize, _: bool) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn advise(&self, start: NonNull<u8>, bytes: usize, advised: Advised) -> Result<(), Errno> {
        if advised == Advised::DontNeed {
            // SAFETY: within the mapping, and nobody counts on the contents.
            unsafe { start.write_bytes(0, bytes) };
        }
        Ok(())
    }

    unsafe fn bind(&self, _: NonNull<u8>, _: usize, _: u32) -> Result<(), Errno> {
        Err(libc::ENOSYS)
    }

    fn nodes(&self) -> Vec<u32> {
        vec![0]
    }

    fn grants_transparent(&self) -> bool {
        false
    }
}
