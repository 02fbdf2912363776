//! Page faults: begun at the exception's tracepoint, ended where the kernel accounts them.
//!
//! The start is `exceptions:page_fault_user` and `page_fault_kernel` (a system call that touches user
//! memory). The end is the software event PAGE_FAULTS_MIN or PAGE_FAULTS_MAJ with period 1, which fires
//! at the end of `handle_mm_fault`: it tells minor from major and carries the address. What lies
//! outside the pair is the exception's entry and exit and what the programs do after reading the clock: some
//! third of a traced 4 KiB fault in a virtual machine (tests/truth.rs measures it), little of a 2 MiB one.

use crate::atomic::{add, increment};
use crate::filter::Traced;
use crate::inflight::{FaultStart, close_fault, open_fault};
use crate::record::{counters, hit, record, total};
use crate::touch::{Touched, count_pages};
use crate::{objects, ranges};
use allocscope_common::counter::ProbeClass;
use allocscope_common::key::{Allocator, FaultKind, FaultScope, SeriesKey};
use allocscope_common::range::Span;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, perf_event, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, PerfEventContext, RawTracePointContext, TracePointContext};

/// `trace_page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code)`
#[btf_tracepoint(function = "page_fault_user")]
fn fault_user_btf(_ctx: BtfTracePointContext) -> i32 {
    begin()
}

/// `trace_page_fault_kernel(unsigned long address, struct pt_regs *regs, unsigned long error_code)`
#[btf_tracepoint(function = "page_fault_kernel")]
fn fault_kernel_btf(_ctx: BtfTracePointContext) -> i32 {
    begin()
}

/// The same, where typed tracepoints do not load.
#[raw_tracepoint]
fn fault_raw(_ctx: RawTracePointContext) -> i32 {
    begin()
}

/// The same, where raw tracepoints do not load either.
#[tracepoint]
fn fault_perf(_ctx: TracePointContext) -> u32 {
    begin() as u32
}

#[inline(always)]
fn begin() -> i32 {
    if let Some(traced) = Traced::current() {
        // SAFETY: a helper without arguments.
        let start_ns = unsafe { bpf_ktime_get_ns() };
        open_fault(FaultStart { tag: traced.pid_tgid, start_ns });
    }
    0
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
    let traced = Traced::current()?;
    // SAFETY: the verifier allows reading the fields of the program's context.
    let address = unsafe { (*ctx.ctx).addr };
    let start_ns = close_fault(traced.pid_tgid);
    hit(traced.slot, ProbeClass::PageFault);
    // SAFETY: a helper without arguments.
    let ns = start_ns.map(|start_ns| unsafe { bpf_ktime_get_ns() }.saturating_sub(start_ns));
    let scope = attribute(ctx, &traced, address, ns.unwrap_or(0));
    let key = SeriesKey::fault(traced.slot, kind, scope);
    match ns {
        Some(ns) => record(key, ns, 0),
        None => untimed(&traced, key, kind),
    }
    Some(0)
}

#[inline(always)]
fn untimed(traced: &Traced, key: SeriesKey, kind: FaultKind) {
    total(key, 0, 0);
    if let Some(counters) = counters(traced.slot) {
        // SAFETY: a checked map value; the index is below the array's length by its type.
        unsafe { add(&raw mut (*counters).untimed_faults[kind as usize], 1) };
    }
}

/// Adds a fault to the object that holds its address, or else to the live range.
#[inline(always)]
fn attribute(ctx: &PerfEventContext, traced: &Traced, address: u64, ns: u64) -> FaultScope {
    let Some(image) = traced.image() else { return FaultScope::Other };
    if let Some(object) = objects::find_newest(&image, address) {
        // SAFETY: a checked map value.
        unsafe {
            increment(&raw mut (*object).faults);
            add(&raw mut (*object).touch_ns, ns);
            let (span, filed_ns) = ((*object).span(), (*object).filed_ns);
            let more_pages = &raw mut (*object).more_pages;
            count_pages(ctx, address, Touched { span, filed_ns, more_pages });
        }
        return FaultScope::Large;
    }
    let Some((start, range)) = ranges::find(&image, address) else {
        return FaultScope::Other;
    };
    // SAFETY: a checked map value.
    let allocator = unsafe {
        increment(&raw mut (*range).faults);
        add(&raw mut (*range).touch_ns, ns);
        let (span, filed_ns) = (Span { start, end: (*range).end }, (*range).filed_ns);
        let more_pages = &raw mut (*range).more_pages;
        count_pages(ctx, address, Touched { span, filed_ns, more_pages });
        (*range).allocator
    };
    // A thread's stack, reserved addresses (an allocator's own heap) and files are no large allocations.
    if allocator == Allocator::Stack as u64
        || allocator == Allocator::Reserve as u64
        || allocator == Allocator::File as u64
    {
        FaultScope::Other
    } else {
        FaultScope::Large
    }
}
