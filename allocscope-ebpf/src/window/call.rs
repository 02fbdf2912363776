//! A call from its begin to its end into how long each cause took of it, counted in its process.

use super::parked::park_call;
use super::{ABANDONED_NS, ON_CPU, Owner, Window, of_thread, place, take};
use crate::atomic::add;
use crate::record::{counters, lost};
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::counter::LossReason;

/// Opens a call's window, unless the call is part of one that is open.
#[inline(always)]
pub fn open_call(pid_tgid: u64, start_ns: u64, owner: Owner) {
    open_call_window(pid_tgid, start_ns, owner as u64);
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn open_call_window(pid_tgid: u64, start_ns: u64, owner: u64) -> u64 {
    let Some(window) = take(pid_tgid, start_ns) else { return 0 };
    let owner = owner as u32;
    // SAFETY: as in `take`.
    unsafe {
        let open_ns = (*window).call.start_ns;
        let is_part = owner == Owner::System as u32 && (*window).owner != Owner::System as u32;
        if is_part && open_ns != 0 && start_ns.saturating_sub(open_ns) < ABANDONED_NS {
            return 0;
        }
        park_call(pid_tgid, start_ns);
        (*window).owner = owner;
        (*window).away = ON_CPU;
        (*window).fault_ns = 0;
        (*window).call.open(start_ns);
    }
    0
}

/// A closed call's window: valid until the thread opens another one. A call may have none of its own. Plain numbers, for
/// what is not there in an `Option` is not defined, and old verifiers refuse to see it copied.
#[derive(Clone, Copy)]
pub struct ClosedCall {
    /// 0 where there is no window.
    thread: u32,
    ns: u64,
}

impl ClosedCall {
    /// No window.
    pub const NONE: Self = Self { thread: 0, ns: 0 };

    /// The closed call of a thread; none where that is 0.
    #[inline(always)]
    pub fn of(thread: u64) -> Self {
        Self { thread: thread as u32, ns: 0 }
    }

    /// Its thread; 0 where there is no window.
    #[inline(always)]
    pub fn thread(self) -> u64 {
        self.thread.into()
    }

    /// Whether there is a window.
    #[inline(always)]
    pub fn is_there(self) -> bool {
        self.thread != 0
    }

    #[inline(always)]
    fn window(self) -> Option<*mut Window> {
        if self.is_there() { place(self.thread) } else { None }
    }

    /// Gives `ns` of it another name that nobody had seen: of what it waited, else of what Go's runtime did.
    #[inline(always)]
    pub fn rename(self, to: Cause, ns: u64) {
        if ns != 0
            && let Some(window) = self.window()
        {
            // SAFETY: a checked map value.
            unsafe { (*window).call.rename(to, ns) };
        }
    }

    /// Time that a cause took of it, in nanoseconds.
    #[inline(always)]
    pub fn ns_of(self, cause: usize) -> u64 {
        match self.window() {
            // SAFETY: a checked map value; the index is below the array's length.
            Some(window) if cause < CAUSES => unsafe { (*window).call.ns[cause] },
            _ => 0,
        }
    }

    /// Counts it in the process in `slot`. One that is not counted (a call that failed, or is not large) leaves its
    /// page faults as plain ones.
    #[inline(always)]
    pub fn count(self, slot: u32) {
        if self.is_there() {
            count_call_window(self.thread.into(), slot.into(), self.ns);
        }
    }
}

/// Counts the closed call of a thread, which took `ns`, in the process in `slot`. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_call_window(thread: u64, slot: u64, ns: u64) -> u64 {
    let (Some(window), Some(counters)) = (place(thread as u32), counters(slot as u32)) else { return 0 };
    // SAFETY: both are checked map values; the indices are below the arrays' lengths.
    unsafe {
        add(&raw mut (*counters).call_window_ns, ns);
        if (*window).fault_ns != 0 {
            add(&raw mut (*counters).fault_in_call_ns, (*window).fault_ns);
        }
        for cause in 0..CAUSES {
            let ns = (*window).call.ns[cause];
            if ns != 0 {
                add(&raw mut (*counters).stall_ns[cause], ns);
            }
        }
    }
    0
}

/// Closes the window of the call that began at `start_ns`. It has none of its own where it is part of another one, or
/// the window was lost.
#[inline(always)]
pub fn close_call(pid_tgid: u64, start_ns: u64, now_ns: u64) -> ClosedCall {
    if close_call_window(pid_tgid, start_ns, now_ns) == 0 {
        return ClosedCall::NONE;
    }
    ClosedCall { thread: pid_tgid as u32, ns: now_ns.saturating_sub(start_ns) }
}

/// Whether there was one to close.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn close_call_window(pid_tgid: u64, start_ns: u64, now_ns: u64) -> u64 {
    let Some(window) = of_thread(pid_tgid) else { return 0 };
    // SAFETY: as in `take`.
    unsafe {
        if (*window).call.start_ns != start_ns {
            return 0;
        }
        if !(*window).call.close(Cause::Alloc, now_ns) {
            lost(LossReason::SplitUneven);
        }
        (*window).tag = 0;
    }
    1
}

/// Begins a phase of the call that began at `start_ns` on the thread.
#[inline(always)]
pub fn enter_call_cause(pid_tgid: u64, start_ns: u64, cause: Cause, now_ns: u64) {
    enter_call_phase(pid_tgid, start_ns, cause as u64, now_ns);
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enter_call_phase(pid_tgid: u64, start_ns: u64, cause: u64, now_ns: u64) -> u64 {
    let Some(window) = of_thread(pid_tgid) else { return 0 };
    let Some(cause) = Cause::from_number(cause as u8) else { return 0 };
    // SAFETY: as in `take`.
    unsafe {
        if (*window).call.start_ns == start_ns && !(*window).call.enter(cause, now_ns) {
            lost(LossReason::PhasesTooDeep);
        }
    }
    0
}

/// Ends it.
#[inline(always)]
pub fn leave_call_cause(pid_tgid: u64, start_ns: u64, cause: Cause, now_ns: u64) {
    leave_call_phase(pid_tgid, start_ns, cause as u64, now_ns);
}

/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leave_call_phase(pid_tgid: u64, start_ns: u64, cause: u64, now_ns: u64) -> u64 {
    let Some(window) = of_thread(pid_tgid) else { return 0 };
    let Some(cause) = Cause::from_number(cause as u8) else { return 0 };
    // SAFETY: as in `take`.
    unsafe {
        if (*window).call.start_ns == start_ns {
            (*window).call.leave(cause, now_ns, 0);
        }
    }
    0
}
