//! What has begun and not ended: an array slot for each open call, found without a hash, tag-checked.
//!
//! A slot is 1.5 ns where inserting into and deleting from a hash is 200 ns. Two threads whose ids
//! are equal modulo the number of slots share a slot; the tag tells, and the loss is counted.

use crate::maps::{FAULTS, GO_CALLS, NATIVE_CALLS, SYSTEM_CALLS};
use crate::record::lost;
use allocscope_common::config::INFLIGHT_SLOTS;
use allocscope_common::counter::LossReason;

/// Words that an open system call keeps for its exit.
pub const CALL_ARGS: usize = 6;

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

/// An open page fault of a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FaultStart {
    /// The thread, 0 in a free slot.
    pub tag: u64,
    /// When it began.
    pub start_ns: u64,
}

/// An open large allocation of a goroutine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GoCall {
    /// The goroutine's `g`, 0 in a free slot.
    pub g: u64,
    /// tgid in the upper half, stack depth in bytes (at most 4 GiB) in the lower one.
    pub tgid_depth: u64,
    /// When it began.
    pub start_ns: u64,
    /// Bytes asked for.
    pub size: u64,
}

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
}

/// No allocator's call takes so long: what is older was left without returning (`longjmp`).
const ABANDONED_NS: u64 = 60_000_000_000;

#[inline(always)]
fn thread_slot(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & (INFLIGHT_SLOTS - 1)
}

/// Opens a system call.
#[inline(always)]
pub fn open_system_call(call: SystemCall) {
    let Some(slot) = SYSTEM_CALLS.get_ptr_mut(thread_slot(call.tag)) else { return };
    // SAFETY: a checked map value; only this thread or one with the same slot writes it.
    unsafe {
        if (*slot).tag != 0 && (*slot).tag != call.tag {
            lost(LossReason::CallOverwritten);
        }
        *slot = call;
    }
}

/// Closes the thread's system call; `None` where none was opened (filtered out, or not seen).
#[inline(always)]
pub fn close_system_call(pid_tgid: u64) -> Option<SystemCall> {
    let slot = SYSTEM_CALLS.get_ptr_mut(thread_slot(pid_tgid))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        if (*slot).tag != pid_tgid {
            return None;
        }
        let call = *slot;
        (*slot).tag = 0;
        Some(call)
    }
}

/// Opens a page fault. A fault that never ends (a signal, a retry) is overwritten by the next.
#[inline(always)]
pub fn open_fault(fault: FaultStart) {
    let Some(slot) = FAULTS.get_ptr_mut(thread_slot(fault.tag)) else { return };
    // SAFETY: as in `open_system_call`.
    unsafe {
        if (*slot).tag != 0 && (*slot).tag != fault.tag {
            lost(LossReason::FaultOverwritten);
        }
        *slot = fault;
    }
}

/// Closes the thread's page fault and returns when it began; `None` where that was not seen.
#[inline(always)]
pub fn close_fault(pid_tgid: u64) -> Option<u64> {
    let slot = FAULTS.get_ptr_mut(thread_slot(pid_tgid))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        if (*slot).tag != pid_tgid {
            return None;
        }
        (*slot).tag = 0;
        Some((*slot).start_ns)
    }
}

/// Mixes a goroutine's key into a slot. Goroutines of a process lie at multiples of their struct's
/// size, so the bits are spread by a multiplication (Knuth's multiplicative hashing, 2^64 / phi).
#[inline(always)]
fn go_slot(g: u64, tgid_depth: u64) -> u32 {
    let mixed = (g ^ tgid_depth.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as u32 & (INFLIGHT_SLOTS - 1)
}

/// Opens a Go allocation. The same key again is the same call (its entry ran again after the stack
/// grew), or one that a panic unwound: its start is overwritten.
#[inline(always)]
pub fn open_go_call(call: GoCall) {
    let Some(slot) = GO_CALLS.get_ptr_mut(go_slot(call.g, call.tgid_depth)) else { return };
    // SAFETY: a checked map value.
    unsafe {
        if (*slot).g != 0 && ((*slot).g != call.g || (*slot).tgid_depth != call.tgid_depth) {
            lost(LossReason::CallOverwritten);
        }
        *slot = call;
    }
}

/// Closes a Go allocation; `None` where none was opened.
#[inline(always)]
pub fn close_go_call(g: u64, tgid_depth: u64) -> Option<GoCall> {
    let slot = GO_CALLS.get_ptr_mut(go_slot(g, tgid_depth))?;
    // SAFETY: a checked map value.
    unsafe {
        if (*slot).g != g || (*slot).tgid_depth != tgid_depth {
            return None;
        }
        let call = *slot;
        (*slot).g = 0;
        Some(call)
    }
}

/// Opens a native call; `None` where it is part of another one of the thread, whose frame lies above.
#[inline(always)]
pub fn open_native_call(call: NativeCall) -> Option<()> {
    let slot = NATIVE_CALLS.get_ptr_mut(thread_slot(call.tag))?;
    // SAFETY: as in `open_system_call`.
    unsafe {
        if (*slot).tag != 0 && (*slot).tag != call.tag {
            lost(LossReason::CallOverwritten);
        } else if (*slot).tag == call.tag
            && (*slot).sp > call.sp
            && call.start_ns.wrapping_sub((*slot).start_ns) < ABANDONED_NS
        {
            lost(LossReason::CallNested);
            return None;
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
