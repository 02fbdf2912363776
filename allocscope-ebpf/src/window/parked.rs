//! A goroutine's call that does not run where it began into one that goes on elsewhere: put aside, found again, moved.
//!
//! Each call has two places where it may be parked, by when it began.

use super::{ABANDONED_NS, ON_CPU, Owner, of_thread, place, take};
use crate::maps::PARKED;
use crate::record::lost;
use allocscope_common::counter::LossReason;
use allocscope_common::go_call::parking_of;
use allocscope_common::phases::Phases;
use core::ptr::copy_nonoverlapping;

/// The call of a goroutine that does not run, and whose thread is in another one's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parked {
    /// Time of page faults in it so far.
    fault_ns: u64,
    /// When it began names it.
    call: Phases,
}

/// One of the two places where a call is parked that began at `start_ns`.
#[inline(always)]
fn parking(start_ns: u64, way: u32) -> Option<*mut Parked> {
    PARKED.get_ptr_mut(parking_of(start_ns, way))
}

/// Whether a parked call's place may serve another: it is free, or what it held never ended.
#[inline(always)]
fn is_free(start_ns: u64, way: u32, now_ns: u64) -> bool {
    parking(start_ns, way).is_some_and(|parked| {
        // SAFETY: a checked map value.
        let other_ns = unsafe { (*parked).call.start_ns };
        other_ns == 0 || now_ns.saturating_sub(other_ns) >= ABANDONED_NS
    })
}

/// Whether the call that began at `start_ns` is parked at a place.
#[inline(always)]
fn is_parked(start_ns: u64, way: u32) -> bool {
    // SAFETY: a checked map value.
    parking(start_ns, way).is_some_and(|parked| unsafe { (*parked).call.start_ns == start_ns })
}

/// Puts a goroutine's open call aside, if that is what the thread's place holds. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn park_call(thread: u64, now_ns: u64) -> u64 {
    let Some(window) = place(thread as u32) else { return 0 };
    // SAFETY: a checked map value.
    let (start_ns, owner) = unsafe { ((*window).call.start_ns, (*window).owner) };
    if start_ns == 0 || owner != Owner::Go as u32 {
        return 0;
    }
    let way = u32::from(!is_free(start_ns, 0, now_ns));
    if way == 1 && !is_free(start_ns, 1, now_ns) {
        lost(LossReason::WindowTaken);
    }
    let Some(parked) = parking(start_ns, way) else { return 0 };
    // SAFETY: both are checked map values.
    unsafe {
        copy_call(&raw const (*window).call, &raw mut (*parked).call);
        (*parked).fault_ns = (*window).fault_ns;
    }
    0
}

/// Not an assignment, for which the compiler calls `memmove`.
///
/// # Safety
/// Both are parts of checked map values.
#[inline(always)]
unsafe fn copy_call(from: *const Phases, to: *mut Phases) {
    // SAFETY: by the caller's word; they are of different maps or places.
    unsafe { copy_nonoverlapping(from, to, 1) };
}

/// Brings the window of a goroutine's call to the thread that now runs it. `thread` is where it was.
#[inline(always)]
pub fn follow_call(thread: &mut u64, start_ns: u64, pid_tgid: u64, now_ns: u64) {
    let from = core::mem::replace(thread, pid_tgid);
    // SAFETY: a checked map value.
    if of_thread(pid_tgid).is_some_and(|window| unsafe { (*window).call.start_ns == start_ns }) {
        return;
    }
    move_call_window(from, start_ns, pid_tgid, now_ns);
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn move_call_window(from: u64, start_ns: u64, to: u64, now_ns: u64) -> u64 {
    let Some(old) = place(from as u32) else { return 0 };
    // SAFETY: a checked map value.
    let is_old = unsafe { (*old).tag == from && (*old).call.start_ns == start_ns };
    let way = u32::from(!is_parked(start_ns, 0));
    if !is_old && way == 1 && !is_parked(start_ns, 1) {
        return 0;
    }
    let (Some(new), Some(parked)) = (take(to, now_ns), parking(start_ns, way)) else { return 0 };
    // SAFETY: all are checked map values.
    unsafe {
        park_call(to, now_ns);
        if is_old {
            copy_call(&raw const (*old).call, &raw mut (*new).call);
            (*new).fault_ns = (*old).fault_ns;
            (*old).tag = 0;
        } else {
            copy_call(&raw const (*parked).call, &raw mut (*new).call);
            (*new).fault_ns = (*parked).fault_ns;
            (*parked).call.start_ns = 0;
        }
        (*new).owner = Owner::Go as u32;
        (*new).away = ON_CPU;
        (*new).call.moved(now_ns);
    }
    0
}
