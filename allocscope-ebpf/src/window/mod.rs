//! What a thread does in a call or page fault, as rare tracepoints and marks see it, into where the time went.
//!
//! Each thread has a place for a call's window and, nested in it, a fault's. [`allocscope_common::phases`] has the
//! rules and the arithmetic; here is which window an event belongs to, and in each file below what an event of one kind
//! does to it.
//!
//! - A call's window is opened and closed with the call. One inside of another (the system calls of an allocator's
//!   call) is part of that one.
//! - A fault's window is open while `maps::FAULTS` holds the thread. Nothing is written for it when it begins: the
//!   first rare event in it does, and most faults have none. What a fault's time went to is counted once, with the
//!   call that it lies in or by itself; what was more than its service is kept for its allocation as well.
//! - A Go call's window follows its goroutine from thread to thread, as its probes see it. What it did out of sight is
//!   `blocked`, or stays with its phase; so does the time that its thread waits. A page fault on the other thread
//!   meanwhile is counted as a fault besides. Where its thread takes up another goroutine's call meanwhile, it is
//!   parked in [`maps::PARKED`](crate::maps::PARKED).

mod call;
mod fault;
mod parked;
mod rare;
mod touch;

use crate::maps::WINDOWS;
use crate::record::lost;
use allocscope_common::config::WINDOW_SLOTS;
use allocscope_common::counter::LossReason;
use allocscope_common::phases::Phases;
pub use call::{ClosedCall, close_call, enter_call_cause, leave_call_cause, open_call};
pub use fault::end_fault;
pub use parked::{Parked, follow_call};
pub use rare::{enter_cause, leave_cause, pause, resume, wake};

/// Whose call a window is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Owner {
    /// A memory system call.
    System = 1,
    /// A call of a native allocator.
    Native = 2,
    /// A large allocation of a goroutine.
    Go = 3,
}

/// What a thread is in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    /// The thread (see `bpf_get_current_pid_tgid`), 0 in a free place.
    tag: u64,
    /// When the thread was woken; of use while it waits.
    woken_ns: u64,
    /// [`Owner`] of the call.
    owner: u32,
    /// [`ON_CPU`], [`WAITING`], [`RUNNABLE`] or [`ELSEWHERE`].
    away: u32,
    /// Time of page faults in the call so far.
    fault_ns: u64,
    /// The call.
    call: Phases,
    /// The page fault.
    fault: Phases,
}

const ON_CPU: u32 = 0;

const WAITING: u32 = 1;

const RUNNABLE: u32 = 2;

/// A thread that waits in the middle of a goroutine's call: most have none, and the goroutine runs on another one.
const ELSEWHERE: u32 = 4;

/// No call takes so long: what is older was left without returning.
const ABANDONED_NS: u64 = 60_000_000_000;

#[inline(always)]
fn place(thread: u32) -> Option<*mut Window> {
    WINDOWS.get_ptr_mut(thread & (WINDOW_SLOTS - 1))
}

/// The thread's own window, where it has one.
#[inline(always)]
fn of_thread(pid_tgid: u64) -> Option<*mut Window> {
    // SAFETY: a checked map value.
    place(pid_tgid as u32).filter(|&window| unsafe { (*window).tag == pid_tgid })
}

/// The thread's window, taken for it if it is free or its owner has left it.
#[inline(always)]
fn take(pid_tgid: u64, now_ns: u64) -> Option<*mut Window> {
    let window = place(pid_tgid as u32)?;
    // SAFETY: a checked map value; only threads that share the place write it.
    unsafe {
        if (*window).tag == pid_tgid {
            return Some(window);
        }
        let call_ns = (*window).call.start_ns;
        if (*window).tag != 0 && call_ns != 0 && now_ns.saturating_sub(call_ns) < ABANDONED_NS {
            lost(LossReason::WindowTaken);
            return None;
        }
        (*window).tag = pid_tgid;
        (*window).away = ON_CPU;
        (*window).call.start_ns = 0;
        (*window).fault.start_ns = 0;
    }
    Some(window)
}
