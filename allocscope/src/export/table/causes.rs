//! Causes into where the time went, the dearest first: of a process and of a slow allocation.

use super::columns::{finish, new_table};
use super::number::{duration, share};
use crate::aggregate::{ProcessSnapshot, SlowAllocation};
use allocscope_common::cause::Cause;
use std::cmp::Reverse;

/// Causes that took any time, the dearest first.
pub(super) fn cause_table(process: &ProcessSnapshot) -> String {
    let (causes_ns, all_ns) = (process.causes_ns(), process.windows_ns());
    let mut told: Vec<_> = Cause::ALL.iter().map(|&cause| (causes_ns[cause as usize], cause)).collect();
    told.retain(|&(ns, _)| ns > 0);
    told.sort_by_key(|&(ns, cause)| (Reverse(ns), cause));
    let mut table = new_table(&["cause", "time", "share"]);
    for (ns, cause) in told {
        table.add_row([cause.name().to_owned(), duration(ns as f64), share(ns, all_ns)]);
    }
    if table.is_empty() { "no time was seen\n".to_owned() } else { finish(table, &[0]) }
}

pub(super) fn slow_causes(slow: &SlowAllocation) -> String {
    let causes_ns = slow.causes_ns();
    let told = Cause::ALL.iter().map(|&cause| (cause, causes_ns[cause as usize]));
    let mut told: Vec<_> = told.filter(|&(_, ns)| ns > 0).collect();
    told.sort_by_key(|&(_, ns)| Reverse(ns));
    let parts: Vec<_> = told.iter().map(|&(cause, ns)| format!("{cause} {}", duration(ns as f64))).collect();
    if parts.is_empty() { String::new() } else { format!("    where it went: {}\n", parts.join(", ")) }
}
