//! `region-64MiB`: memory of 64 MiB, one byte of each page written, and given up; an operation is all of it.

use crate::Subject;
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::region::{HugePages, RegionOptions};
use allocscope::pool::{Arena, Region};
use anyhow::{Result, bail};
use std::hint::black_box;
use std::ptr;
use std::sync::{Mutex, PoisonError};

const BYTES: usize = 64 << 20;
const PAGE: usize = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let subject = |name, run| Subject { case: "region-64MiB", name, threads: &[1], run };
    vec![
        subject("allocscope", own),
        subject("allocscope, small pages", own_small),
        subject("floor: one mapping of huge pages kept", floor),
        subject("mimalloc malloc, touch, free", mimalloc),
        subject("mmap for huge pages, touch, munmap", huge_mapping),
        subject("glibc malloc, touch, free", glibc),
    ]
}

/// Writes a byte of each page.
///
/// # Safety
/// The memory is as large as a region and nobody else's.
#[inline(always)]
pub unsafe fn touch(start: *mut u8) {
    for at in (0..BYTES).step_by(PAGE) {
        // SAFETY: within the memory that the caller vouches for.
        unsafe { ptr::write_volatile(start.add(at), 1) };
    }
    black_box(start);
}

fn map() -> Result<*mut u8> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), BYTES, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        bail!("cannot map memory");
    }
    // SAFETY: advice about the mapping just made. Where the kernel has no huge pages, small ones will do.
    unsafe { libc::madvise(start, BYTES, libc::MADV_HUGEPAGE) };
    Ok(start.cast())
}

fn own(settings: &Settings) -> Result<Sample> {
    in_arena(settings, HugePages::Transparent)
}

fn own_small(settings: &Settings) -> Result<Sample> {
    in_arena(settings, HugePages::Never)
}

/// A region of prefaulted pages that an arena uses again and again.
fn in_arena(settings: &Settings, huge: HugePages) -> Result<Sample> {
    let mut region =
        Region::reserve(BYTES, RegionOptions { huge, prefault: true, ..RegionOptions::default() })?;
    region.commit(BYTES)?;
    let arena = Mutex::new(Arena::in_region(region));
    let once = |arena: &mut Arena| {
        // SAFETY: as many bytes, which the arena has just handed out.
        unsafe { touch(arena.alloc_bytes(BYTES, PAGE).as_mut_ptr().cast()) };
        arena.reset();
    };
    measure(settings, 1, || {
        |ops| (0..ops).for_each(|_| once(&mut arena.lock().unwrap_or_else(PoisonError::into_inner)))
    })
}

fn floor(settings: &Settings) -> Result<Sample> {
    let start = map()? as usize;
    // SAFETY: the mapping is of that size, and one thread is measured.
    measure(settings, 1, || move |ops| (0..ops).for_each(|_| unsafe { touch(start as *mut u8) }))
}

fn huge_mapping(settings: &Settings) -> Result<Sample> {
    let once = || {
        let Ok(start) = map() else { return };
        // SAFETY: the mapping just made, which nobody else knows of.
        unsafe {
            touch(start);
            libc::munmap(start.cast(), BYTES);
        }
    };
    measure(settings, 1, || |ops| (0..ops).for_each(|_| once()))
}

fn mimalloc(settings: &Settings) -> Result<Sample> {
    let once = || {
        // SAFETY: malloc has no preconditions, and the block is of that size and given back once.
        unsafe { touch_and_free(libmimalloc_sys::mi_malloc(black_box(BYTES)), libmimalloc_sys::mi_free) };
    };
    measure(settings, 1, || |ops| (0..ops).for_each(|_| once()))
}

fn glibc(settings: &Settings) -> Result<Sample> {
    let once = || {
        // SAFETY: as in `mimalloc`.
        unsafe { touch_and_free(libc::malloc(black_box(BYTES)), libc::free) };
    };
    measure(settings, 1, || |ops| (0..ops).for_each(|_| once()))
}

/// # Safety
/// The block is null or as large as a region, and `free` is of the allocator that it came from.
unsafe fn touch_and_free(block: *mut libc::c_void, free: unsafe extern "C" fn(*mut libc::c_void)) {
    if !block.is_null() {
        // SAFETY: the caller vouches for the block, which nobody else has.
        unsafe {
            touch(block.cast());
            free(block);
        }
    }
}
