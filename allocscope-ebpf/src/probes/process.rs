//! Processes: fork, exec, exit. Children of traced processes get a slot before they run.

use crate::atomic::increment;
use crate::filter::{Traced, returns_of};
use crate::maps::{EVENTS, FOLLOW_ALL, FREE_SLOTS, GO_STOPS, REPORT_EVERY_EXEC, TARGETS};
use crate::record::lost;
use crate::thread;
use allocscope_common::config::{FOLLOW_CHILDREN, RETURNS_SAFE, RETURNS_UNKNOWN, Target};
use allocscope_common::counter::LossReason;
use allocscope_common::event::{NO_SLOT, ProcessEvent, ProcessEventKind};
use allocscope_common::go_runtime::GoStop;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use aya_ebpf::macros::{raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};

/// Offsets in `task:task_newtask` (its format file: pid, comm[16], clone_flags).
const NEWTASK_PID: usize = 8;
const NEWTASK_CLONE_FLAGS: usize = 32;
/// include/uapi/linux/sched.h
const CLONE_THREAD: u64 = 0x10000;

/// `task_newtask(struct task_struct *task, unsigned long clone_flags)`, run by the parent.
#[tracepoint]
fn process_fork(ctx: TracePointContext) -> u32 {
    try_fork(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_fork(ctx: &TracePointContext) -> Option<u32> {
    // SAFETY: within the event's record, as its format file tells.
    let clone_flags = unsafe { ctx.read_at::<u64>(NEWTASK_CLONE_FLAGS) }.ok()?;
    if clone_flags & CLONE_THREAD != 0 {
        return None;
    }
    // SAFETY: as above.
    let child = unsafe { ctx.read_at::<u32>(NEWTASK_PID) }.ok()?;
    // A pid that serves again belongs to a process that ended before the user side could tell.
    let _ = TARGETS.remove(child);
    thread::forget(u64::from(child) << 32 | u64::from(child));
    let parent = Traced::current();
    let followed = parent.as_ref().is_some_and(|parent| parent.has(FOLLOW_CHILDREN));
    if !followed && FOLLOW_ALL.load() == 0 {
        return None;
    }
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        lost(LossReason::SlotsExhausted);
        return None;
    };
    // A seccomp filter is inherited, as is its absence; of a parent that is not traced neither is known.
    Traced::set_returns(slot, parent.as_ref().map_or(RETURNS_UNKNOWN, |parent| returns_of(parent.slot)));
    // SAFETY: a checked map value.
    let brk = parent.map_or(0, |parent| unsafe { (*parent.target).brk });
    let target = Target { slot, flags: FOLLOW_CHILDREN, brk };
    if TARGETS.insert(child, target, 0).is_err() {
        let _ = FREE_SLOTS.push(slot, 0);
        lost(LossReason::SlotsExhausted);
        return None;
    }
    let parent_tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    report(ProcessEventKind::Fork, child, parent_tgid, slot)
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint]
fn process_exec(_ctx: RawTracePointContext) -> u32 {
    try_exec().unwrap_or(0)
}

#[inline(always)]
fn try_exec() -> Option<u32> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(traced) = Traced::current() else {
        if REPORT_EVERY_EXEC.load() != 0 {
            report(ProcessEventKind::Exec, tgid, 0, NO_SLOT);
        }
        return None;
    };
    // A filter stays.
    if returns_of(traced.slot) == RETURNS_SAFE {
        Traced::set_returns(traced.slot, RETURNS_UNKNOWN);
    }
    let image = traced.image()?;
    // SAFETY: checked map values; the other threads of the process are gone by now.
    unsafe {
        increment(&raw mut (*image.filed).number);
        (*image.filed).range_classes = 0;
        (*image.filed).object_classes = 0;
        (*traced.target).brk = 0;
        (*traced.target).flags &= FOLLOW_CHILDREN;
    }
    if let Some(stop) = GO_STOPS.get_ptr_mut(traced.slot) {
        // SAFETY: a checked map value, as above.
        unsafe { *stop = GoStop::default() };
    }
    report(ProcessEventKind::Exec, tgid, 0, traced.slot)
}

/// `sched_process_exit(struct task_struct *p)`, for each thread.
#[raw_tracepoint]
fn process_exit(_ctx: RawTracePointContext) -> u32 {
    try_exit().unwrap_or(0)
}

#[inline(always)]
fn try_exit() -> Option<u32> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    if tgid != tid {
        return None;
    }
    let traced = Traced::current()?;
    report(ProcessEventKind::Exit, tgid, 0, traced.slot)
}

#[inline(always)]
pub fn report(kind: ProcessEventKind, tgid: u32, parent_tgid: u32, slot: u32) -> Option<u32> {
    let comm = bpf_get_current_comm().unwrap_or([0; 16]);
    let event = ProcessEvent { kind: kind as u32, tgid, parent_tgid, slot, comm };
    if EVENTS.output::<ProcessEvent>(event, 0).is_err() {
        lost(LossReason::EventRingFull);
    }
    None
}
