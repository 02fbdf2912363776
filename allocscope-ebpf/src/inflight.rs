//! What has begun and not ended: an array slot for each open call, found without a hash, tag-checked.
//!
//! A slot is 1.5 ns where inserting into and deleting from a hash is 200 ns. Two threads whose ids
//! are equal modulo the number of slots share a slot; the tag tells, and the loss is counted.

use crate::maps::{GO_ASSISTS, GO_CALLS, NATIVE_CALLS, SYSTEM_CALLS};
use crate::record::{lost, lost_many};
use allocscope_common::config::INFLIGHT_SLOTS;
use allocscope_common::counter::LossReason;
use allocscope_common::go_call::{GoCall, GoCallTag, opening, set_of};
use allocscope_common::go_runtime::GoAssist;

/// Words that an open system call keeps for its exit.
pub const CALL_ARGS: usize = 7;

/// An open memory system call of a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SystemCall {
    /// The thread (see `bpf_get_current_pid_tgid`), 0 in a free slot.
    pub tag: u64,
    /// When it began.
    pub start_ns: u64,
    /// What its exit needs.
    pub args: [u64; CALL_ARGS],
}

/// A thread's memory system calls.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SystemCalls {
    /// The open one.
    pub open: SystemCall,
    /// The last `mmap` or `munmap` that was recorded.
    pub last: LastCall,
}

/// A recorded call that may turn out to be a part of something larger.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LastCall {
    /// The thread.
    pub tag: u64,
    /// When the range of an `mmap` was filed; [`RELEASED`] of a `munmap`, 0 of none.
    pub filed_ns: u64,
    /// How long it took.
    pub ns: u64,
}

/// In place of a time: the call has released a range of the program's own.
pub const RELEASED: u64 = u64::MAX;

/// An open call of a native allocator.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NativeCall {
    /// The thread, 0 in a free slot.
    pub tag: u64,
    /// When it began.
    pub start_ns: u64,
    /// Bytes asked for.
    pub size: u64,
    /// The stack pointer at its entry, which points to its return address.
    pub sp: u64,
    /// Its first argument.
    pub first: u64,
    /// The process' image, see [`allocscope_common::object::home`]: its return needs no look-up by the process.
    pub home: u64,
    /// Where it gives memory back: when that was filed, in nanoseconds. Where it resizes an object: that one's bytes. Else 0.
    pub before: u64,
    /// Whether its function may end in a jump to another one: 1 or 0.
    pub hands_on: u64,
}

const _: () = assert!(size_of::<NativeCall>() == 64);

/// In place of the first argument, with the word for the memory's allocator: the call gives it back.
pub const FREEING: u64 = !0xffff;

/// No allocator's call takes so long: what is older was left without returning (`longjmp`).
const ABANDONED_NS: u64 = 60_000_000_000;

/// Where what a thread has open is.
#[inline(always)]
pub fn thread_slot(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & (INFLIGHT_SLOTS - 1)
}

/// Opens a system call.
#[inline(always)]
pub fn open_system_call(call: SystemCall) {
    let Some(slot) = SYSTEM_CALLS.get_ptr_mut(thread_slot(call.tag)) else { return };
    // SAFETY: a checked map value; only this thread or one with the same slot writes it.
    unsafe {
        let open = &raw mut (*slot).open;
        if (*open).tag != 0 && (*open).tag != call.tag {
            lost(LossReason::CallOverwritten);
        }
        *open = call;
    }
}

/// Keeps what may be a part of something larger.
#[inline(always)]
pub fn keep_last(last: LastCall) {
    if let Some(slot) = SYSTEM_CALLS.get_ptr_mut(thread_slot(last.tag)) {
        // SAFETY: as in `open_system_call`.
        unsafe { (*slot).last = last };
    }
}

/// How long the thread's last kept call took, where that is the one of this time; it is kept no longer.
#[inline(always)]
pub fn take_last(pid_tgid: u64, filed_ns: u64) -> Option<u64> {
    let slot = SYSTEM_CALLS.get_ptr_mut(thread_slot(pid_tgid))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        let last = &raw mut (*slot).last;
        if (*last).tag != pid_tgid || (*last).filed_ns != filed_ns {
            return None;
        }
        (*last).filed_ns = 0;
        Some((*last).ns)
    }
}

/// Closes the thread's system call; `None` where none was opened (filtered out, or not seen).
#[inline(always)]
pub fn close_system_call(pid_tgid: u64) -> Option<SystemCall> {
    let slot = SYSTEM_CALLS.get_ptr_mut(thread_slot(pid_tgid))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        let open = &raw mut (*slot).open;
        if (*open).tag != pid_tgid {
            return None;
        }
        let call = *open;
        (*open).tag = 0;
        Some(call)
    }
}

