//! Threads' work into the nanoseconds of one operation: each thread on a CPU of its own, the median of its chunks.

use anyhow::{Context as _, Result, bail};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// More are not kept.
const MAX_CHUNKS: usize = 1 << 16;
/// Fewer say nothing of a median.
const MIN_CHUNKS: usize = 3;
/// Of the time, for caches, branch predictors and pools to get to where they stay.
const WARMING: u32 = 5;

/// How to measure.
pub struct Settings {
    /// Threads that do the same at the same time.
    pub threads: usize,
    /// How long each does.
    pub time: Duration,
}

/// What was measured.
pub struct Sample {
    /// Nanoseconds of one operation in one thread: the mean of the threads' medians.
    pub ns: f64,
    /// Operations of all threads.
    pub ops: u64,
}

/// What threads do: `make` makes each thread's work on that thread; it is then asked for a number of operations.
///
/// # Errors
/// Where there are fewer CPUs than threads, or a thread cannot be had.
pub fn measure<W: FnMut(u64)>(
    settings: &Settings,
    chunk: u64,
    make: impl Fn() -> W + Sync,
) -> Result<Sample> {
    let barrier = Barrier::new(settings.threads);
    let shares = thread::scope(|scope| {
        let spawn = |index| {
            let (make, barrier) = (&make, &barrier);
            thread::Builder::new().spawn_scoped(scope, move || {
                let pinned = pin(index);
                let mut work = make();
                barrier.wait();
                pinned.map(|()| chunks(settings.time, chunk, &mut work))
            })
        };
        let threads: Vec<_> = (0..settings.threads).map(spawn).collect::<Result<_, _>>()?;
        threads.into_iter().map(|thread| joined(thread.join())?).collect::<Result<Vec<_>>>()
    })?;
    Ok(summary(shares, chunk))
}

/// The calling thread from now on runs on the CPU of that index among those that the process may use.
///
/// # Errors
/// Where there is none.
pub fn pin(index: usize) -> Result<()> {
    let cpu = *allowed_cpus()?.get(index).context("there are fewer CPUs than threads")?;
    // SAFETY: an empty set of CPUs is all zeros, and the CPU is one that the set below could hold.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: 0 is the calling thread, and the set is as large as said.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result == 0 { Ok(()) } else { bail!("cannot choose a CPU") }
}

/// Of the whole process: the main thread is never pinned.
fn allowed_cpus() -> Result<Vec<usize>> {
    // SAFETY: an empty set of CPUs is all zeros.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the process' first thread has the process' number, and the set is as large as said.
    let result = unsafe { libc::sched_getaffinity(libc::getpid(), size_of_val(&set), &raw mut set) };
    if result != 0 {
        bail!("cannot tell the CPUs");
    }
    // SAFETY: the numbers are below the set's size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// The nanoseconds of each chunk until the time is over.
pub fn chunks(time: Duration, chunk: u64, work: &mut impl FnMut(u64)) -> Vec<f64> {
    let begun = Instant::now();
    while begun.elapsed() < time / WARMING {
        work(chunk);
    }
    let mut times = Vec::with_capacity(MAX_CHUNKS);
    let begun = Instant::now();
    while times.len() < MIN_CHUNKS || (times.len() < MAX_CHUNKS && begun.elapsed() < time) {
        let start = Instant::now();
        work(chunk);
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    times
}

pub fn summary(shares: Vec<Vec<f64>>, chunk: u64) -> Sample {
    let all: usize = shares.iter().map(Vec::len).sum();
    let medians = shares.iter().map(|times| median(times.clone()));
    let ns = medians.sum::<f64>() / shares.len().max(1) as f64 / chunk as f64;
    Sample { ns, ops: all as u64 * chunk }
}

/// The upper one of an even number; 0 of nothing.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// What a thread returned, or that it died.
///
/// # Errors
/// Where it died.
pub fn joined<T>(result: thread::Result<T>) -> Result<T> {
    result.ok().context("a thread died")
}
