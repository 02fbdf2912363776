//! Places in Go's runtime beside a call's two ends: what the call's time goes to, and what the runtime does.
//!
//! A place on a goroutine's own stack finds the goroutine's open call by `g` (r14). One on a thread's own stack, where
//! `g` is the thread's `g0`, finds it by `g.m.curg`: the goroutine that the thread works for.

use crate::filter::Traced;
use crate::inflight::{find_assist, find_go_call_of};
use crate::maps::{GO_RUNTIME, GO_STOPS, POOL_WINDOW};
use crate::probes::go::Registers;
use crate::record::{record, total};
use crate::window;
use allocscope_common::cause::Cause;
use allocscope_common::go_call::{GoCall, GoCallTag};
use allocscope_common::go_runtime::{GoAssist, GoStop, RuntimeEvent, is_late, is_taken, stop_event};
use allocscope_common::key::SeriesKey;
use allocscope_common::site_id::{Role, frame_bytes_of, result_offset_of};
use aya_ebpf::helpers::bpf_probe_read_user;

/// Offset of `g.m`: the same in the DWARF of 1.19 to 1.27.
const G_M: u64 = 48;
/// What `mallocgc` was asked for, above its return address: the place of its first argument (internal ABI, "spill
/// space"). Only compared, so that another value there costs a cause and invents none.
const FIRST_ARGUMENT: u64 = 8;

/// In place of an argument: the stop's reason is in rax.
const REASON_KNOWN: u64 = 1;

/// In place of a duration: there is none.
const UNTIMED: u64 = u64::MAX;

/// Takes in the hit of a place of `role`.
#[inline(always)]
pub fn mark(traced: &Traced, regs: &Registers, cookie: u64, role: u8, now_ns: u64) -> Option<u32> {
    if is_of_call(role) {
        change_cause(traced, regs, cookie, role, now_ns)
    } else if role == Role::Assist as u8 {
        begin_assist(traced, regs, cookie, now_ns)
    } else if role == Role::AssistEnd as u8 {
        end_assist(traced, regs, cookie, now_ns)
    } else if role <= Role::Started as u8 {
        stop(traced, regs, cookie, role, now_ns)
    } else {
        count(traced, regs, cookie, role)
    }
}

/// Records an event of the process in `slot`. Returns 0.
///
/// A function with global linkage, which the verifier checks once and not for each kind of place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_event(slot: u64, event: u64, ns: u64, bytes: u64) -> u64 {
    let key = SeriesKey::runtime(slot as u32, event as u8);
    if ns == UNTIMED {
        total(key, 1, bytes);
    } else {
        record(key, ns, bytes);
    }
    sample(slot as u32, event);
    0
}

#[inline(always)]
fn tell(traced: &Traced, event: u64, ns: u64, bytes: u64) -> Option<u32> {
    tell_event(traced.slot.into(), event, ns, bytes);
    None
}

#[inline(always)]
const fn is_of_call(role: u8) -> bool {
    (role >= Role::Grow as u8 && role <= Role::Swept as u8) || role == Role::Grown as u8
}

/// For how long the process' world had been stopped in total at `now_ns`.
#[inline(always)]
pub fn stopped_ns(traced: &Traced, now_ns: u64) -> u64 {
    GO_STOPS.get_ptr_mut(traced.slot).map_or(0, |stop| {
        // SAFETY: a checked map value.
        unsafe { (*stop).until(now_ns) }
    })
}

/// A call does something of that name from now on.
#[inline(always)]
fn enter(traced: &Traced, call: *mut GoCall, cause: Cause, now_ns: u64) {
    // SAFETY: a checked map value; the goroutine is here and nowhere else.
    let call = unsafe { &mut *call };
    window::follow_call(&mut call.thread, call.start_ns, traced.pid_tgid, now_ns);
    window::enter_call_cause(call.thread, call.start_ns, cause, now_ns);
}

/// And no longer.
#[inline(always)]
fn leave(traced: &Traced, call: *mut GoCall, cause: Cause, now_ns: u64) {
    // SAFETY: as above.
    let call = unsafe { &mut *call };
    window::follow_call(&mut call.thread, call.start_ns, traced.pid_tgid, now_ns);
    window::leave_call_cause(call.thread, call.start_ns, cause, now_ns);
}

