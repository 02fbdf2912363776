//! `cross`: one thread gets objects of 4 KiB and writes to them, another gives them back.
//!
//! They pass in batches, so that what is measured is the pool and not the way between the threads, which is
//! measured alone too.

use crate::Subject;
use crate::anchor::{Maker, Object, fresh, write_first};
use crate::object::Boxes;
use crate::timing::{Sample, Settings, chunks, joined, pin, summary};
use allocscope::pool::{Limits, Pool};
use anyhow::Result;
use crossbeam_queue::ArrayQueue;
use lockfree_object_pool::LinearObjectPool;
use std::hint::{black_box, spin_loop};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const BYTES: usize = 4096;
const CHUNK: u64 = 4096;
/// Objects that pass together.
const BATCH: u64 = 16;
/// Batches on their way.
const SLOTS: u64 = 4;
/// Enough for all that are on their way, and as many again.
const KEPT: usize = 2 * (BATCH * SLOTS) as usize;
/// Looks at the other side before the CPU is offered to others.
const SPINS: u32 = 1000;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let subject = |name, run| Subject { case: "cross", name, threads: &[2], run };
    vec![
        subject("allocscope", own),
        subject("the way between the threads alone", way_alone),
        subject("opool Pool", opool),
        subject("lockfree-object-pool", lockfree),
        subject("crossbeam ArrayQueue", array_queue),
        subject("mimalloc malloc and free", mimalloc),
        subject("glibc malloc and free", glibc),
    ]
}

fn way_alone(settings: &Settings) -> Result<Sample> {
    pass_on(settings, || black_box(1_usize), |item| _ = black_box(item))
}

fn own(settings: &Settings) -> Result<Sample> {
    let pool = Pool::<Object<BYTES>, Boxes>::with_recipe(Boxes, Limits::default());
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    pass_on(settings, get, drop)
}

fn opool(settings: &Settings) -> Result<Sample> {
    let pool = opool::Pool::<Maker, Object<BYTES>>::new(KEPT, Maker);
    let get = || {
        let mut item = pool.get();
        write_first(&mut **item);
        item
    };
    pass_on(settings, get, drop)
}

fn lockfree(settings: &Settings) -> Result<Sample> {
    let pool = LinearObjectPool::new(fresh::<BYTES>, |_| {});
    let get = || {
        let mut item = pool.pull();
        write_first(&mut **item);
        item
    };
    pass_on(settings, get, drop)
}

fn array_queue(settings: &Settings) -> Result<Sample> {
    let queue = ArrayQueue::new(KEPT);
    let get = || {
        let mut item = queue.pop().unwrap_or_else(fresh::<BYTES>);
        write_first(&mut *item);
        item
    };
    pass_on(settings, get, |item| drop(queue.push(item)))
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

fn mimalloc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || Block::new(unsafe { libmimalloc_sys::mi_malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    pass_on(settings, get, |block| unsafe { libmimalloc_sys::mi_free(block.0.as_ptr().cast()) })
}

fn glibc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let get = || Block::new(unsafe { libc::malloc(black_box(BYTES)) });
    // SAFETY: the block came from there and is not used again.
    pass_on(settings, get, |block| unsafe { libc::free(block.0.as_ptr().cast()) })
}

/// On a cache line of its own.
#[repr(align(128))]
struct Count(AtomicU64);

/// Batches on their way from one thread to the other.
struct Way<T> {
    slots: [Mutex<Vec<T>>; SLOTS as usize],
    sent: Count,
    taken: Count,
    is_over: AtomicBool,
}

/// Passes on what `get` gets to `put` in another thread; an operation is one object's.
pub fn pass_on<T: Send>(
    settings: &Settings,
    get: impl Fn() -> T + Sync,
    put: impl Fn(T) + Sync,
) -> Result<Sample> {
    let way = Way::new();
    let times = thread::scope(|scope| {
        let producer = thread::Builder::new().spawn_scoped(scope, || {
            let times = pin(0).map(|()| chunks(settings.time, CHUNK, &mut |ops| way.send(ops / BATCH, &get)));
            way.is_over.store(true, Ordering::Release);
            times
        })?;
        let consumer =
            thread::Builder::new().spawn_scoped(scope, || pin(1).map(|()| while way.take(&put) {}))?;
        joined(consumer.join())??;
        joined(producer.join())?
    })?;
    Ok(summary(vec![times], CHUNK))
}

impl<T> Way<T> {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Mutex::new(Vec::with_capacity(BATCH as usize))),
            sent: Count(AtomicU64::new(0)),
            taken: Count(AtomicU64::new(0)),
            is_over: AtomicBool::new(false),
        }
    }

    fn slot(&self, number: u64) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.slots[(number % SLOTS) as usize].lock().unwrap_or_else(|died| died.into_inner())
    }

    fn send(&self, batches: u64, get: impl Fn() -> T) {
        for _ in 0..batches {
            let number = self.sent.0.load(Ordering::Relaxed);
            wait(|| number - self.taken.0.load(Ordering::Acquire) < SLOTS);
            self.slot(number).extend((0..BATCH).map(|_| get()));
            self.sent.0.store(number + 1, Ordering::Release);
        }
    }

    /// Whether there may be more.
    fn take(&self, put: impl Fn(T)) -> bool {
        let number = self.taken.0.load(Ordering::Relaxed);
        let has_one = || self.sent.0.load(Ordering::Acquire) > number;
        wait(|| has_one() || self.is_over.load(Ordering::Acquire));
        if !has_one() {
            return false;
        }
        self.slot(number).drain(..).for_each(put);
        self.taken.0.store(number + 1, Ordering::Release);
        true
    }
}

fn wait(is_so: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_so() {
        looks += 1;
        if looks % SPINS == 0 {
            thread::yield_now();
        }
        spin_loop();
    }
}
