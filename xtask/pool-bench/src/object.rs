//! `object-N`: an object of N bytes from a pool, its first byte written, and back.

use crate::Subject;
use crate::anchor::{FLOOR, KEPT, Maker, Object, Slab, escape, fresh, write_first};
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::{Limits, Pool, Recipe};
use anyhow::Result;
use crossbeam_queue::ArrayQueue;
use lockfree_object_pool::LinearObjectPool;
use std::cell::RefCell;
use std::hint::black_box;
use std::ptr;
use std::sync::Arc;

/// Operations between two looks at the clock.
const CHUNK: u64 = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    [of::<4096>("object-4096"), of::<65536>("object-65536")].into_iter().flatten().collect()
}

fn of<const N: usize>(case: &'static str) -> Vec<Subject> {
    let subject = |name, run| Subject { case, name, threads: &[1, 2], run };
    vec![
        subject("allocscope", own::<N>),
        subject("allocscope, of closures", closures::<N>),
        subject("allocscope, owned guard", owned::<N>),
        subject("floor: thread-local stack by hand", floor::<N>),
        subject("thread_local RefCell<Vec<Box>>", ref_cell::<N>),
        subject("opool LocalPool", opool_local::<N>),
        subject("opool Pool", opool::<N>),
        subject("lockfree-object-pool", lockfree::<N>),
        subject("crossbeam ArrayQueue", array_queue::<N>),
        subject("sharded-slab Pool", sharded_slab::<N>),
        subject("mimalloc malloc and free", mimalloc::<N>),
        subject("glibc malloc and free", glibc::<N>),
    ]
}

/// How ours are made.
pub struct Boxes;

impl<const N: usize> Recipe<Object<N>> for Boxes {
    fn make(&self) -> Object<N> {
        fresh()
    }
}

fn own<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = Pool::<Object<N>, Boxes>::with_recipe(Boxes, Limits::default());
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| write_first(&mut **pool.get())))
}

fn closures<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = Pool::builder(fresh::<N>).build();
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| write_first(&mut **pool.get())))
}

fn owned<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = Arc::new(Pool::<Object<N>, Boxes>::with_recipe(Boxes, Limits::default()));
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| write_first(&mut **pool.get_owned())))
}

fn floor<const N: usize>(settings: &Settings) -> Result<Sample> {
    let once = || {
        FLOOR.with(|floor| {
            let item = floor.pop(N);
            // SAFETY: a block of N bytes that only this thread has.
            unsafe { ptr::write_volatile(item, 1) };
            escape(item);
            floor.push(item);
        });
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn ref_cell<const N: usize>(settings: &Settings) -> Result<Sample> {
    thread_local! {
        static BOXES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    }
    let once = || {
        let item = BOXES.with_borrow_mut(Vec::pop);
        let mut item = item.unwrap_or_else(|| fresh::<N>());
        write_first(&mut item);
        BOXES.with_borrow_mut(|boxes| {
            if boxes.len() < KEPT {
                boxes.push(item);
            }
        });
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn opool_local<const N: usize>(settings: &Settings) -> Result<Sample> {
    measure(settings, CHUNK, || {
        let pool = opool::LocalPool::<Maker, Object<N>>::new(KEPT, Maker);
        move |ops| (0..ops).for_each(|_| write_first(&mut **pool.get()))
    })
}

fn opool<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = opool::Pool::<Maker, Object<N>>::new(KEPT, Maker);
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| write_first(&mut **pool.get())))
}

fn lockfree<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = LinearObjectPool::new(fresh::<N>, |_| {});
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| write_first(&mut **pool.pull())))
}

fn array_queue<const N: usize>(settings: &Settings) -> Result<Sample> {
    let queue = ArrayQueue::new(KEPT);
    let once = || {
        let mut item = queue.pop().unwrap_or_else(fresh::<N>);
        write_first(&mut *item);
        drop(queue.push(item));
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn sharded_slab<const N: usize>(settings: &Settings) -> Result<Sample> {
    let pool = sharded_slab::Pool::<Slab<N>>::new();
    let once = || {
        let Some(mut item) = pool.create() else { return };
        write_first(&mut *item.0);
        let key = item.key();
        drop(item);
        pool.clear(key);
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn mimalloc<const N: usize>(settings: &Settings) -> Result<Sample> {
    let once = || {
        // SAFETY: a block of N bytes, or null, which is not written to; given back once.
        unsafe { write_and_free(libmimalloc_sys::mi_malloc(black_box(N)), libmimalloc_sys::mi_free) };
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

fn glibc<const N: usize>(settings: &Settings) -> Result<Sample> {
    let once = || {
        // SAFETY: as in `mimalloc`.
        unsafe { write_and_free(libc::malloc(black_box(N)), libc::free) };
    };
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once()))
}

/// # Safety
/// The block is null or at least one byte long, and `free` is of the allocator that it came from.
#[inline(always)]
unsafe fn write_and_free(block: *mut libc::c_void, free: unsafe extern "C" fn(*mut libc::c_void)) {
    if !block.is_null() {
        // SAFETY: the caller vouches for the block, which nobody else has.
        unsafe {
            ptr::write_volatile(block.cast::<u8>(), 1);
            escape(block);
            free(block);
        }
    }
}