#[inline(always)]
fn change_cause(traced: &Traced, regs: &Registers, cookie: u64, role: u8, now_ns: u64) -> Option<u32> {
    let on_own_stack = role == Role::Sweep as u8 || role == Role::Swept as u8;
    let g = if on_own_stack { regs.r14 } else { current_goroutine(regs, result_offset_of(cookie))? };
    let call = find_go_call_of(traced.tgid(), g)?;
    let is_growth = role == Role::Grow as u8 || role == Role::Grown as u8;
    let cause = if is_growth { Cause::HeapGrow } else { Cause::Sweep };
    if role == Role::Grown as u8 || role == Role::Reclaimed as u8 || role == Role::Swept as u8 {
        leave(traced, call, cause, now_ns);
    } else {
        enter(traced, call, cause, now_ns);
    }
    None
}

/// The goroutine that the thread works for.
#[inline(always)]
fn current_goroutine(regs: &Registers, curg: u64) -> Option<u64> {
    // SAFETY: the helper checks the address itself.
    let m = unsafe { bpf_probe_read_user((regs.r14 + G_M) as *const u64) }.ok()?;
    // SAFETY: as above.
    unsafe { bpf_probe_read_user(m.wrapping_add(curg) as *const u64) }.ok()
}

#[inline(always)]
fn begin_assist(traced: &Traced, regs: &Registers, cookie: u64, now_ns: u64) -> Option<u32> {
    let malloc_sp = regs.rsp.wrapping_add(frame_bytes_of(cookie));
    let tag = regs.tag_at(traced, malloc_sp)?;
    // SAFETY: the helper checks the address itself.
    let size = unsafe { bpf_probe_read_user((malloc_sp + FIRST_ARGUMENT) as *const u64) }.ok()?;
    let stopped_ns = stopped_ns(traced, now_ns);
    let assist = find_assist(tag)?;
    // SAFETY: a checked map value; who shares it costs the other a cause.
    unsafe { *assist = GoAssist { tag, size, start_ns: now_ns, stopped_ns, wait_ns: 0, ended_ns: 0 } };
    None
}

/// The assist under way of a goroutine, if the last one is.
#[inline(always)]
fn assist_of(traced: &Traced, g: u64) -> Option<*mut GoAssist> {
    let tgid = u64::from(traced.tgid());
    let assist = find_assist(GoCallTag { g, tgid_depth: tgid << 32 })?;
    // SAFETY: a checked map value; the goroutine is here and nowhere else.
    let is_its = unsafe { (*assist).tag.g == g && (*assist).tag.tgid_depth >> 32 == tgid };
    // SAFETY: as above.
    (is_its && unsafe { (*assist).ended_ns == 0 }).then_some(assist)
}

/// An assist that finds all marked stops the world for the end of marking. One that has ended, unseen, takes no
/// harm: the next one takes its place, or nothing ever asks.
#[inline(always)]
fn wait_in_assist(traced: &Traced, g: u64, wait_ns: u64) {
    if let Some(assist) = assist_of(traced, g) {
        // SAFETY: as above.
        unsafe { (*assist).wait_ns = wait_ns };
    }
}

#[inline(always)]
fn end_assist(traced: &Traced, regs: &Registers, cookie: u64, now_ns: u64) -> Option<u32> {
    let argument = result_offset_of(cookie);
    if is_taken(argument & 0xf, regs.flags) != (argument >> 4 & 1 == 1) {
        return None;
    }
    let assist = assist_of(traced, regs.r14)?;
    // SAFETY: as above.
    let start_ns = unsafe {
        (*assist).ended_ns = now_ns;
        (*assist).start_ns
    };
    tell(traced, RuntimeEvent::Assist as u64, now_ns.saturating_sub(start_ns), 0)
}

