//! What is worth telling: every threshold of `advice`, with its reason.

/// Seconds per second that a change must save: a hundredth of a CPU. Below it nobody restarts a service for a
/// setting, and the scatter of a fault's time on a busy machine is as large.
pub const RECOVERABLE: f64 = 0.01;

/// How often something must have happened: of fewer events the start or the end of a program is a large part.
pub const CYCLES: u64 = 10;

/// Seconds that a process must have been watched.
pub const SECONDS: f64 = 1.0;

/// Intervals between snapshots in which memory was both given back and faulted in: what happens in one burst is
/// no habit, and how much was live at a time is known at snapshots only.
pub const ACTIVE_INTERVALS: u32 = 4;

/// The largest part of all first touch that one interval may hold, for the same reason.
pub const LARGEST_INTERVAL: f64 = 0.5;

/// The part of a heap's first touch that a class must have to be named.
pub const SHARE: f64 = 0.01;

/// The smallest class (log2) for huge pages: of 4 MiB at least one huge page is whole, whatever the alignment.
pub const HUGE_PAGE_CLASS: u8 = 22;

/// The part of its memory that a program must touch for huge pages to be advised: each of them becomes real as
/// a whole, so at a half the memory in use may double.
pub const HUGE_PAGE_TOUCHED: f64 = 0.5;

/// The largest touched part of what was asked for that counts as over-allocation: buffers that are doubled as
/// they grow are half empty on average of the worst case, and a quarter leaves them out.
pub const OVER_ALLOCATION_TOUCHED: f64 = 0.25;

/// Bytes live at a time that are never touched: what a strict overcommit limit of a small machine would notice.
pub const UNTOUCHED_BYTES: f64 = (64 << 20) as f64;

/// Seconds per second of giving memory back that make a storm of it: five times [`RECOVERABLE`], since the most
/// of it is told as churn already.
pub const STORM: f64 = 0.05;

/// The part of the bytes made real that as many faults of 4 KiB must account for, where pages are to count as
/// small: a fault of a huge page makes 512 times as much real.
pub const SMALL_PAGES: f64 = 0.5;
