//! The end of a page fault into what its time went to, counted with the call that it lies in or by itself.

use super::touch::keep_touch;
use super::{Window, place};
use crate::atomic::add;
use crate::record::{counters, lost};
use crate::slow;
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::counter::LossReason;
use allocscope_common::phases::Phases;

/// Ends a fault's window. `is_swap`: its page was read from swap; `touched`: its address, where that is in a large
/// allocation, else 0. Nothing is written for a fault that was nothing else and lies in no call.
#[inline(always)]
pub fn end_fault(pid_tgid: u64, slot: u32, start_ns: u64, ns: u64, is_swap: bool, touched: u64) {
    let Some(window) = place(pid_tgid as u32) else { return };
    // SAFETY: a checked map value.
    if is_swap || unsafe { (*window).tag == pid_tgid } {
        let was = end_fault_window(pid_tgid, slot.into(), start_ns, ns, is_swap.into());
        if slow::tells_slow_only() && touched != 0 && was != SERVICE {
            keep_touch(pid_tgid, slot.into(), touched, if was == SWAP_IN { ns } else { 0 });
        }
    }
}

/// What a fault was: nothing but its service, what its window says, or the reading of its page.
const SERVICE: u64 = 0;
const SPLIT: u64 = 1;
const SWAP_IN: u64 = 2;

/// The rest of it. Returns what the fault was.
///
/// Like the other functions with global linkage: the verifier checks it once and not at each call, which
/// takes old kernels seconds.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_fault_window(pid_tgid: u64, slot: u64, start_ns: u64, ns: u64, is_swap: u64) -> u64 {
    let Some(window) = place(pid_tgid as u32) else { return SERVICE };
    let (slot, is_swap) = (slot as u32, is_swap != 0);
    // SAFETY: a checked map value.
    let is_own = unsafe { (*window).tag == pid_tgid };
    let end_ns = start_ns.wrapping_add(ns);
    // SAFETY: as in `take`.
    unsafe {
        let call = &raw mut (*window).call;
        let in_call = is_own && (*call).start_ns != 0 && (*call).start_ns <= start_ns;
        if in_call {
            (*window).fault_ns += ns;
        }
        if is_own && (*window).fault.start_ns == start_ns {
            close_fault(window, end_ns, is_swap);
            if in_call {
                (*call).take_fault(start_ns, end_ns, &(*window).fault.ns);
            } else {
                (*window).tag = 0;
                count_fault(slot, &(*window).fault, ns);
            }
            return if (*window).fault.ns[Cause::PageFault as usize] == ns { SERVICE } else { SPLIT };
        }
        if in_call {
            let cause = if is_swap { Cause::SwapIn } else { Cause::PageFault };
            (*call).take_plain_fault(start_ns, end_ns, cause);
        } else if is_swap {
            count_swap_in(slot, ns);
        }
    }
    if is_swap { SWAP_IN } else { SERVICE }
}

/// # Safety
/// `window` is a checked map value.
#[inline(always)]
unsafe fn close_fault(window: *mut Window, end_ns: u64, is_swap: bool) {
    // SAFETY: by the caller's word.
    let fault = unsafe { &mut (*window).fault };
    if !fault.close(Cause::PageFault, end_ns) {
        lost(LossReason::SplitUneven);
    }
    if is_swap {
        fault.name_swap_in();
    }
}

#[inline(always)]
fn count_fault(slot: u32, fault: &Phases, ns: u64) {
    let Some(counters) = counters(slot) else { return };
    // SAFETY: a checked map value; the indices are below the array's length.
    unsafe {
        add(&raw mut (*counters).fault_causes_ns, ns.wrapping_sub(fault.ns[Cause::PageFault as usize]));
        for cause in 0..CAUSES {
            let ns = fault.ns[cause];
            if ns != 0 && cause != Cause::PageFault as usize {
                add(&raw mut (*counters).stall_ns[cause], ns);
            }
        }
    }
}

#[inline(always)]
fn count_swap_in(slot: u32, ns: u64) {
    let Some(counters) = counters(slot) else { return };
    // SAFETY: a checked map value; the index is below the array's length by its type.
    unsafe {
        add(&raw mut (*counters).fault_causes_ns, ns);
        add(&raw mut (*counters).stall_ns[Cause::SwapIn as usize], ns);
    }
}
