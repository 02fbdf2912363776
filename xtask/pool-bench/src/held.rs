//! `held-4096`: four objects of 4 KiB at a time, the first byte of each written, and all of them back; an operation is
//! one object's.

use crate::Subject;
use crate::anchor::{FLOOR, escape};
use crate::guarded::{self, BYTES, Between};
use crate::timing::{Sample, Settings, measure};
use anyhow::Result;
use std::ptr;

const CASE: &str = "held-4096";
const THREADS: [usize; 2] = [1, 2];
/// Objects that are out at once.
const HELD: u64 = 4;
/// Operations between two looks at the clock.
const CHUNK: u64 = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let mut all = guarded::subjects::<Held>(CASE, &THREADS);
    let name = "floor: thread-local stack by hand";
    all.push(Subject { case: CASE, name, threads: &THREADS, run: floor });
    all
}

/// Some are got, and then each is put.
struct Held;

impl Between for Held {
    fn measured<T: Send>(
        settings: &Settings,
        get: impl Fn() -> T + Sync,
        put: impl Fn(T) + Sync,
    ) -> Result<Sample> {
        measure(settings, CHUNK, || |ops| hold(ops, &get, &put))
    }
}

/// Each is a variable of its own, as objects in use are: an array of them would be moved as a whole, and a processor
/// that reads at once what was written in halves, as a guard is, waits longer than all else here takes.
fn hold<T>(ops: u64, get: impl Fn() -> T, put: impl Fn(T)) {
    for _ in 0..ops / HELD {
        let (a, b, c, d) = (get(), get(), get(), get());
        put(a);
        put(b);
        put(c);
        put(d);
    }
}

/// Addresses are not to leave their thread.
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
