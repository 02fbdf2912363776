//! A process that puts itself under a seccomp filter: from then on no return probe of its calls is safe.

use crate::filter::Traced;
use crate::probes::process::report;
use crate::probes::system_call::Arguments;
use allocscope_common::config::RETURNS_UNSAFE;
use allocscope_common::event::ProcessEventKind;
use aya_ebpf::macros::{fentry, tracepoint};
use aya_ebpf::programs::{FEntryContext, TracePointContext};

/// include/uapi/linux/prctl.h
const PR_SET_SECCOMP: u64 = 22;
/// include/uapi/linux/seccomp.h: SET_MODE_STRICT is 0 and SET_MODE_FILTER 1; the others ask only.
const SECCOMP_SET_MODE_FILTER: u64 = 1;

/// `prctl(option, arg2, arg3, arg4, arg5)`
#[fentry]
fn prctl_fentry(ctx: FEntryContext) -> u32 {
    prctl(&ctx)
}

/// The same by tracepoint.
#[tracepoint]
fn prctl_enter(ctx: TracePointContext) -> u32 {
    prctl(&ctx)
}

#[inline(always)]
fn prctl(asked: &impl Arguments) -> u32 {
    if asked.argument(0) == Some(PR_SET_SECCOMP) {
        forbid_return_probes();
    }
    0
}

/// `seccomp(op, flags, args)`
#[fentry]
fn seccomp_fentry(ctx: FEntryContext) -> u32 {
    seccomp(&ctx)
}

/// The same by tracepoint.
#[tracepoint]
fn seccomp_enter(ctx: TracePointContext) -> u32 {
    seccomp(&ctx)
}

#[inline(always)]
fn seccomp(asked: &impl Arguments) -> u32 {
    if asked.argument(0).is_some_and(|op| op <= SECCOMP_SET_MODE_FILTER) {
        forbid_return_probes();
    }
    0
}

/// Before the filter is in force, whether or not it then comes.
#[inline(always)]
fn forbid_return_probes() {
    if let Some(traced) = Traced::current() {
        Traced::set_returns(traced.slot, RETURNS_UNSAFE);
        report(ProcessEventKind::Filter, traced.tgid(), 0, traced.slot);
    }
}
