//! What a region asks of the kernel, one system call a function, behind a trait so that tests can make each fail.

use super::extent::Extent;
use std::ptr::NonNull;

/// The number of an error as in `errno(3)`.
pub type Errno = i32;

/// Advice on a range of memory, as of `madvise(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advised {
    /// `MADV_FREE`: the kernel may take the pages when it needs them.
    Free,
    /// `MADV_DONTNEED`: the kernel takes the pages now.
    DontNeed,
    /// `MADV_HUGEPAGE`.
    Huge,
    /// `MADV_NOHUGEPAGE`.
    NoHuge,
    /// `MADV_POPULATE_WRITE`: all page faults of a first write, now.
    PopulateWrite,
}

/// The kernel, as regions use it.
///
/// # Safety
///
/// What `map` returns is a range of `extent.mapped()` bytes that nobody else uses until `unmap`, whose region
/// begins at a multiple of `extent.granule()`, and which can be read and written where `protect` allowed it last.
pub unsafe trait System: Sync {
    /// Bytes of the smallest page.
    fn page_bytes(&self) -> usize;

    /// Maps an extent, all of it inaccessible; `explicit`: the region of explicit huge pages, the guards not.
    ///
    /// # Errors
    ///
    /// The kernel's; nothing is mapped then.
    fn map(&self, extent: Extent, explicit: bool) -> Result<NonNull<u8>, Errno>;

    /// Gives back what `map` returned for `extent`.
    ///
    /// # Errors
    ///
    /// The kernel's; the range is lost then.
    ///
    /// # Safety
    ///
    /// Nobody uses the range any more.
    unsafe fn unmap(&self, mapping: NonNull<u8>, extent: Extent) -> Result<(), Errno>;

    /// Makes a range accessible or inaccessible.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Safety
    ///
    /// The range is within a mapping of this system, of whole pages; nobody uses it while it is inaccessible.
    unsafe fn protect(&self, start: NonNull<u8>, bytes: usize, accessible: bool) -> Result<(), Errno>;

    /// Advises on a range.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Safety
    ///
    /// As `protect`, and nobody counts on the contents after `Free` and `DontNeed`.
    unsafe fn advise(&self, start: NonNull<u8>, bytes: usize, advised: Advised) -> Result<(), Errno>;

    /// Binds a range to a NUMA node (at most 1023).
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Safety
    ///
    /// The range is within a mapping of this system, of whole pages.
    unsafe fn bind(&self, start: NonNull<u8>, bytes: usize, node: u32) -> Result<(), Errno>;

    /// The NUMA nodes that are online; only node 0 where the kernel does not say.
    fn nodes(&self) -> Vec<u32>;

    /// Whether the machine grants transparent huge pages to those who ask.
    fn grants_transparent(&self) -> bool;
}