/// One stop at a time: the runtime holds `worldsema`.
#[inline(always)]
fn stop(traced: &Traced, regs: &Registers, cookie: u64, role: u8, now_ns: u64) -> Option<u32> {
    let stop = GO_STOPS.get_ptr_mut(traced.slot)?;
    let argument = result_offset_of(cookie);
    let goroutine = current_goroutine(regs, argument & !REASON_KNOWN).unwrap_or(0);
    if role == Role::Stopped as u8 {
        // SAFETY: a checked map value; one thread stops the world.
        let wait_ns = unsafe {
            (*stop).stopped_at_ns = now_ns;
            now_ns.saturating_sub((*stop).begin_ns)
        };
        wait_in_assist(traced, goroutine, wait_ns);
        return None;
    }
    // Null and not an `Option`, whose pointer the compiler keeps undefined, and stores, where there is none.
    let call = find_go_call_of(traced.tgid(), goroutine).unwrap_or_default();
    if role == Role::StopBegin as u8 {
        let known = argument & REASON_KNOWN != 0;
        let event = if known { stop_event(regs.rax) } else { RuntimeEvent::StopUnknown } as u64;
        let is_late = u64::from(!known || is_late(regs.rax));
        // SAFETY: as above.
        unsafe { *stop = GoStop { begin_ns: now_ns, stopped_at_ns: 0, event, is_late, ..*stop } };
        if !call.is_null() {
            enter(traced, call, Cause::GcStop, now_ns);
        }
        return None;
    }
    if role == Role::Restart as u8 {
        // SAFETY: as above.
        let stopped_ns = unsafe {
            let before_ns = (*stop).total_ns;
            (*stop).total_ns = (*stop).until(now_ns);
            (*stop).stopped_at_ns = 0;
            (*stop).total_ns.wrapping_sub(before_ns)
        };
        if !call.is_null() {
            leave(traced, call, Cause::GcStop, now_ns);
            // SAFETY: as above. Its own stop has a name already.
            unsafe { (*call).stopped_ns += stopped_ns };
        }
    }
    // SAFETY: as above.
    let GoStop { begin_ns, event, is_late, .. } = unsafe { *stop };
    if begin_ns == 0 || (role == Role::Restart as u8 && is_late != 0) {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*stop).begin_ns = 0 };
    if GO_RUNTIME.load() != 0 {
        tell(traced, event, now_ns.saturating_sub(begin_ns), 0);
    }
    None
}

#[inline(always)]
fn count(traced: &Traced, regs: &Registers, cookie: u64, role: u8) -> Option<u32> {
    let (event, bytes) = if role == Role::Cycle as u8 {
        (RuntimeEvent::Cycle, 0)
    } else if role == Role::Scavenge as u8 {
        (RuntimeEvent::Scavenge, regs.rbx)
    } else if role == Role::PoolSlowGet as u8 {
        (RuntimeEvent::PoolSlowGet, 0)
    } else if role == Role::PoolNew as u8 {
        let argument = result_offset_of(cookie);
        if is_taken(argument & 0xf, regs.flags) != (argument >> 4 & 1 == 1) {
            return None;
        }
        (RuntimeEvent::PoolNew, 0)
    } else if role == Role::PoolCleanup as u8 {
        (RuntimeEvent::PoolCleanup, regs.rcx)
    } else if role == Role::PoolGet as u8 && is_sampling() {
        (RuntimeEvent::SampledGet, 0)
    } else {
        return None;
    };
    tell(traced, event as u64, UNTIMED, bytes)
}

/// Counts a miss of a pool again where the window in which all gets are counted is open.
#[inline(always)]
fn sample(slot: u32, event: u64) -> Option<u32> {
    let sampled = if event == RuntimeEvent::PoolSlowGet as u64 {
        RuntimeEvent::SampledSlowGet
    } else if event == RuntimeEvent::PoolNew as u64 {
        RuntimeEvent::SampledNew
    } else {
        return None;
    };
    if is_sampling() {
        total(SeriesKey::runtime(slot, sampled as u8), 1, 0);
    }
    None
}

#[inline(always)]
fn is_sampling() -> bool {
    // SAFETY: a checked map value.
    POOL_WINDOW.get_ptr(0).is_some_and(|open| unsafe { *open } != 0)
}
