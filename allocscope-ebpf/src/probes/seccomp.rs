//! A process that puts itself under a seccomp filter: from then on no return probe of its calls is safe.

use crate::filter::Traced;
use crate::probes::process::report;
use allocscope_common::event::ProcessEventKind;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;

/// The first argument (`events/syscalls/*/format`).
const FIRST_ARGUMENT: usize = 16;
/// include/uapi/linux/prctl.h
const PR_SET_SECCOMP: u64 = 22;
/// include/uapi/linux/seccomp.h: SET_MODE_STRICT is 0 and SET_MODE_FILTER 1; the others ask only.
const SECCOMP_SET_MODE_FILTER: u64 = 1;

/// `prctl(option, arg2, arg3, arg4, arg5)`
#[tracepoint]
fn prctl_enter(ctx: TracePointContext) -> u32 {
    if first_argument(&ctx) == Some(PR_SET_SECCOMP) {
        forbid_return_probes();
    }
    0
}

/// `seccomp(op, flags, args)`
#[tracepoint]
fn seccomp_enter(ctx: TracePointContext) -> u32 {
    if first_argument(&ctx).is_some_and(|op| op <= SECCOMP_SET_MODE_FILTER) {
        forbid_return_probes();
    }
    0
}

#[inline(always)]
fn first_argument(ctx: &TracePointContext) -> Option<u64> {
    // SAFETY: within the event's record, as its format file tells.
    unsafe { ctx.read_at::<u64>(FIRST_ARGUMENT) }.ok()
}

/// Before the filter is in force, whether or not it then comes.
#[inline(always)]
fn forbid_return_probes() {
    if let Some(traced) = Traced::current() {
        Traced::set_return_safe(traced.slot, false);
        report(ProcessEventKind::Filter, traced.tgid(), 0, traced.slot);
    }
}
