//! Memory system calls: `mmap`, `munmap`, `mremap`, `madvise`, `brk`, by both ends of the kernel's functions for them,
//! or by their enter and exit tracepoints.

use crate::atomic::add;
use crate::filter::{Traced, is_large};
use crate::inflight::{
    CALL_ARGS, LastCall, RELEASED, SystemCall, close_system_call, in_free_call, in_native_call, keep_last,
    open_system_call,
};
use crate::maps::HUGETLB_SHIFT;
use crate::objects;
use crate::probes::process::report;
use crate::probes::system_call::{Arguments, Outcome};
use crate::ranges::{self, Unmapped};
use crate::record::{self, counters, hit, lost, lost_many, record_touch};
use crate::slow;
use crate::window::{self, ClosedCall, Owner};
use allocscope_common::config::OWN_HEAP;
use allocscope_common::counter::{LiveRange, LossReason, ProbeClass};
use allocscope_common::event::ProcessEventKind;
use allocscope_common::key::{Allocator, SeriesKey, Stage, size_class};
use allocscope_common::range::Span;
use allocscope_common::touch::{PAGE_SHIFT, hugetlb_word, touched_bytes};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{fentry, fexit, tracepoint};
use aya_ebpf::programs::{FEntryContext, FExitContext, TracePointContext};

/// The last 4095 values are errors (linux/err.h, MAX_ERRNO).
const LAST_ADDRESS: u64 = u64::MAX - 4095;
const PAGE_MASK: u64 = 4095;

// include/uapi/asm-generic/mman-common.h and mman.h, the values of x86-64 and arm64.
const PROT_NONE: u64 = 0;
const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
/// MAP_LOCKED and MAP_POPULATE: all pages are made real by the call, without a page fault.
const MAP_REAL: u64 = 0x2000 | 0x8000;
const MAP_STACK: u64 = 0x20000;
const MADV_DONTNEED: u64 = 4;
const MADV_FREE: u64 = 8;
const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;

/// The current thread, whose process is traced; the call is counted as a hit.
#[inline(always)]
fn enter() -> Option<Traced> {
    let traced = Traced::current()?;
    hit(traced.slot, ProbeClass::Syscall);
    Some(traced)
}

/// Remembers the call. The clock is read last, so that the time measured is the call's.
#[inline(always)]
fn open(traced: &Traced, args: [u64; CALL_ARGS]) -> Option<u32> {
    // SAFETY: a helper without arguments.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    open_system_call(SystemCall { tag: traced.pid_tgid, start_ns, args });
    window::open_call(traced.pid_tgid, start_ns, Owner::System);
    None
}

/// A call that has ended.
struct Ended {
    traced: Traced,
    call: SystemCall,
    ns: u64,
    window: ClosedCall,
}

/// The call that ends here.
#[inline(always)]
fn close() -> Option<Ended> {
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let traced = Traced::current()?;
    let call = close_system_call(traced.pid_tgid)?;
    let window = window::close_call(traced.pid_tgid, call.start_ns, now_ns);
    Some(Ended { traced, call, ns: now_ns.saturating_sub(call.start_ns), window })
}

impl Ended {
    /// Records it, and what its time went to.
    #[inline(always)]
    fn record(&self, key: SeriesKey, bytes: u64) {
        record::record(key, self.ns, bytes);
        self.window.count(self.traced.slot);
    }

    /// Tells the call of a program that manages its memory by itself; a runtime's is part of its own allocations.
    /// Returns the mark of what it is filed as.
    #[inline(always)]
    fn tell(&self, allocator: Allocator, size: u64) -> u64 {
        if !slow::is_on() || self.traced.has(OWN_HEAP) {
            return 0;
        }
        let (slot, allocator, ns) = (self.traced.slot, allocator as u8, self.ns);
        let at_ns = self.call.start_ns + ns;
        let call = slow::Call { slot, allocator, size, at_ns, ns, filed_ns: at_ns, goid_at: 0 };
        slow::system_call(&call, self.window)
    }
}

#[inline(always)]
fn page_end(start: u64, len: u64) -> u64 {
    start.wrapping_add(len.wrapping_add(PAGE_MASK) & !PAGE_MASK)
}

#[inline(always)]
fn stage(traced: &Traced, allocator: Allocator, stage: Stage, bytes: u64) -> SeriesKey {
    SeriesKey::stage(traced.slot, allocator, stage, size_class(bytes))
}

