//! Page faults: begun at the exception's tracepoint, ended where the kernel accounts them.
//!
//! The start is `exceptions:page_fault_user` and `page_fault_kernel` (a system call that touches user
//! memory). The end is at the end of `handle_mm_fault`, where the kernel counts the fault, and there are two ways to
//! see that:
//!
//! - `memcg:count_memcg_events` (kernel 6.15) with `PGFAULT`, the cheapest by far. It tells no address, which is kept
//!   from the start, and not minor from major: a software event, rare, corrects that. The same tracepoint tells of
//!   transparent huge pages of 2 MiB, and of no others. Faults without an exception
//!   (`mlock`, direct I/O) come by here too; they have no open fault.
//! - the software events PAGE_FAULTS_MIN and PAGE_FAULTS_MAJ with period 1. These leave out faults that fail.
//!
//! Where faults are only counted, that is done at the start, and so is one that fails or is tried again.
//!
//! What lies outside the pair is the exception's entry and exit and what the programs do after reading the clock:
//! some third of a traced 4 KiB fault in a virtual machine (tests/truth.rs measures it), little of a 2 MiB one.

use crate::atomic::add;
use crate::maps::{FAULT_TRIALS, MAJOR_FAULT_EVENT, PAGE_FAULT_EVENT, THP_FAULT_EVENT};
use crate::objects::{self, Fell};
use crate::page_size::page_bytes;
use crate::record::{counters, record, total, unrecord};
use crate::thread::{IN_OBJECT, INDEX, NOT_LARGE, Place, Thread};
use crate::touches::Faults;
use crate::{ranges, touches, window};
use allocscope_common::key::{FaultKind, FaultScope, SeriesKey};
use allocscope_common::range::Span;
use allocscope_common::touch::HUGE_SHIFT;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs};
use aya_ebpf::macros::{btf_tracepoint, perf_event, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, PerfEventContext, RawTracePointContext, TracePointContext};

/// Where the address is in the record of either tracepoint (`events/exceptions/*/format`).
const ADDRESS: usize = 8;

/// A fault that took longer is looked at again: it may be one that failed, long ago.
const LONG_NS: u64 = 4_000;

/// `trace_page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code)`
#[btf_tracepoint(function = "page_fault_user")]
fn fault_user_btf(ctx: BtfTracePointContext) -> i32 {
    begin(ctx.arg(0), true)
}

/// `trace_page_fault_kernel(unsigned long address, struct pt_regs *regs, unsigned long error_code)`
#[btf_tracepoint(function = "page_fault_kernel")]
fn fault_kernel_btf(ctx: BtfTracePointContext) -> i32 {
    begin(ctx.arg(0), false)
}

/// The same, where typed tracepoints do not load.
#[raw_tracepoint]
fn fault_raw(ctx: RawTracePointContext) -> i32 {
    begin(ctx.arg(0), false)
}

/// The same, where raw tracepoints do not load either.
#[tracepoint]
fn fault_perf(ctx: TracePointContext) -> u32 {
    // SAFETY: within the event's record, as its format file tells.
    unsafe { ctx.read_at::<u64>(ADDRESS) }.map_or(0, |address| begin(address, false)) as u32
}

#[inline(always)]
fn begin(address: u64, by_user: bool) -> i32 {
    if let Some(thread) = Thread::current() {
        thread.begin(address, by_user);
    }
    0
}

/// Where faults are counted and not timed: nothing more is done for one, so that it costs half.
#[btf_tracepoint(function = "page_fault_user")]
fn fault_user_count(ctx: BtfTracePointContext) -> i32 {
    count(ctx.arg(0))
}

/// The same in a system call.
#[btf_tracepoint(function = "page_fault_kernel")]
fn fault_kernel_count(ctx: BtfTracePointContext) -> i32 {
    count(ctx.arg(0))
}

