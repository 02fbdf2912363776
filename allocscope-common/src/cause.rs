//! A slow allocation's or page fault's time into its causes: what the time of a window went to.

use crate::key::named;
use core::fmt;

/// Where the time of a window went: of an allocator's call, a memory system call, a release or a page fault.
/// Causes are disjoint and sum to the windows' time; what none of them names is [`Cause::Other`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// What no other cause names.
    Other = 0,
    /// The allocator's own work: getting the pages, keeping its books.
    Alloc = 1,
    /// Serving a page fault: what remains of it when the causes below are taken off. The kernel's clearing of
    /// new pages is in it.
    PageFault = 2,
    /// The allocator clearing memory that was used before.
    Zeroing = 3,
    /// The thread itself reclaiming memory, since the machine had none free (direct reclaim).
    Reclaim = 4,
    /// The same, since its memory cgroup was at its limit.
    MemcgReclaim = 5,
    /// Moving pages so that a huge one becomes free.
    Compaction = 6,
    /// Waiting for the lock of the address space (`mmap_lock`).
    MmapLock = 7,
    /// Reading the page back from swap.
    SwapIn = 8,
    /// Off the CPU, ready to run: others had it.
    Runnable = 9,
    /// Off the CPU, waiting for something that no other cause names.
    Blocked = 10,
    /// Go: marking for the collector, in return for memory.
    GcAssist = 11,
    /// Go: starting a collection, which the goroutine does whose allocation is due.
    GcStart = 12,
    /// Go: the world being stopped.
    GcStop = 13,
    /// Go: asking the system for more heap.
    HeapGrow = 14,
    /// Go: sweeping in return for pages.
    Sweep = 15,
}

named!(Cause {
    Other => "other", Alloc => "alloc", PageFault => "page_fault", Zeroing => "zeroing",
    Reclaim => "reclaim", MemcgReclaim => "memcg_reclaim", Compaction => "compaction",
    MmapLock => "mmap_lock", SwapIn => "swap_in", Runnable => "runnable", Blocked => "blocked",
    GcAssist => "gc_assist", GcStart => "gc_start", GcStop => "gc_stop", HeapGrow => "heap_grow",
    Sweep => "sweep",
});

/// Number of [`Cause`] values; a power of two, so that an index can be masked.
pub const CAUSES: usize = 16;

const _: () = assert!(Cause::ALL.len() == CAUSES);
const _: () = assert!(CAUSES.is_power_of_two());
