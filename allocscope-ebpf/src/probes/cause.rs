//! Rare tracepoints that tell what a thread in a window does: reclaim, compaction, waiting for the lock of the address
//! space, and leaving the CPU.
//!
//! They fire for every thread of the machine, so each looks first whether the thread is in a window: two array
//! look-ups. None of the prototypes' arguments is needed but for the scheduler's.

use crate::maps::TASK_PID_OFFSET;
use crate::window;
use allocscope_common::cause::Cause;
use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};

/// A typed program and, for kernels where that does not load, a raw one, at a tracepoint that begins or ends a cause.
macro_rules! at {
    ($($tracepoint:literal, $typed:ident, $raw:ident: $event:ident($cause:ident);)*) => { $(
        #[btf_tracepoint(function = $tracepoint)]
        fn $typed(_ctx: BtfTracePointContext) -> i32 {
            window::$event(Cause::$cause);
            0
        }

        #[raw_tracepoint(tracepoint = $tracepoint)]
        fn $raw(_ctx: RawTracePointContext) -> i32 {
            window::$event(Cause::$cause);
            0
        }
    )* };
}

at! {
    "mm_vmscan_direct_reclaim_begin", reclaim_begin, reclaim_begin_raw: enter_cause(Reclaim);
    "mm_vmscan_direct_reclaim_end", reclaim_end, reclaim_end_raw: leave_cause(Reclaim);
    "mm_vmscan_node_reclaim_begin", node_reclaim_begin, node_reclaim_begin_raw: enter_cause(Reclaim);
    "mm_vmscan_node_reclaim_end", node_reclaim_end, node_reclaim_end_raw: leave_cause(Reclaim);
    "mm_vmscan_memcg_reclaim_begin", memcg_reclaim_begin, memcg_reclaim_begin_raw: enter_cause(MemcgReclaim);
    "mm_vmscan_memcg_reclaim_end", memcg_reclaim_end, memcg_reclaim_end_raw: leave_cause(MemcgReclaim);
    "mm_compaction_begin", compaction_begin, compaction_begin_raw: enter_cause(Compaction);
    "mm_compaction_end", compaction_end, compaction_end_raw: leave_cause(Compaction);
    "mmap_lock_start_locking", mmap_lock_begin, mmap_lock_begin_raw: enter_cause(MmapLock);
    "mmap_lock_acquire_returned", mmap_lock_end, mmap_lock_end_raw: leave_cause(MmapLock);
}

/// `trace_sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`;
/// the current thread
/// is `prev`.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (is_preempted, state): (u64, u64) = (ctx.arg(0), ctx.arg(3));
    // TASK_RUNNING is 0 (linux/sched.h).
    window::pause(pid(ctx.arg(1)), is_preempted as u8 != 0 || state as u32 == 0);
    window::resume(pid(ctx.arg(2)));
    0
}

/// `trace_sched_waking(struct task_struct *p)`
#[btf_tracepoint(function = "sched_waking")]
fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    window::wake(pid(ctx.arg(0)));
    0
}

/// A task's thread id.
#[inline(always)]
fn pid(task: *const u8) -> u32 {
    let offset = TASK_PID_OFFSET.load() as usize;
    // SAFETY: the verifier checks the read against the kernel's type information.
    unsafe { task.add(offset).cast::<u32>().read_volatile() }
}