#[inline(always)]
fn count(address: u64) -> i32 {
    if let Some(thread) = Thread::current() {
        let scope = attribute(&thread, address, Faults { count: 1, ns: 0, page_bytes: 0 });
        untimed(thread.image.slot, FaultKind::Minor, scope, 1);
    }
    0
}

/// `trace_count_memcg_events(struct mem_cgroup *memcg, int item, unsigned long val)`
#[btf_tracepoint(function = "count_memcg_events")]
fn fault_counted(ctx: BtfTracePointContext) -> i32 {
    let item = ctx.arg::<i32>(1);
    if item == PAGE_FAULT_EVENT.load() {
        try_counted();
    } else if item == THP_FAULT_EVENT.load()
        && let Some(thread) = Thread::open()
    {
        thread.turn_huge();
    } else if item == MAJOR_FAULT_EVENT.load()
        && let Some(thread) = Thread::open()
    {
        thread.turn_major();
    }
    0
}

#[inline(always)]
fn try_counted() -> Option<()> {
    let thread = Thread::open()?;
    let ns = thread.elapsed_ns();
    if ns > LONG_NS && thread.is_by_user() && is_in_system_call() {
        thread.abandon();
        return None;
    }
    let page_bytes = if thread.is_huge() { 1 << HUGE_SHIFT } else { 0 };
    end(&thread, FaultKind::Minor, ns, page_bytes);
    None
}

/// Whether the current thread entered the kernel by a system call. A fault of the program itself that is open then
/// ended without being counted (the thread got a signal), and what is counted now is another one.
#[inline(always)]
fn is_in_system_call() -> bool {
    // SAFETY: the verifier knows what both helpers return, and that it may be read.
    let call = unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs;
        (*regs).orig_rax
    };
    // An exception stores -1 (arch/x86/entry/entry_64.S, `idtentry_body`).
    call as i64 >= 0
}

/// The same, to see whether this kernel calls it: it can be built without memory cgroups, or started without them.
#[btf_tracepoint(function = "count_memcg_events")]
fn fault_trial(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<i32>(1) == PAGE_FAULT_EVENT.load()
        && let Some(count) = FAULT_TRIALS.get_ptr_mut(0)
    {
        // SAFETY: a checked map value.
        unsafe { add(count, 1) };
    }
    0
}

