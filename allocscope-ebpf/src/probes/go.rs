//! Go's large-object path: `runtime.(*mcache).allocLarge(size uintptr, noscan bool) *mspan`.
//!
//! Go's internal ABI on x86-64 passes the receiver in rax, `size` in rbx, keeps `g` in r14 and returns
//! in rax. A call is keyed by (tgid, g, stack.hi - sp): goroutines move between threads and stacks
//! move, but the distance to the stack's upper end stays. Exits are plain probes, never return probes:
//! a return trampoline on a goroutine's stack kills the program at the next stack scan.

use crate::filter::{Traced, is_large};
use crate::inflight::{GoCall, close_go_call, open_go_call};
use crate::ranges;
use crate::record::{hit, lost, record};
use allocscope_common::counter::{LiveRange, LossReason, ProbeClass};
use allocscope_common::key::{Allocator, SeriesKey, Stage, size_class};
use allocscope_common::site_id::{self, ResultPlace, Role, StepClass};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;

/// Offset of `g.stack.hi` (runtime2.go: `stack` is the first field of `g`, `hi` the second of `stack`).
const G_STACK_HI: u64 = 8;
/// Offset of `mspan.startAddr`, followed by `npages` (mheap.go: next, prev, list, startAddr, npages).
const MSPAN_START_ADDR: u64 = 24;
/// Size of a page of Go's heap, in bytes (runtime `pageSize`, 8 KiB).
const GO_PAGE_BYTES: u64 = 8192;

/// Any probe of a Go site; the cookie tells which.
#[uprobe]
fn go_site(ctx: ProbeContext) -> u32 {
    try_go_site(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_go_site(ctx: &ProbeContext) -> Option<u32> {
    let traced = Traced::current()?;
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let stepped = site_id::step_of(cookie) == StepClass::Stepped as u8;
    hit(&traced, if stepped { ProbeClass::UprobeStepped } else { ProbeClass::UprobeEmulated });
    let regs = ctx.regs;
    if site_id::role_of(cookie) == Role::Entry as u8 {
        enter(&traced, regs, cookie)
    } else {
        exit(ctx, &traced, regs, cookie)
    }
}

#[inline(always)]
fn enter(traced: &Traced, regs: *mut pt_regs, cookie: u64) -> Option<u32> {
    // SAFETY: the verifier allows reading the fields of the program's context.
    let (size, g) = unsafe { ((*regs).rbx, (*regs).r14) };
    if !is_large(size) {
        return None;
    }
    let tgid_depth = depth_key(traced, regs, g, cookie)?;
    // SAFETY: a helper without arguments. Last, so that the time measured is the call's.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    open_go_call(GoCall { g, tgid_depth, start_ns, size });
    None
}

#[inline(always)]
fn exit(ctx: &ProbeContext, traced: &Traced, regs: *mut pt_regs, cookie: u64) -> Option<u32> {
    // SAFETY: a helper without arguments. First, so that the time measured is the call's.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the verifier allows reading the fields of the program's context.
    let g = unsafe { (*regs).r14 };
    let call = close_go_call(g, depth_key(traced, regs, g, cookie)?)?;
    let class = size_class(call.size);
    let key = SeriesKey::stage(traced.slot, Allocator::Go, Stage::Call, class);
    record(key, now_ns.saturating_sub(call.start_ns), call.size);
    let Some((start, end)) = span_of_result(regs, cookie) else {
        lost(LossReason::ResultUnreadable);
        debug!(ctx, "pid {}: result of a Go allocation of {} bytes is unreadable", traced.tgid(), call.size);
        return None;
    };
    if end - start < call.size {
        lost(LossReason::ResultUnreadable);
        debug!(ctx, "pid {}: a Go span of {} bytes for {} bytes", traced.tgid(), end - start, call.size);
        return None;
    }
    ranges::end_overlapped(traced, start);
    ranges::end_overlapped(traced, end - 1);
    let range = LiveRange { end, size: call.size, touch_ns: 0, faults: 0, allocator: Allocator::Go as u64 };
    ranges::file(traced, start, range);
    None
}

/// tgid, and the bytes between the stack's upper end and the stack pointer at the function's entry.
#[inline(always)]
fn depth_key(traced: &Traced, regs: *mut pt_regs, g: u64, cookie: u64) -> Option<u64> {
    // SAFETY: the verifier allows reading the fields of the program's context.
    let sp = unsafe { (*regs).rsp };
    let entry_sp = sp.wrapping_add(site_id::frame_bytes_of(cookie));
    // SAFETY: the helper checks the address itself.
    let stack_hi = unsafe { bpf_probe_read_user((g + G_STACK_HI) as *const u64) }.ok()?;
    let depth = stack_hi.wrapping_sub(entry_sp) & 0xffff_ffff;
    Some(u64::from(traced.tgid()) << 32 | depth)
}

/// The addresses of the span that the call returned.
#[inline(always)]
fn span_of_result(regs: *mut pt_regs, cookie: u64) -> Option<(u64, u64)> {
    let place = site_id::result_of(cookie);
    // SAFETY: the verifier allows reading the fields of the program's context.
    let (rax, rsp) = unsafe { ((*regs).rax, (*regs).rsp) };
    let mspan = if place == ResultPlace::Register as u8 {
        rax
    } else if place == ResultPlace::Stack as u8 {
        let address = rsp.wrapping_add(site_id::result_offset_of(cookie));
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_user(address as *const u64) }.ok()?
    } else {
        return None;
    };
    // SAFETY: the helper checks the address itself.
    let [start, pages] =
        unsafe { bpf_probe_read_user(mspan.wrapping_add(MSPAN_START_ADDR) as *const [u64; 2]) }.ok()?;
    // 2^31 pages of 8 KiB are 16 TiB, more than can be filed; the test also keeps the product whole.
    if start == 0 || pages == 0 || pages > 1 << 31 {
        return None;
    }
    Some((start, start.wrapping_add(pages * GO_PAGE_BYTES)))
}