/// Opens a Go allocation. Calls of the same goroutine that a panic or `Goexit` unwound are given up.
#[inline(always)]
pub fn open_go_call(call: GoCall) {
    let Some(set) = GO_CALLS.get_ptr_mut(set_of(call.tag)) else { return };
    // SAFETY: a checked map value; only goroutines that share the set write it, and one of them rarely while
    // another does.
    unsafe {
        let [first, second] = [&raw mut (*set)[0], &raw mut (*set)[1]];
        let opening = opening([(*first).tag, (*second).tag], call.tag);
        if opening.overwrites {
            lost(LossReason::CallOverwritten);
        }
        if opening.abandoned > 0 {
            lost_many(LossReason::CallAbandoned, opening.abandoned);
        }
        if opening.frees_other {
            (*second).tag.g = 0;
        }
        *(if opening.way == 0 { first } else { second }) = call;
    }
}

/// The open Go allocation of that name; `None` where none was opened.
#[inline(always)]
pub fn find_go_call(tag: GoCallTag) -> Option<*mut GoCall> {
    let set = GO_CALLS.get_ptr_mut(set_of(tag))?;
    // SAFETY: as in `open_go_call`.
    unsafe {
        let [first, second] = [&raw mut (*set)[0], &raw mut (*set)[1]];
        if (*first).tag == tag {
            Some(first)
        } else if (*second).tag == tag {
            Some(second)
        } else {
            None
        }
    }
}

/// The innermost open Go allocation of goroutine `g`; `None` where none was opened.
#[inline(always)]
pub fn find_go_call_of(tgid: u32, g: u64) -> Option<*mut GoCall> {
    let tgid_depth = u64::from(tgid) << 32;
    let set = GO_CALLS.get_ptr_mut(set_of(GoCallTag { g, tgid_depth }))?;
    // SAFETY: as in `open_go_call`.
    unsafe {
        let [first, second] = [&raw mut (*set)[0], &raw mut (*set)[1]];
        let depth_of = |call: *mut GoCall| {
            let is_its = (*call).tag.g == g && (*call).tag.tgid_depth >> 32 == u64::from(tgid);
            if is_its { (*call).tag.tgid_depth } else { 0 }
        };
        let (outer, inner) = (depth_of(first), depth_of(second));
        if inner > outer {
            Some(second)
        } else if outer != 0 {
            Some(first)
        } else {
            None
        }
    }
}

/// Where a goroutine's assist is kept.
#[inline(always)]
pub fn find_assist(tag: GoCallTag) -> Option<*mut GoAssist> {
    GO_ASSISTS.get_ptr_mut(set_of(tag))
}

/// Closes a Go allocation; `None` where none was opened.
#[inline(always)]
pub fn close_go_call(tag: GoCallTag) -> Option<GoCall> {
    let call = find_go_call(tag)?;
    // SAFETY: as in `open_go_call`.
    unsafe {
        let closed = *call;
        (*call).tag.g = 0;
        Some(closed)
    }
}

/// Opens a native call; `None` where it is part of another one of the thread, whose frame lies above. One with the very
/// same frame was jumped to by another one, and takes its place and the object that it resizes.
#[inline(always)]
pub fn open_native_call(mut call: NativeCall) -> Option<()> {
    let slot = NATIVE_CALLS.get_ptr_mut(thread_slot(call.tag))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        let is_open = (*slot).tag == call.tag;
        let is_old = call.start_ns.wrapping_sub((*slot).start_ns) >= ABANDONED_NS;
        if is_open && (*slot).sp > call.sp && !is_old {
            return None;
        }
        if is_open {
            if (*slot).sp != call.sp || (*slot).hands_on == 0 {
                lost(LossReason::CallAbandoned);
            } else if call.before == 0 && (*slot).first < FREEING {
                call.before = (*slot).before;
            }
        } else if (*slot).tag != 0 {
            lost(LossReason::CallOverwritten);
        }
        *slot = call;
    }
    Some(())
}

/// Closes the native call of the thread that returns with stack pointer `sp`; `None` where none was opened.
#[inline(always)]
pub fn close_native_call(pid_tgid: u64, sp: u64) -> Option<NativeCall> {
    let slot = NATIVE_CALLS.get_ptr_mut(thread_slot(pid_tgid))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        // The return has taken the return address from the stack.
        if (*slot).tag != pid_tgid || (*slot).sp.wrapping_add(8) != sp {
            return None;
        }
        let call = *slot;
        (*slot).tag = 0;
        Some(call)
    }
}

/// Whether the thread is inside of a native allocator's call.
#[inline(always)]
pub fn in_native_call(pid_tgid: u64) -> bool {
    NATIVE_CALLS.get_ptr_mut(thread_slot(pid_tgid)).is_some_and(|slot| {
        // SAFETY: as in `open_system_call`.
        unsafe { (*slot).tag == pid_tgid }
    })
}

/// Whether the thread is inside of a native call that gives memory back, and whose time is its release.
#[inline(always)]
pub fn in_free_call(pid_tgid: u64) -> bool {
    NATIVE_CALLS.get_ptr_mut(thread_slot(pid_tgid)).is_some_and(|slot| {
        // SAFETY: as in `open_system_call`.
        unsafe { (*slot).tag == pid_tgid && (*slot).first >= FREEING }
    })
}