/// PERF_COUNT_SW_PAGE_FAULTS_MAJ, where the fault has been counted already, as a minor one.
#[perf_event]
fn fault_turned_major(ctx: PerfEventContext) -> u32 {
    try_turn_major(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_turn_major(ctx: &PerfEventContext) -> Option<u32> {
    // SAFETY: the verifier allows reading the fields of the program's context.
    let address = unsafe { (*ctx.ctx).addr };
    let thread = Thread::current()?;
    let scope = attribute(&thread, address, Faults { count: 0, ns: 0, page_bytes: 0 });
    let (slot, ns) = (thread.image.slot, thread.last_ns());
    if ns == 0 {
        // Counted only: no fault takes no time.
        untimed(slot, FaultKind::Minor, scope, 1u64.wrapping_neg());
        untimed(slot, FaultKind::Major, scope, 1);
    } else {
        unrecord(SeriesKey::fault(slot, FaultKind::Minor, scope), ns, 0);
        record(SeriesKey::fault(slot, FaultKind::Major, scope), ns, 0);
    }
    None
}

/// PERF_COUNT_SW_PAGE_FAULTS_MIN
#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> u32 {
    try_end(&ctx, FaultKind::Minor).unwrap_or(0)
}

/// PERF_COUNT_SW_PAGE_FAULTS_MAJ
#[perf_event]
fn fault_major(ctx: PerfEventContext) -> u32 {
    try_end(&ctx, FaultKind::Major).unwrap_or(0)
}

#[inline(always)]
fn try_end(ctx: &PerfEventContext, kind: FaultKind) -> Option<u32> {
    let thread = Thread::current()?;
    // SAFETY: the verifier allows reading the fields of the program's context.
    let address = unsafe { (*ctx.ctx).addr };
    let page_bytes = page_bytes(ctx, &thread.image, address);
    if thread.is_open() {
        end(&thread, kind, thread.elapsed_ns(), page_bytes);
        return None;
    }
    let scope = attribute(&thread, address, Faults { count: 1, ns: 0, page_bytes });
    untimed(thread.image.slot, kind, scope, 1);
    None
}

/// Counts faults without a duration.
#[inline(always)]
fn untimed(slot: u32, kind: FaultKind, scope: FaultScope, faults: u64) {
    total(SeriesKey::fault(slot, kind, scope), faults, 0);
    if let Some(counters) = counters(slot) {
        // SAFETY: a checked map value; the index is below the array's length by its type.
        unsafe { add(&raw mut (*counters).untimed_faults[kind as usize], faults) };
    }
}

/// The end of the open fault, which took `ns` and was served with a page of that size.
#[inline(always)]
fn end(thread: &Thread, kind: FaultKind, ns: u64, page_bytes: u64) {
    let start_ns = thread.start_ns();
    let is_major = kind as u8 == FaultKind::Major as u8 || thread.is_major();
    let address = thread.close(ns);
    let scope = attribute(thread, address, Faults { count: 1, ns, page_bytes });
    // Of a mapping of a file it would be the file that was read.
    let is_large = scope as u8 == FaultScope::Large as u8;
    let touched = if is_large { address } else { 0 };
    window::end_fault(thread.pid_tgid, thread.image.slot, start_ns, ns, is_major && is_large, touched);
    record(SeriesKey::fault(thread.image.slot, kind, scope), ns, 0);
}

/// Adds faults to the object that holds their address, or else to the live range.
#[inline(always)]
fn attribute(thread: &Thread, address: u64, faults: Faults) -> FaultScope {
    if let Some(index) = add_where_the_last_fell(thread, address, faults) {
        return scope_of(index);
    }
    let image = &thread.image;
    // Read before the search, so that what is filed or ended meanwhile makes the place stale.
    // SAFETY: a checked map value.
    let (range_generation, object_filed_ns) =
        unsafe { ((*image.filed).range_generation, (*image.filed).object_filed_ns) };
    let Fell { into, span } = objects::add_faults(image, address, faults);
    let (index, span) = if into != 0 {
        (into, span)
    } else {
        let Some((range, index)) = ranges::add_faults(image, address, faults) else {
            return FaultScope::Other;
        };
        // Of a range the part that is known to hold no object.
        (index, Span { start: span.start.max(range.start), end: span.end.min(range.end) })
    };
    // SAFETY: a checked map value; only this thread or one with the same slot writes it.
    unsafe { (*thread.kept).place = Place { span, range_generation, index, object_filed_ns } };
    scope_of(index)
}

/// Not for a huge page, of which it matters where the range or object begins and ends.
#[inline(always)]
fn add_where_the_last_fell(thread: &Thread, address: u64, faults: Faults) -> Option<u32> {
    let image = &thread.image;
    // SAFETY: checked map values.
    let (place, range_generation, object_filed_ns) =
        unsafe { ((*thread.kept).place, (*image.filed).range_generation, (*image.filed).object_filed_ns) };
    let is_good = place.range_generation == range_generation && place.object_filed_ns == object_filed_ns;
    if !is_good || faults.page_bytes != 0 || !place.span.holds(address) {
        return None;
    }
    let index = place.index & INDEX;
    if place.index & IN_OBJECT != 0 {
        objects::add_faults_at(index, image.home(), address, faults)?;
    } else {
        touches::add_faults_at(index, image.space(), address, faults)?;
    }
    Some(place.index)
}

#[inline(always)]
fn scope_of(index: u32) -> FaultScope {
    if index & NOT_LARGE == 0 { FaultScope::Large } else { FaultScope::Other }
}
