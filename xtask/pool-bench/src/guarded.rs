//! Objects of 4 KiB from each pool and allocator, for cases that differ in what happens between getting and putting.

use crate::Subject;
use crate::anchor::{Maker, Object, fresh, write_first};
use crate::object::Boxes;
use crate::timing::{Sample, Settings};
use allocscope::pool::{Limits, Pool};
use anyhow::Result;
use crossbeam_queue::ArrayQueue;
use lockfree_object_pool::LinearObjectPool;
use std::hint::black_box;
use std::ptr::NonNull;

/// Bytes of an object.
pub const BYTES: usize = 4096;
/// Objects that a pool keeps where it must be told: more than any of these cases has.
const KEPT: usize = 128;

/// What happens between getting and putting.
pub trait Between {
    /// Measures it.
    ///
    /// # Errors
    /// Where there are no threads, or no CPU for one.
    fn measured<T: Send>(
        settings: &Settings,
        get: impl Fn() -> T + Sync,
        put: impl Fn(T) + Sync,
    ) -> Result<Sample>;
}

/// What is measured.
pub fn subjects<B: Between>(case: &'static str, threads: &'static [usize]) -> Vec<Subject> {
    let subject = |name, run| Subject { case, name, threads, run };
    vec![
        subject("allocscope", own::<B>),
        subject("opool Pool", opool::<B>),
        subject("lockfree-object-pool", lockfree::<B>),
        subject("crossbeam ArrayQueue", array_queue::<B>),
        subject("mimalloc malloc and free", mimalloc::<B>),
        subject("glibc malloc and free", glibc::<B>),
    ]
}

fn own<B: Between>(settings: &Settings) -> Result<Sample> {
    let pool = Pool::<Object<BYTES>, Boxes>::with_recipe(Boxes, Limits::default());
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    B::measured(settings, get, drop)
}

fn opool<B: Between>(settings: &Settings) -> Result<Sample> {
    let pool = opool::Pool::<Maker, Object<BYTES>>::new(KEPT, Maker);
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    B::measured(settings, get, drop)
}

fn lockfree<B: Between>(settings: &Settings) -> Result<Sample> {
    let pool = LinearObjectPool::new(fresh::<BYTES>, |_| {});
    let get = || {
        let mut item = pool.pull();
        write_first(&mut **item);
        item
    };
    B::measured(settings, get, drop)
}

fn array_queue<B: Between>(settings: &Settings) -> Result<Sample> {
    let queue = ArrayQueue::new(KEPT);
    let get = || {
        let mut item = queue.pop().unwrap_or_else(fresh::<BYTES>);
        write_first(&mut *item);
        item
    };
    B::measured(settings, get, |item| drop(queue.push(item)))
}

/// A block of an allocator that may be freed by any thread.
struct Block(NonNull<u8>);

// SAFETY: both allocators take blocks back on any thread, and a block has one owner.
unsafe impl Send for Block {}

impl Block {
    fn new(start: *mut libc::c_void) -> Self {
        let start = NonNull::new(start.cast::<u8>()).unwrap_or_else(|| panic!("no memory"));
        // SAFETY: a block is at least one byte long and nobody else has it.
        unsafe { start.write_volatile(1) };
        Self(start)
    }
}

fn mimalloc<B: Between>(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || Block::new(unsafe { libmimalloc_sys::mi_malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    B::measured(settings, get, |block| unsafe { libmimalloc_sys::mi_free(block.0.as_ptr().cast()) })
}

fn glibc<B: Between>(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || Block::new(unsafe { libc::malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    B::measured(settings, get, |block| unsafe { libc::free(block.0.as_ptr().cast()) })
}
