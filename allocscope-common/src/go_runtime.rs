//! What Go's runtime does beside a large allocation's call: its events, its assists, the stops of its world.

use crate::go_call::GoCallTag;
use crate::key::named;
use core::fmt;

/// What is counted of Go's runtime (`--go-runtime`). Each is a series of its process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuntimeEvent {
    /// The world stopped for the collector, timed.
    StopGc = 0,
    /// The world stopped for something else (`ReadMemStats`, `GOMAXPROCS`), timed.
    StopOther = 1,
    /// The world stopped, timed; before Go 1.21 the runtime does not tell for what.
    StopUnknown = 2,
    /// A goroutine marking in return for memory, timed.
    Assist = 3,
    /// A collection that came to the end of its marking.
    Cycle = 4,
    /// Memory given back to the system: bytes.
    Scavenge = 5,
    /// `sync.Pool.Get` that found nothing on its own processor.
    PoolSlowGet = 6,
    /// `sync.Pool.Get` that called `New`.
    PoolNew = 7,
    /// All pools cleaned, once a collection: bytes are the pools that had something.
    PoolCleanup = 8,
    /// `sync.Pool.Get`, in sampled windows only.
    SampledGet = 9,
    /// [`Self::PoolSlowGet`] in sampled windows.
    SampledSlowGet = 10,
    /// [`Self::PoolNew`] in sampled windows.
    SampledNew = 11,
}

named!(RuntimeEvent {
    StopGc => "stop_gc", StopOther => "stop_other", StopUnknown => "stop_unknown", Assist => "assist",
    Cycle => "cycle", Scavenge => "scavenge", PoolSlowGet => "pool_slow_get", PoolNew => "pool_new",
    PoolCleanup => "pool_cleanup", SampledGet => "sampled_get", SampledSlowGet => "sampled_slow_get",
    SampledNew => "sampled_new",
});

/// A goroutine that pays for an allocation by marking, before the allocation's own call begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoAssist {
    /// The goroutine, and the stack in use at the entry of its `mallocgc`.
    pub tag: GoCallTag,
    /// Bytes asked for, as that function keeps them.
    pub size: u64,
    /// When it began.
    pub start_ns: u64,
    /// [`GoStop::total_ns`] then.
    pub stopped_ns: u64,
    /// For how long it waited for the world to stop.
    pub wait_ns: u64,
    /// When it ended; 0 while it lasts, and where ends are not seen.
    pub ended_ns: u64,
}

/// The stops of a process' world.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoStop {
    /// When it was told to stop; 0 where it runs.
    pub begin_ns: u64,
    /// Since when nothing runs; 0 where something does.
    pub stopped_at_ns: u64,
    /// For how long nothing ran, in total.
    pub total_ns: u64,
    /// [`RuntimeEvent`] of the stop under way.
    pub event: u64,
    /// Whether it lasts until all that it takes to let the world run again is done: see [`is_late`].
    pub is_late: u64,
}

impl GoStop {
    /// For how long nothing ran until `now_ns`.
    #[inline(always)]
    pub const fn until(&self, now_ns: u64) -> u64 {
        let under_way = if self.stopped_at_ns == 0 { 0 } else { now_ns.saturating_sub(self.stopped_at_ns) };
        self.total_ns.wrapping_add(under_way)
    }
}

/// What a stop is for, by the runtime's `stwReason` (proc.go: 1 and 2 are the collector's, `isGC`).
#[inline(always)]
pub const fn stop_event(reason: u64) -> RuntimeEvent {
    if reason & 0xff == 1 || reason & 0xff == 2 { RuntimeEvent::StopGc } else { RuntimeEvent::StopOther }
}

/// Whether the runtime itself takes a stop's end behind the restart, and not before it: so it does for the start of a
/// collection (mgc.go: `gcStart` takes the time from `startTheWorldWithSema`, `gcMarkTermination` gives it its own).
#[inline(always)]
pub const fn is_late(reason: u64) -> bool {
    reason & 0xff == 2
}

/// Whether a conditional jump is taken with these flags. `code` is the low half of its opcode (Intel SDM vol. 2,
/// "EFLAGS condition codes").
#[inline(always)]
pub const fn is_taken(code: u64, flags: u64) -> bool {
    let carry = flags & 1;
    let parity = flags >> 2 & 1;
    let zero = flags >> 6 & 1;
    let sign = flags >> 7 & 1;
    let overflow = flags >> 11 & 1;
    let less = sign ^ overflow;
    // Bit n is the condition of codes 2n (as is) and 2n + 1 (negated).
    let conditions = overflow
        | carry << 1
        | zero << 2
        | (carry | zero) << 3
        | sign << 4
        | parity << 5
        | less << 6
        | (less | zero) << 7;
    (conditions >> (code >> 1 & 7) & 1) ^ (code & 1) == 1
}

const _: () = assert!(size_of::<GoAssist>() == 56);
const _: () = assert!(size_of::<GoStop>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_taken_as_the_processor_does() {
        // (opcode's low half, flags that take it, flags that do not): zero is 0x40, carry 1, sign 0x80, overflow 0x800.
        for (code, taken, other) in [
            (0x4, 0x40, 0),
            (0x5, 0, 0x40),
            (0x2, 1, 0),
            (0x7, 0, 1),
            (0x7, 0x80, 0x40),
            (0x8, 0x80, 0),
            (0xc, 0x80, 0x880),
            (0xd, 0x880, 0x80),
            (0xe, 0x40, 0),
            (0xf, 0, 0x800),
            (0x0, 0x800, 0),
            (0xa, 4, 0),
        ] {
            assert!(is_taken(code, taken) && !is_taken(code, other), "{code:x}");
        }
    }

    #[test]
    fn a_stop_under_way_counts() {
        let stop = GoStop { stopped_at_ns: 50, total_ns: 7, ..GoStop::default() };
        assert_eq!(stop.until(60), 17);
        assert_eq!(GoStop { stopped_at_ns: 0, ..stop }.until(60), 7);
    }

    #[test]
    fn the_collector_stops_for_two_reasons() {
        let events = [0, 1, 2, 3].map(stop_event);
        let (gc, other) = (RuntimeEvent::StopGc, RuntimeEvent::StopOther);
        assert_eq!(events, [other, gc, gc, other]);
    }
}
