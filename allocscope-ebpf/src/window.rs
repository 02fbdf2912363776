//! What a thread does in a call or page fault, as rare tracepoints and marks see it, into where the time went.
//!
//! Each thread has a place for a call's window and, nested in it, a fault's. [`allocscope_common::phases`] has the
//! rules and the arithmetic; here is which window an event belongs to.
//!
//! - A call's window is opened and closed with the call. One inside of another (the system calls of an allocator's
//!   call) is part of that one.
//! - A fault's window is open while `maps::FAULTS` holds the thread. Nothing is written for it when it begins: the
//!   first rare event in it does, and most faults have none. What a fault's time went to is counted once, with the
//!   call that it lies in or by itself. It is not kept for each range.
//! - A Go call's window follows its goroutine from thread to thread, as its probes see it. What it did out of sight is
//!   `blocked`, or stays with its phase; so does the time that its thread waits. A page fault on the other thread
//!   meanwhile is counted as a fault besides. Where its thread takes up another goroutine's call meanwhile, it is
//!   parked in [`maps::PARKED`](crate::maps::PARKED).

use crate::atomic::add;
use crate::maps::{PARKED, WINDOWS};
use crate::record::{counters, lost};
use crate::thread::{is_in_fault, open_fault_start};
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::config::WINDOW_SLOTS;
use allocscope_common::counter::LossReason;
use allocscope_common::go_call::parking_of;
use allocscope_common::phases::{Away, Phases};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use core::ptr::copy_nonoverlapping;

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

/// The call of a goroutine that does not run, and whose thread is in another one's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parked {
    /// Time of page faults in it so far.
    fault_ns: u64,
    /// When it began names it.
    call: Phases,
}

const ON_CPU: u32 = 0;
const WAITING: u32 = 1;
const RUNNABLE: u32 = 2;
/// A thread that waits in the middle of a goroutine's call: most have none, and the goroutine runs on another one.
const ELSEWHERE: u32 = 4;

/// No call takes so long: what is older was left without returning.
const ABANDONED_NS: u64 = 60_000_000_000;

/// A wait for a lock that is shorter was none: what it takes to get a free one, with the probes at both ends.
const LEAST_WAIT_NS: u64 = 1_000;

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

/// Ends a fault's window. `is_swap`: its page was read from swap. Nothing is written for a fault that was nothing else
/// and lies in no call.
#[inline(always)]
pub fn end_fault(pid_tgid: u64, slot: u32, start_ns: u64, ns: u64, is_swap: bool) {
    let Some(window) = place(pid_tgid as u32) else { return };
    // SAFETY: a checked map value.
    if is_swap || unsafe { (*window).tag == pid_tgid } {
        end_fault_window(pid_tgid, slot.into(), start_ns, ns, is_swap.into());
    }
}

/// The rest of it. Returns 0.
///
/// Like the other functions with global linkage: the verifier checks it once and not at each call, which
/// takes old kernels seconds.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_fault_window(pid_tgid: u64, slot: u64, start_ns: u64, ns: u64, is_swap: u64) -> u64 {
    let Some(window) = place(pid_tgid as u32) else { return 0 };
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
        } else if in_call {
            let cause = if is_swap { Cause::SwapIn } else { Cause::PageFault };
            (*call).take_plain_fault(start_ns, end_ns, cause);
        } else if is_swap {
            count_swap_in(slot, ns);
        }
    }
    0
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

/// The innermost open window of the thread. A fault older than the call never ended: the call's code runs.
#[inline(always)]
fn innermost(window: *mut Window, fault_ns: Option<u64>) -> Option<*mut Phases> {
    // SAFETY: a checked map value by its origin.
    unsafe {
        let call_ns = (*window).call.start_ns;
        match fault_ns {
            Some(fault_ns) if fault_ns >= call_ns => {
                if (*window).fault.start_ns != fault_ns {
                    (*window).fault.open(fault_ns);
                }
                Some(&raw mut (*window).fault)
            }
            _ => (call_ns != 0).then_some(&raw mut (*window).call),
        }
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
    if own.is_none() && fault_ns.is_none() {
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
