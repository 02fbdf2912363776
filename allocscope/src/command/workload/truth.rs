//! What a workload did, as it says itself.

use std::ops::Sub;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Allocations of one size, from call to release. Times are by CLOCK_MONOTONIC, unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SizeTruth {
    /// Bytes asked for in each.
    pub size_bytes: u64,
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// 4 KiB pages written to: each page of each allocation once.
    pub pages_touched: u64,
    /// Time in the calls that allocate.
    pub call_ns: u64,
    /// Time of the first writes.
    pub touch_ns: u64,
    /// The same by the threads' own CPU clocks, which stand still while others run.
    pub touch_cpu_ns: u64,
    /// Time in the calls that release.
    pub release_ns: u64,
}

impl SizeTruth {
    /// Nothing yet.
    pub fn of_size(size_bytes: u64) -> Self {
        Self { size_bytes, ..Self::default() }
    }

    /// Takes another's numbers in; of the same size.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.pages_touched += other.pages_touched;
        self.call_ns += other.call_ns;
        self.touch_ns += other.touch_ns;
        self.touch_cpu_ns += other.touch_cpu_ns;
        self.release_ns += other.release_ns;
    }
}

/// Page faults of this whole process, by the kernel's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Served from memory.
    pub minor: u64,
    /// Served from a disk.
    pub major: u64,
}

impl Faults {
    /// Since the process began.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn so_far() -> anyhow::Result<Self> {
        Self::of(UsageWho::RUSAGE_SELF)
    }

    /// Of children that have been waited for.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn of_children() -> anyhow::Result<Self> {
        Self::of(UsageWho::RUSAGE_CHILDREN)
    }

    fn of(who: UsageWho) -> anyhow::Result<Self> {
        let usage = getrusage(who).context("cannot read the count of page faults")?;
        let count = |faults: i64| u64::try_from(faults).unwrap_or_default();
        Ok(Self { minor: count(usage.minor_page_faults()), major: count(usage.major_page_faults()) })
    }
}

impl Sub for Faults {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            minor: self.minor.saturating_sub(earlier.minor),
            major: self.major.saturating_sub(earlier.major),
        }
    }
}

/// Runs something, and adds its time in ns to `total_ns`.
pub fn timed<T>(total_ns: &mut u64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total_ns += ns(started.elapsed());
    result
}

/// The same with the thread's CPU time beside it.
pub fn timed_with_cpu<T>(
    total_ns: &mut u64,
    cpu_ns: &mut u64,
    work: impl FnOnce() -> T,
) -> anyhow::Result<T> {
    let before = thread_cpu_ns()?;
    let result = timed(total_ns, work);
    *cpu_ns += thread_cpu_ns()? - before;
    Ok(result)
}

/// Page faults of the calling thread so far.
///
/// # Errors
/// Where the kernel does not tell.
pub fn thread_faults() -> anyhow::Result<u64> {
    let faults = Faults::of(UsageWho::RUSAGE_THREAD)?;
    Ok(faults.minor + faults.major)
}

/// CPU time of the calling thread.
fn thread_cpu_ns() -> anyhow::Result<u64> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's CPU time")?;
    Ok(ns(Duration::from(time)))
}

/// Nanoseconds; 584 years at most.
pub fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
