//! Private anonymous memory straight from the kernel, and the writes that make its pages real.

use std::io;
use std::num::NonZeroUsize;
use std::os::raw::c_int;
use std::ptr::{self, NonNull};

use anyhow::Context;

use super::PAGE_BYTES;

/// A mapping of one's own, unmapped when dropped. Whoever holds it may write to all of it.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    /// Bytes; not rounded up to pages.
    bytes: NonZeroUsize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this is its only owner.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps so many bytes, readable and writable, no page of which exists yet.
    ///
    /// # Errors
    /// Where the kernel refuses; 0 bytes it always does.
    pub fn new(bytes: u64) -> anyhow::Result<Self> {
        Self::with_flags(bytes, 0)
    }

    /// The same with further flags of mmap that do not say where.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_flags(bytes: u64, more_flags: c_int) -> anyhow::Result<Self> {
        let refused = || format!("cannot map {bytes} bytes");
        let size = usize::try_from(bytes).ok().and_then(NonZeroUsize::new).with_context(refused)?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more_flags);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), size.get(), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(refused);
        }
        let start = NonNull::new(start.cast()).with_context(refused)?;
        Ok(Self { start, bytes: size })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.get() as u64
    }

    /// Writes one byte into each page; returns how many.
    pub fn touch(&mut self) -> u64 {
        self.touch_from(0)
    }

    /// The same from an offset on, which is a multiple of the page size; nothing if it lies beyond the end.
    pub fn touch_from(&mut self, offset_bytes: u64) -> u64 {
        let from = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(self.bytes.get());
        // SAFETY: `from` is at most the mapping's size, so the rest is mapped, writable and only ours.
        unsafe { touch_pages(self.start.as_ptr().add(from), (self.bytes.get() - from) as u64) }
    }

    /// Reads one byte of each page; returns how many.
    pub fn read(&self) -> u64 {
        for page in 0..super::pages(self.bytes()) {
            // SAFETY: the page begins within the mapping, which is readable and, by `&self`, not written to.
            unsafe { self.start.add((page * PAGE_BYTES) as usize).read_volatile() };
        }
        super::pages(self.bytes())
    }

    /// Lets the kernel make every page real; returns how many there are.
    ///
    /// # Errors
    /// Where the kernel refuses, such as one before 5.14.
    pub fn populate(&mut self) -> anyhow::Result<u64> {
        self.advise(libc::MADV_POPULATE_WRITE).context("MADV_POPULATE_WRITE")?;
        Ok(super::pages(self.bytes()))
    }

    /// Advises the kernel about the whole mapping. `MADV_DONTNEED` throws its contents away.
    ///
    /// # Errors
    /// Where the kernel refuses, such as huge pages that it was built without.
    pub fn advise(&mut self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping, `&mut` rules out other users, and no value in it has invariants.
        let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes.get(), advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Grows it, moving it where there is no room; returns whether it was moved.
    ///
    /// # Errors
    /// Where the kernel refuses; the mapping is then as before.
    pub fn grow(&mut self, bytes: u64) -> anyhow::Result<bool> {
        let refused = || format!("cannot grow a mapping to {bytes} bytes");
        let size = usize::try_from(bytes).ok().and_then(NonZeroUsize::new).with_context(refused)?;
        // SAFETY: the old range is this mapping; its only address is replaced below if it moves.
        let start = unsafe {
            libc::mremap(self.start.as_ptr().cast(), self.bytes.get(), size.get(), libc::MREMAP_MAYMOVE)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(refused);
        }
        let start = NonNull::new(start.cast()).with_context(refused)?;
        let moved = start != self.start;
        (self.start, self.bytes) = (start, size);
        Ok(moved)
    }

    /// Cuts it in two at an offset, which is a multiple of the page size and within it. No system call.
    ///
    /// # Errors
    /// Where one part would be empty or the cut is not between pages.
    pub fn split(self, offset_bytes: u64) -> anyhow::Result<(Self, Self)> {
        let refused = || format!("cannot cut a mapping at {offset_bytes} bytes");
        anyhow::ensure!(offset_bytes.is_multiple_of(PAGE_BYTES), refused());
        let head = usize::try_from(offset_bytes).ok().and_then(NonZeroUsize::new).with_context(refused)?;
        let tail =
            self.bytes.get().checked_sub(head.get()).and_then(NonZeroUsize::new).with_context(refused)?;
        // SAFETY: the offset is less than the size, so the sum stays within the mapping.
        let middle = unsafe { self.start.add(head.get()) };
        let start = self.start;
        std::mem::forget(self);
        Ok((Self { start, bytes: head }, Self { start: middle, bytes: tail }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping and nobody else has an address in it. It can only fail for want of
        // memory to split a neighbour, and then the range stays mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes.get()) };
    }
}

/// Writes one byte into each page of a range; returns how many. The writes are volatile, so that none is
/// left out or moved out of what times them.
///
/// # Safety
/// The `bytes` bytes from `start`, the first of a page, must be writable and free of other users.
pub unsafe fn touch_pages(start: *mut u8, bytes: u64) -> u64 {
    for page in 0..super::pages(bytes) {
        // SAFETY: the page begins within the range, which the caller vouches for.
        unsafe { start.add((page * PAGE_BYTES) as usize).write_volatile(1) };
    }
    super::pages(bytes)
}
