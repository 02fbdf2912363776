//! `buffer-65536`: an empty buffer with room for 64 KiB, its first byte written, and back.

use crate::Subject;
use crate::anchor::{BUFFERS, FLOOR, KEPT, Maker, escape};
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::BufferPool;
use anyhow::Result;
use std::hint::black_box;
use std::ptr;
use std::sync::Arc;

/// Of a buffer.
pub const BYTES: usize = 65536;
const CHUNK: u64 = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let subject = |name, run| Subject { case: "buffer-65536", name, threads: &[1, 2], run };
    vec![
        subject("allocscope", own),
        subject("allocscope, owned guard", owned),
        subject("floor: thread-local stack by hand", floor),
        subject("thread_local RefCell<Vec<Vec<u8>>>", ref_cell),
        subject("opool Pool", opool),
        subject("mimalloc malloc and free", mimalloc),
        subject("Vec::with_capacity by glibc", vec),
    ]
}

fn floor(settings: &Settings) -> Result<Sample> {
    let once = || {
        FLOOR.with(|floor| {
            let item = floor.pop(BYTES);
            // SAFETY: a block of that many bytes that only this thread has.
            unsafe { ptr::write_volatile(item, 1) };
            escape(item);
            floor.push(item);
        });
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

/// Writes the first byte, and leaves the length as it is.
#[inline(always)]
pub fn fill(buffer: &mut Vec<u8>) {
    if let Some(first) = buffer.spare_capacity_mut().first_mut() {
        // SAFETY: a valid place, which is what a reference is.
        unsafe { ptr::write_volatile(first.as_mut_ptr(), 1) };
    }
    escape(buffer.as_mut_ptr());
}

fn own(settings: &Settings) -> Result<Sample> {
    let pool = BufferPool::builder().build();
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| fill(&mut pool.get(black_box(BYTES)))))
}

fn owned(settings: &Settings) -> Result<Sample> {
    let pool = Arc::new(BufferPool::builder().build());
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| fill(&mut pool.get_owned(black_box(BYTES)))))
}

fn ref_cell(settings: &Settings) -> Result<Sample> {
    let once = || {
        let buffer = BUFFERS.with_borrow_mut(Vec::pop);
        let mut buffer = buffer.unwrap_or_else(|| Vec::with_capacity(BYTES));
        buffer.clear();
        fill(&mut buffer);
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn opool(settings: &Settings) -> Result<Sample> {
    let pool = opool::Pool::<Maker, Vec<u8>>::new(KEPT, Maker);
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| fill(&mut pool.get())))
}

fn mimalloc(settings: &Settings) -> Result<Sample> {
    let once = || {
        // SAFETY: malloc has no preconditions.
        let block = unsafe { libmimalloc_sys::mi_malloc(black_box(BYTES)) }.cast::<u8>();
        if !block.is_null() {
            // SAFETY: a block of that many bytes that nobody else has, given back once.
            unsafe {
                ptr::write_volatile(block, 1);
                escape(block);
                libmimalloc_sys::mi_free(block.cast());
            }
        }
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn vec(settings: &Settings) -> Result<Sample> {
    let once = || {
        let mut buffer = Vec::with_capacity(black_box(BYTES));
        fill(&mut buffer);
        drop(buffer);
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}
