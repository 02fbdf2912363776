//! Values of the kernel maps: what is counted, and a name for everything that can be lost.

use crate::cause::{CAUSES, Cause};
use crate::key::named;
use core::fmt;

/// Totals of one series.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events.
    pub count: u64,
    /// Bytes asked for (call), released (release) or made real by the released range's faults (touch); 0 for faults.
    pub bytes: u64,
    /// Nanoseconds, summed.
    pub time_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// A kind of probe, as its price is told: what one hit costs the traced process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeClass {
    /// A uprobe on an instruction that the kernel emulates.
    UprobeEmulated = 0,
    /// A uprobe on an instruction that the kernel single-steps.
    UprobeStepped = 1,
    /// A memory system call: its enter and exit tracepoints together.
    Syscall = 2,
    /// A page fault: its start and its end together.
    PageFault = 3,
    /// The return side of a probed native function: the kernel's trampoline.
    UprobeReturn = 4,
    /// A uprobe on an instruction that the kernel makes a call of.
    UprobeCalled = 5,
}

named!(ProbeClass {
    UprobeEmulated => "uprobe_emulated", UprobeStepped => "uprobe_stepped", Syscall => "syscall",
    PageFault => "page_fault", UprobeReturn => "uprobe_return",
    UprobeCalled => "uprobe_called",
});

/// Number of [`ProbeClass`] values.
pub const PROBE_CLASSES: usize = 6;

/// What is counted for each process beside its series.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Probe hits by [`ProbeClass`]. The kernel side leaves page faults out, whose number is in their series; small
    /// calls of an allocator's function are counted 64 at once.
    pub hits: [u64; PROBE_CLASSES],
    /// Faults whose start was not seen (minor, major): counted in the series without a duration.
    pub untimed_faults: [u64; 2],
    /// Ranges filed as live; not one that takes the place of an object with the same addresses.
    pub ranges_filed: u64,
    /// Ranges released, replaced or given up.
    pub ranges_ended: u64,
    /// Releases of a part of a range.
    pub partial_releases: u64,
    /// Nanoseconds spent in them.
    pub partial_release_ns: u64,
    /// Nanoseconds in large allocations' calls, releases and page faults, by [`crate::cause::Cause`].
    /// `page_fault` is here only what faults inside of calls had of it: see [`Self::causes_ns`].
    pub stall_ns: [u64; CAUSES],
    /// Time of calls and releases that are in `stall_ns`: each once, not those inside of another.
    pub call_window_ns: u64,
    /// Time of page faults inside of them, which is in it.
    pub fault_in_call_ns: u64,
    /// What other page faults spent on causes other than `page_fault`, in `stall_ns` as well.
    pub fault_causes_ns: u64,
    /// Native calls whose result no allocator returns: the probed function may be another one.
    pub odd_results: u64,
}

impl ProcessCounters {
    /// Time by cause of all windows, given that of all page faults: the kernel side writes nothing for a fault
    /// that only was one, so `page_fault` is what remains of them.
    pub fn causes_ns(&self, faults_ns: u64) -> [u64; CAUSES] {
        let mut causes_ns = self.stall_ns;
        let elsewhere_ns = self.fault_in_call_ns.saturating_add(self.fault_causes_ns);
        let plain_ns = &mut causes_ns[Cause::PageFault as usize];
        *plain_ns = plain_ns.saturating_add(faults_ns.saturating_sub(elsewhere_ns));
        causes_ns
    }

    /// Time of all windows, given that of all page faults, each nanosecond once: what the causes sum to.
    pub fn windows_ns(&self, faults_ns: u64) -> u64 {
        self.call_window_ns.saturating_add(faults_ns).saturating_sub(self.fault_in_call_ns)
    }
}