/// `mmap(addr, len, prot, flags, fd, off)`
#[fentry]
fn mmap_fentry(ctx: FEntryContext) -> u32 {
    try_mmap_enter(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn mmap_enter(ctx: TracePointContext) -> u32 {
    try_mmap_enter(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_mmap_enter(asked: &impl Arguments) -> Option<u32> {
    let traced = enter()?;
    let (len, prot, flags) = (asked.argument(1)?, asked.argument(2)?, asked.argument(3)?);
    // Inside of an allocator's call it is how that call gets its memory, and not another allocation.
    if !is_large(len) || in_native_call(traced.pid_tgid) {
        return None;
    }
    open(&traced, [len, prot, flags, 0, 0, 0, 0])
}

/// The end of `mmap`: the address, or an error.
#[fexit]
fn mmap_fexit(ctx: FExitContext) -> u32 {
    try_mmap_exit(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn mmap_exit(ctx: TracePointContext) -> u32 {
    try_mmap_exit(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_mmap_exit(done: &impl Outcome) -> Option<u32> {
    let ended = close()?;
    let Ended { traced, call, ns, .. } = ended;
    let start = done.result()?;
    let [len, prot, flags, ..] = call.args;
    if start > LAST_ADDRESS {
        return None;
    }
    let allocator = if flags & MAP_ANONYMOUS == 0 {
        Allocator::File
    } else if flags & MAP_STACK != 0 {
        Allocator::Stack
    } else if prot == PROT_NONE {
        Allocator::Reserve
    } else {
        Allocator::Mmap
    };
    if allocator as u64 == Allocator::File as u64 && prot & PROT_EXEC != 0 {
        report(ProcessEventKind::Map, traced.tgid(), 0, traced.slot);
    }
    let is_memory = allocator as u64 != Allocator::File as u64;
    if is_memory {
        ended.record(stage(&traced, allocator, Stage::Call, len), len);
    }
    let filed_ns = call.start_ns + ns;
    keep_last(LastCall { tag: traced.pid_tgid, filed_ns, ns });
    let mark = if allocator as u64 == Allocator::Mmap as u64 { ended.tell(allocator, len) } else { 0 };
    // A runtime's mappings are its heap, which holds the ranges of its objects.
    if !is_memory || !traced.has(OWN_HEAP) {
        let end = page_end(start, len);
        let more_pages =
            if flags & MAP_REAL == 0 { 0 } else { (end.wrapping_sub(start) >> PAGE_SHIFT) as u32 };
        let hugetlb = if is_memory { hugetlb_word(flags, HUGETLB_SHIFT.load()) } else { 0 };
        let allocator = allocator as u64 | mark | hugetlb;
        ranges::file(
            &traced.image()?,
            start,
            LiveRange { end, size: len, filed_ns, allocator, more_pages, ..LiveRange::default() },
        );
    }
    None
}

/// `munmap(addr, len)`
#[fentry]
fn munmap_fentry(ctx: FEntryContext) -> u32 {
    try_munmap_enter(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn munmap_enter(ctx: TracePointContext) -> u32 {
    try_munmap_enter(&ctx).unwrap_or(0)
}

/// What an unmapping did to live ranges, as its exit needs it: nothing, cut some, or ended at least one.
const NOTHING: u64 = 0;
const CUT: u64 = 1;
const ENDED: u64 = 2;

/// Takes the ranges out before the kernel unmaps them: as soon as it has, another thread may be given
/// the same addresses, and would lose its range to this call's exit.
#[inline(always)]
fn try_munmap_enter(asked: &impl Arguments) -> Option<u32> {
    // Of any size: a small unmapping may cut a large range.
    let traced = enter()?;
    let (start, len) = (asked.argument(0)?, asked.argument(1)?);
    let image = traced.image()?;
    let mut unmapped = ranges::unmap(&image, start, page_end(start, len));
    if unmapped.whole + unmapped.cut == 0 {
        unmapped.first = objects::unmap(&image, start, page_end(start, len));
    }
    if unmapped.whole > 1 {
        lost_many(LossReason::UnmapJoined, u64::from(unmapped.whole - 1));
    }
    let (outcome, range) = outcome(&unmapped);
    if outcome == ENDED && range.allocator != Allocator::File as u64 {
        let class = size_class(range.size);
        let touch = SeriesKey::stage_numbered(traced.slot, range.allocator as u8, Stage::Touch, class);
        record_touch(touch, range.faults, range.touch_ns, touched_bytes(range.faults, range.more_pages));
        let cost = (range.touch_ns, u64::from(range.faults));
        slow::touched(traced.slot, range.allocator, range.size, range.filed_ns, cost);
    }
    open(&traced, [len, outcome, range.size, range.allocator, range.filed_ns, 0, 0])
}

#[inline(always)]
fn outcome(unmapped: &Unmapped) -> (u64, LiveRange) {
    let none = LiveRange::default();
    match unmapped.first {
        Some(range) => (ENDED, range),
        None if unmapped.cut > 0 => (CUT, none),
        None => (NOTHING, none),
    }
}

/// The end of `munmap`: 0, or an error.
#[fexit]
fn munmap_fexit(ctx: FExitContext) -> u32 {
    try_munmap_exit(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn munmap_exit(ctx: TracePointContext) -> u32 {
    try_munmap_exit(&ctx).unwrap_or(0)
}

/// Records the release. A call that ended a range is that range's release; one that only cut ranges is
/// a partial release; a large one that met no range released memory mapped before tracing began, or a
/// runtime's own heap.
#[inline(always)]
fn try_munmap_exit(done: &impl Outcome) -> Option<u32> {
    let ended = close()?;
    let Ended { traced, call, ns, .. } = ended;
    let [len, outcome, size, allocator, filed_ns, ..] = call.args;
    if done.result()? != 0 {
        if outcome != NOTHING {
            lost(LossReason::UnmapFailed);
        }
        return None;
    }
    if outcome == ENDED && allocator == Allocator::File as u64 {
        return None;
    }
    if outcome == ENDED {
        let class = size_class(size);
        ended.record(SeriesKey::stage_numbered(traced.slot, allocator as u8, Stage::Release, class), len);
        if allocator as u8 == Allocator::Pool as u8 {
            keep_last(LastCall { tag: traced.pid_tgid, filed_ns: RELEASED, ns });
        }
        slow::released(traced.slot, allocator, size, filed_ns, ns, ended.window);
    } else if outcome == CUT {
        let counters = counters(traced.slot)?;
        // SAFETY: a checked map value.
        unsafe {
            add(&raw mut (*counters).partial_releases, 1);
            add(&raw mut (*counters).partial_release_ns, ns);
        }
    } else if is_large(len) && !in_native_call(traced.pid_tgid) {
        // Not what an allocator trims off a mapping that it has just made.
        ended.record(stage(&traced, Allocator::Mmap, Stage::Release, len), len);
    }
    None
}

/// `mremap(old_addr, old_len, new_len, flags, new_addr)`
#[fentry]
fn mremap_fentry(ctx: FEntryContext) -> u32 {
    try_mremap_enter(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn mremap_enter(ctx: TracePointContext) -> u32 {
    try_mremap_enter(&ctx).unwrap_or(0)
}

/// Takes the range out before the kernel moves it, as for `munmap`, and keeps what its exit files anew.
#[inline(always)]
fn try_mremap_enter(asked: &impl Arguments) -> Option<u32> {
    let traced = enter()?;
    let (start, old_len, new_len) = (asked.argument(0)?, asked.argument(1)?, asked.argument(2)?);
    if !is_large(old_len) && !is_large(new_len) {
        return None;
    }
    let mut kept = LiveRange::default();
    let image = traced.image()?;
    if let Some((range_start, range)) = ranges::find(&image, start) {
        // SAFETY: a checked map value; copied, because the entry is about to go.
        let range = unsafe { *range };
        // A part of a larger range that moves away leaves it as it is: rare, and its pages are gone.
        if range_start == start && range.end == page_end(start, old_len) {
            kept = ranges::end(&image, range_start, range);
        }
    }
    let pages = u64::from(kept.more_pages) << 32 | u64::from(kept.faults);
    open(&traced, [start, old_len, new_len, kept.touch_ns, pages, kept.allocator, kept.filed_ns])
}

/// The end of `mremap`: the new address, or an error.
#[fexit]
fn mremap_fexit(ctx: FExitContext) -> u32 {
    try_mremap_exit(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn mremap_exit(ctx: TracePointContext) -> u32 {
    try_mremap_exit(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_mremap_exit(done: &impl Outcome) -> Option<u32> {
    let ended = close()?;
    let Ended { traced, call, ns, .. } = ended;
    let [old_start, old_len, new_len, touch_ns, pages, allocator, before_ns] = call.args;
    let new_start = done.result()?;
    let moved = new_start <= LAST_ADDRESS;
    // As for `mmap`: inside of an allocator's call it is part of it.
    if moved && is_large(new_len) && !in_native_call(traced.pid_tgid) {
        ended.record(stage(&traced, Allocator::Mremap, Stage::Call, new_len), new_len);
        // Its memory stays that of the call it came from, and so does the cost of touching and releasing it.
        ended.tell(Allocator::Mremap, new_len);
    }
    if allocator != 0 {
        let (start, size) = if moved { (new_start, new_len) } else { (old_start, old_len) };
        let filed_ns = call.start_ns + ns;
        let (end, faults, more_pages) = (page_end(start, size), pages as u32, (pages >> 32) as u32);
        let range = LiveRange { end, size, touch_ns, faults, more_pages, filed_ns, allocator };
        slow::moved(traced.slot, allocator, size, filed_ns, before_ns);
        ranges::file(&traced.image()?, start, range);
    }
    None
}

/// `madvise(start, len, behavior)`
#[fentry]
fn madvise_fentry(ctx: FEntryContext) -> u32 {
    try_madvise_enter(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn madvise_enter(ctx: TracePointContext) -> u32 {
    try_madvise_enter(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_madvise_enter(asked: &impl Arguments) -> Option<u32> {
    let traced = enter()?;
    let (start, len, behavior) = (asked.argument(0)?, asked.argument(1)?, asked.argument(2)? & 0xffff_ffff);
    let releases = behavior == MADV_DONTNEED || behavior == MADV_FREE;
    let populates = behavior == MADV_POPULATE_READ || behavior == MADV_POPULATE_WRITE;
    // Inside of an allocator's call or release it is part of that.
    let is_part = if releases { in_free_call(traced.pid_tgid) } else { in_native_call(traced.pid_tgid) };
    if !is_large(len) || !(releases || populates) || is_part {
        return None;
    }
    open(&traced, [len, start, populates.into(), 0, 0, 0, 0])
}

/// The end of `madvise`: 0, or an error.
#[fexit]
fn madvise_fexit(ctx: FExitContext) -> u32 {
    try_madvise_exit(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn madvise_exit(ctx: TracePointContext) -> u32 {
    try_madvise_exit(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_madvise_exit(done: &impl Outcome) -> Option<u32> {
    let ended = close()?;
    let Ended { traced, call, ns, .. } = ended;
    let [len, start, populates, ..] = call.args;
    if done.result()? != 0 {
        return None;
    }
    if populates == 0 {
        ended.record(stage(&traced, Allocator::Madvise, Stage::Release, len), len);
        return None;
    }
    // First touch by another name: no page fault tells of these pages.
    let (image, at) = (traced.image()?, Span { start, end: page_end(start, len) });
    if objects::populate(&image, at, ns).or_else(|| ranges::populate(&image, at, ns)).is_some() {
        ended.window.count(traced.slot);
    }
    None
}

/// `brk(brk)`
#[fentry]
fn brk_fentry(_ctx: FEntryContext) -> u32 {
    try_brk_enter().unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn brk_enter(_ctx: TracePointContext) -> u32 {
    try_brk_enter().unwrap_or(0)
}

#[inline(always)]
fn try_brk_enter() -> Option<u32> {
    let traced = enter()?;
    open(&traced, [0; CALL_ARGS])
}

/// The end of `brk`: the new program break, or the old one where it could not be moved.
#[fexit]
fn brk_fexit(ctx: FExitContext) -> u32 {
    try_brk_exit(&ctx).unwrap_or(0)
}

/// The same by tracepoint.
#[tracepoint]
fn brk_exit(ctx: TracePointContext) -> u32 {
    try_brk_exit(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_brk_exit(done: &impl Outcome) -> Option<u32> {
    let ended = close()?;
    let traced = ended.traced;
    let new = done.result()?;
    // SAFETY: a checked map value; the kernel serialises the brk calls of a process.
    let old = unsafe { core::ptr::replace(&raw mut (*traced.target).brk, new) };
    if old == 0 || old == new {
        return None;
    }
    let (stage_of_call, bytes) =
        if new > old { (Stage::Call, new - old) } else { (Stage::Release, old - new) };
    // As for `mmap`: growth inside of an allocator's call is part of it, and shrinking part of a release.
    let is_part = if new > old { in_native_call(traced.pid_tgid) } else { in_free_call(traced.pid_tgid) };
    if is_large(bytes) && !is_part {
        ended.record(stage(&traced, Allocator::Brk, stage_of_call, bytes), bytes);
        if new > old {
            ended.tell(Allocator::Brk, bytes);
        }
    }
    None
}
