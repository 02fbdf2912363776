//! `cross`: one thread gets objects of 4 KiB and writes to them, another gives them back.
//!
//! They pass in batches, so that what is measured is the pool and not the way between the threads, which is
//! measured alone too.

use crate::Subject;
use crate::guarded::{self, Between};
use crate::timing::{Sample, Settings, chunks, joined, pin, summary};
use anyhow::Result;
use std::hint::{black_box, spin_loop};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const CHUNK: u64 = 4096;
/// Objects that pass together.
const BATCH: u64 = 16;
/// Batches on their way.
const SLOTS: u64 = 4;
/// Looks at the other side before the CPU is offered to others.
const SPINS: u32 = 1000;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let mut all = guarded::subjects::<Passed>("cross", &[2]);
    all.push(Subject {
        case: "cross",
        name: "the way between the threads alone",
        threads: &[2],
        run: way_alone,
    });
    all
}

/// One thread gets, and another puts; an operation is one object's.
struct Passed;

impl Between for Passed {
    fn measured<T: Send>(
        settings: &Settings,
        get: impl Fn() -> T + Sync,
        put: impl Fn(T) + Sync,
    ) -> Result<Sample> {
        let way = Way::new();
        let times = thread::scope(|scope| {
            let producer = thread::Builder::new().spawn_scoped(scope, || {
                let times =
                    pin(0).map(|()| chunks(settings.time, CHUNK, &mut |ops| way.send(ops / BATCH, &get)));
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
}

fn way_alone(settings: &Settings) -> Result<Sample> {
    Passed::measured(settings, || black_box(1_usize), |item| _ = black_box(item))
}

/// On a cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

/// Batches on their way from one thread to the other.
struct Way<T> {
    slots: [Line<Mutex<Vec<T>>>; SLOTS as usize],
    sent: Line<AtomicU64>,
    taken: Line<AtomicU64>,
    is_over: AtomicBool,
}

impl<T> Way<T> {
    fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Line(Mutex::new(Vec::with_capacity(BATCH as usize)))),
            sent: Line(AtomicU64::new(0)),
            taken: Line(AtomicU64::new(0)),
            is_over: AtomicBool::new(false),
        }
    }

    fn slot(&self, number: u64) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.slots[(number % SLOTS) as usize].0.lock().unwrap_or_else(|died| died.into_inner())
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
