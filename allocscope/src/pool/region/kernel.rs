//! A region's wishes into Linux system calls.

use super::extent::Extent;
use super::nodes;
use super::system::{Advised, Errno, System};
use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::{fs, io};

/// `MPOL_BIND` of `linux/mempolicy.h`.
const MPOL_BIND: usize = 2;
/// Bits of a node mask: as many as the kernel's largest `MAX_NUMNODES`.
const NODE_BITS: usize = 1024;
const PRIVATE: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// The Linux kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

// SAFETY: mappings are new, private and anonymous; `cut` aligns them.
unsafe impl System for Kernel {
    fn page_bytes(&self) -> usize {
        // SAFETY: reads a constant of the process.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
    }

    fn map(&self, extent: Extent, explicit: bool) -> Result<NonNull<u8>, Errno> {
        let searched = extent.mapped() + extent.granule();
        let found = new_mapping(ptr::null_mut(), searched, 0)?;
        let mapping = cut(found, searched, extent)?;
        if explicit { with_huge_pages(mapping, extent) } else { Ok(mapping) }
    }

    unsafe fn unmap(&self, mapping: NonNull<u8>, extent: Extent) -> Result<(), Errno> {
        // SAFETY: the caller's mapping, which nobody uses.
        unsafe { unmap(mapping.as_ptr(), extent.mapped()) }
    }

    unsafe fn protect(&self, start: NonNull<u8>, bytes: usize, accessible: bool) -> Result<(), Errno> {
        let protection = if accessible { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        // SAFETY: the caller's mapping, which nobody uses while it is inaccessible.
        check(unsafe { libc::mprotect(start.as_ptr().cast(), bytes, protection) })
    }

    unsafe fn advise(&self, start: NonNull<u8>, bytes: usize, advised: Advised) -> Result<(), Errno> {
        let advice = match advised {
            Advised::Free => libc::MADV_FREE,
            Advised::DontNeed => libc::MADV_DONTNEED,
            Advised::Huge => libc::MADV_HUGEPAGE,
            Advised::NoHuge => libc::MADV_NOHUGEPAGE,
            Advised::PopulateWrite => libc::MADV_POPULATE_WRITE,
        };
        // SAFETY: the caller's mapping, on whose contents nobody counts.
        check(unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) })
    }

    unsafe fn bind(&self, start: NonNull<u8>, bytes: usize, node: u32) -> Result<(), Errno> {
        let mut mask = [0_u64; NODE_BITS / 64];
        let word = mask.get_mut(node as usize / 64).ok_or(libc::EINVAL)?;
        *word |= 1 << (node % 64);
        // SAFETY: the mask has NODE_BITS bits; the kernel reads one less than it is told. The policy of the
        // caller's mapping decides where pages come from, not what they hold.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                start.as_ptr(),
                bytes,
                MPOL_BIND,
                mask.as_ptr(),
                NODE_BITS + 1,
                0_usize,
            )
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    fn nodes(&self) -> Vec<u32> {
        let text = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
        nodes::parse(&text)
    }

    fn grants_transparent(&self) -> bool {
        let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        text.contains("[madvise]") || text.contains("[always]")
    }
}

/// A new inaccessible mapping.
fn new_mapping(hint: *mut u8, bytes: usize, flags: c_int) -> Result<NonNull<u8>, Errno> {
    // SAFETY: without MAP_FIXED, a mapping of addresses that nobody uses.
    let start = unsafe { libc::mmap(hint.cast(), bytes, libc::PROT_NONE, PRIVATE | flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(last_errno());
    }
    NonNull::new(start.cast()).ok_or(libc::ENOMEM)
}

/// Cuts the aligned extent out of a mapping that is one granule longer.
fn cut(found: NonNull<u8>, searched: usize, extent: Extent) -> Result<NonNull<u8>, Errno> {
    let before = found.as_ptr().addr().wrapping_neg() & (extent.granule() - 1);
    // SAFETY: `before` is less than a granule, by which what was found is longer than the extent.
    let (mapping, end) = unsafe { (found.add(before), found.add(before + extent.mapped())) };
    // SAFETY: of the new mapping, which nobody uses yet.
    unsafe {
        unmap_part(found, before, found, searched)?;
        unmap_part(end, searched - before - extent.mapped(), mapping, searched - before)?;
    }
    Ok(mapping)
}

/// Unmaps `part`, or, where the kernel has no mapping left for the rest, the `whole`.
///
/// # Safety
///
/// Both are of whole pages that nobody uses, one within the other.
unsafe fn unmap_part(part: NonNull<u8>, bytes: usize, whole: NonNull<u8>, all: usize) -> Result<(), Errno> {
    // SAFETY: the caller's.
    let unmapped = unsafe { unmap(part.as_ptr(), bytes) };
    unmapped.inspect_err(|_| {
        // SAFETY: the caller's. The first error is the one to tell.
        let _ = unsafe { unmap(whole.as_ptr(), all) };
    })
}

/// Puts huge pages where the region is. The kernel sets them aside at once, so that no touch can fail later.
///
/// The place is free for a moment, and so is never mapped over but only where nobody else has mapped meanwhile.
fn with_huge_pages(mapping: NonNull<u8>, extent: Extent) -> Result<NonNull<u8>, Errno> {
    // SAFETY: both are within the mapping.
    let (region, upper) =
        unsafe { (mapping.add(extent.granule()), mapping.add(extent.granule() + extent.reserved())) };
    // SAFETY: the mapping is new and nobody uses it yet.
    unsafe { unmap_part(region, extent.reserved(), mapping, extent.mapped())? };
    let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_FIXED_NOREPLACE;
    let failed = match new_mapping(region.as_ptr(), extent.reserved(), flags) {
        Ok(placed) if placed == region => return Ok(mapping),
        // A kernel before 4.17 takes the address for a hint.
        // SAFETY: the misplaced mapping is new.
        Ok(placed) => unsafe { unmap(placed.as_ptr(), extent.reserved()) }.err().unwrap_or(libc::EEXIST),
        Err(errno) => errno,
    };
    // SAFETY: both guards are of the new mapping, which nobody uses.
    unsafe {
        unmap(mapping.as_ptr(), extent.granule()).and_then(|()| unmap(upper.as_ptr(), extent.granule()))?
    };
    Err(failed)
}

/// # Safety
///
/// The range is of whole pages that nobody uses any more.
unsafe fn unmap(start: *mut u8, bytes: usize) -> Result<(), Errno> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's.
    check(unsafe { libc::munmap(start.cast(), bytes) })
}

fn check(result: c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
