//! `held-4096`: four objects of 4 KiB at a time, the first byte of each written, and all of them back; an operation is
//! one object's.

use crate::Subject;
use crate::anchor::{FLOOR, KEPT, Maker, Object, escape, fresh, write_first};
use crate::object::Boxes;
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::{Limits, Pool};
use anyhow::Result;
use crossbeam_queue::ArrayQueue;
use lockfree_object_pool::LinearObjectPool;
use std::hint::black_box;
use std::ptr;

const BYTES: usize = 4096;
/// Objects that are out at once.
const HELD: usize = 4;
/// Operations between two looks at the clock.
const CHUNK: u64 = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let subject = |name, run| Subject { case: "held-4096", name, threads: &[1, 2], run };
    vec![
        subject("allocscope", own),
        subject("floor: thread-local stack by hand", floor),
        subject("opool Pool", opool),
        subject("lockfree-object-pool", lockfree),
        subject("crossbeam ArrayQueue", array_queue),
        subject("mimalloc malloc and free", mimalloc),
        subject("glibc malloc and free", glibc),
    ]
}

/// Gets some, holds them, and gives each back.
fn hold<T>(ops: u64, mut get: impl FnMut() -> T, put: impl Fn(T)) {
    for _ in 0..ops / HELD as u64 {
        black_box([(); HELD].map(|()| get())).into_iter().for_each(&put);
    }
}

fn own(settings: &Settings) -> Result<Sample> {
    let pool = Pool::<Object<BYTES>, Boxes>::with_recipe(Boxes, Limits::default());
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    measure(settings, CHUNK, || |ops| hold(ops, get, drop))
}

fn floor(settings: &Settings) -> Result<Sample> {
    let get = || {
        let item = FLOOR.with(|floor| floor.pop(BYTES));
        // SAFETY: a block of so many bytes that only this thread has.
        unsafe { ptr::write_volatile(item, 1) };
        escape(item);
        item
    };
    measure(settings, CHUNK, || |ops| hold(ops, get, |item| FLOOR.with(|floor| floor.push(item))))
}

fn opool(settings: &Settings) -> Result<Sample> {
    let pool = opool::Pool::<Maker, Object<BYTES>>::new(KEPT, Maker);
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    measure(settings, CHUNK, || |ops| hold(ops, get, drop))
}

fn lockfree(settings: &Settings) -> Result<Sample> {
    let pool = LinearObjectPool::new(fresh::<BYTES>, |_| {});
    let get = || {
        let mut item = pool.pull();
        write_first(&mut **item);
        item
    };
    measure(settings, CHUNK, || |ops| hold(ops, get, drop))
}

fn array_queue(settings: &Settings) -> Result<Sample> {
    let queue = ArrayQueue::new(KEPT);
    let get = || {
        let mut item = queue.pop().unwrap_or_else(fresh::<BYTES>);
        write_first(&mut *item);
        item
    };
    measure(settings, CHUNK, || |ops| hold(ops, get, |item| drop(queue.push(item))))
}

/// A block whose first byte was written.
fn written(block: *mut libc::c_void) -> *mut libc::c_void {
    assert!(!block.is_null(), "no memory");
    // SAFETY: the allocator's block, of which nobody else knows, is at least a byte long.
    unsafe { ptr::write_volatile(block.cast::<u8>(), 1) };
    escape(block);
    block
}

fn mimalloc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || written(unsafe { libmimalloc_sys::mi_malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    measure(settings, CHUNK, || |ops| hold(ops, get, |block| unsafe { libmimalloc_sys::mi_free(block) }))
}

fn glibc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || written(unsafe { libc::malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    measure(settings, CHUNK, || |ops| hold(ops, get, |block| unsafe { libc::free(block) }))
}
