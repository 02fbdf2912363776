//! A rare event of a thread (a cause begins or ends, it leaves or gets a CPU) into its innermost open window.

use super::{ELSEWHERE, ON_CPU, Owner, RUNNABLE, WAITING, Window, of_thread, place, take};
use crate::record::lost;
use crate::thread::{is_in_fault, open_fault_start};
use allocscope_common::cause::Cause;
use allocscope_common::counter::LossReason;
use allocscope_common::phases::{Away, Phases};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};

/// A wait for a lock that is shorter was none: what it takes to get a free one, with the probes at both ends.
const LEAST_WAIT_NS: u64 = 1_000;

/// The innermost open window of the thread, whose open fault began at `fault_ns`, 0 where there is none. A fault older than
/// the call never ended: the call's code runs.
#[inline(always)]
fn innermost(window: *mut Window, fault_ns: u64) -> Option<*mut Phases> {
    // SAFETY: a checked map value by its origin.
    unsafe {
        let call_ns = (*window).call.start_ns;
        if fault_ns == 0 || fault_ns < call_ns {
            return (call_ns != 0).then_some(&raw mut (*window).call);
        }
        if (*window).fault.start_ns != fault_ns {
            (*window).fault.open(fault_ns);
        }
        Some(&raw mut (*window).fault)
    }
}

/// The current thread's window and its innermost level, and what time it is; `None` where it is in none.
#[inline(always)]
fn current() -> Option<(*mut Window, *mut Phases, u64)> {
    let pid_tgid = bpf_get_current_pid_tgid();
    // The idle thread, whose name is that of a free place.
    if pid_tgid == 0 {
        return None;
    }
    let fault_ns = open_fault_start(pid_tgid);
    let own = of_thread(pid_tgid);
    if own.is_none() && fault_ns == 0 {
        return None;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let window = match own {
        Some(window) => window,
        None => take(pid_tgid, now_ns)?,
    };
    Some((window, innermost(window, fault_ns)?, now_ns))
}

/// The current thread begins something that has a name.
#[inline(always)]
pub fn enter_cause(cause: Cause) {
    let Some((_, phases, now_ns)) = current() else { return };
    // SAFETY: a part of a checked map value.
    if unsafe { !(*phases).enter(cause, now_ns) } {
        lost(LossReason::PhasesTooDeep);
    }
}

/// The current thread is done with it.
#[inline(always)]
pub fn leave_cause(cause: Cause) {
    let Some((_, phases, now_ns)) = current() else { return };
    let least_ns = if cause as u8 == Cause::MmapLock as u8 { LEAST_WAIT_NS } else { 0 };
    // SAFETY: as in `enter_cause`.
    unsafe { (*phases).leave(cause, now_ns, least_ns) };
}

/// The current thread leaves its CPU; `is_ready`: it could run on. Most threads are in no window, and their ids, which
/// the caller has, tell that without asking for more.
#[inline(always)]
pub fn pause(thread: u32, is_ready: bool) {
    // SAFETY: a checked map value.
    let is_own = place(thread).is_some_and(|window| unsafe { (*window).tag as u32 == thread });
    if !is_own && !is_in_fault(thread) {
        return;
    }
    let Some((window, phases, now_ns)) = current() else { return };
    // SAFETY: as in `enter_cause`.
    unsafe {
        (*phases).pause(now_ns);
        (*window).woken_ns = 0;
        let in_go_call = (*window).owner == Owner::Go as u32 && phases == &raw mut (*window).call;
        (*window).away = if is_ready {
            RUNNABLE
        } else if in_go_call {
            ELSEWHERE
        } else {
            WAITING
        };
    }
}

/// The window of a thread that is away from its CPU; `None` where it is in none.
#[inline(always)]
fn of_away(thread: u32, away: u32) -> Option<*mut Window> {
    // SAFETY: a checked map value.
    place(thread).filter(|&window| unsafe { (*window).tag as u32 == thread && (*window).away & away != 0 })
}

/// A thread that may wait becomes ready to run.
#[inline(always)]
pub fn wake(thread: u32) {
    if let Some(window) = of_away(thread, WAITING) {
        // SAFETY: a checked map value and a helper without arguments.
        unsafe { (*window).woken_ns = bpf_ktime_get_ns() };
    }
}

/// A thread gets a CPU.
#[inline(always)]
pub fn resume(thread: u32) {
    let Some(window) = of_away(thread, WAITING | RUNNABLE | ELSEWHERE) else { return };
    // SAFETY: a checked map value and a helper without arguments.
    unsafe {
        let (away, now_ns) = ((*window).away, bpf_ktime_get_ns());
        (*window).away = ON_CPU;
        let fault_ns = open_fault_start((*window).tag);
        let Some(phases) = innermost(window, fault_ns) else { return };
        match away {
            RUNNABLE => (*phases).resume(Away::Runnable, now_ns),
            WAITING => (*phases).resume(Away::Waiting((*window).woken_ns), now_ns),
            _ => (*phases).moved(now_ns),
        }
    }
}