/// Everything the kernel side can lose. Each reason has a counter that reaches metrics and reports.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossReason {
    /// An open call's slot was taken by another thread or goroutine before it was closed.
    CallOverwritten = 0,
    /// A probe at an exit found no open call: it began before tracing did, or its slot was taken.
    ExitUnmatched = 1,
    /// The result of an allocation, or the weight of a sample, could not be read: it is counted, its range is not filed
    /// and its bytes are not told.
    ResultUnreadable = 2,
    /// The map of series is full.
    SeriesFull = 3,
    /// The map of histogram buckets is full: the event is in the totals, not in the histogram.
    BucketsFull = 4,
    /// The map of live ranges is full: faults in the range count as other.
    RangesFull = 5,
    /// A live range of 16 TiB or more, or shorter than a page: not filed.
    RangeNotFiled = 6,
    /// A filed range overlapped a new one and was given up: its release was not seen.
    RangeReplaced = 7,
    /// An unmapping cut a hole into a live range: the upper part is no longer attributed.
    RangeSplit = 8,
    /// A call unmapped more ranges than one event follows (four).
    UnmapTooMany = 9,
    /// A page fault's start slot was taken by another thread: not timed, and not counted where its end tells no address.
    FaultOverwritten = 10,
    /// The ring of process events was full.
    EventRingFull = 11,
    /// No slot was left for a new process.
    SlotsExhausted = 12,
    /// A `munmap` failed after its range had been taken for released.
    UnmapFailed = 13,
    /// A call unmapped several ranges: it is one release, of the first; the touches of this many others are
    /// not told.
    UnmapJoined = 14,
    /// A call never ended: a panic, `Goexit` or `longjmp` unwound it, or its end was not seen. It is not counted.
    CallAbandoned = 15,
    /// The place of a live object in the table of objects was taken by another one: faults in it count as other.
    ObjectDisplaced = 16,
    /// The place of a window was another thread's: its time is told, not what it went to.
    WindowTaken = 17,
    /// More phases were open in a window than there is room for: what began last counts with the one around it.
    PhasesTooDeep = 18,
    /// The causes of a window summed to more than its time: all of it is told as `other`.
    SplitUneven = 19,
    /// The ring of single allocations was full: a call's stack, or what its memory cost, is not told.
    AllocationRingFull = 20,
    /// A slow allocation came when a CPU had told as many as it may in a moment: it is counted, not listed.
    SlowUntold = 21,
    /// The kernel did not run the program at an end of a system call, because the same one was interrupted on that CPU (a
    /// fully preemptible kernel): the call is not counted.
    ProgramSkipped = 22,
    /// A native call began between its process' exec and the look at what that runs, when it is not known whether a return
    /// probe could hurt it: it is not counted.
    CallTooEarly = 23,
}

named!(LossReason {
    CallOverwritten => "call_overwritten", ExitUnmatched => "exit_unmatched",
    ResultUnreadable => "result_unreadable", SeriesFull => "series_full",
    BucketsFull => "buckets_full", RangesFull => "ranges_full",
    RangeNotFiled => "range_not_filed", RangeReplaced => "range_replaced",
    RangeSplit => "range_split", UnmapTooMany => "unmap_too_many",
    FaultOverwritten => "fault_overwritten", EventRingFull => "event_ring_full",
    SlotsExhausted => "slots_exhausted",
    UnmapFailed => "unmap_failed", UnmapJoined => "unmap_joined",
    CallAbandoned => "call_abandoned",
    ObjectDisplaced => "object_displaced",
    WindowTaken => "window_taken", PhasesTooDeep => "phases_too_deep", SplitUneven => "split_uneven",
    AllocationRingFull => "allocation_ring_full", SlowUntold => "slow_untold",
    ProgramSkipped => "program_skipped", CallTooEarly => "call_too_early",
});

/// Number of [`LossReason`] values.
pub const LOSS_REASONS: usize = 24;

/// A live large range: what a mapping's call returned and has not been released.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveRange {
    /// One past its last address.
    pub end: u64,
    /// Bytes that were asked for.
    pub size: u64,
    /// Time of its page faults so far, in nanoseconds.
    pub touch_ns: u64,
    /// Its page faults so far.
    pub faults: u32,
    /// Pages of 4 KiB that they made real, beyond one for each.
    pub more_pages: u32,
    /// When it was filed, in nanoseconds.
    pub filed_ns: u64,
    /// [`crate::key::Allocator`] as a number, in the lowest byte; above it [`crate::allocation::MARKED`] and
    /// [`crate::touch::hugetlb_word`].
    pub allocator: u64,
}

const _: () = assert!(size_of::<Totals>() == 32);
const _: () = assert!(size_of::<ProcessCounters>() == 256);
const _: () = assert!(size_of::<LiveRange>() == 48);
const _: () = assert!(ProbeClass::ALL.len() == PROBE_CLASSES);
const _: () = assert!(LossReason::ALL.len() == LOSS_REASONS);
