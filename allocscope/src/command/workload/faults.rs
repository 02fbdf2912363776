//! First touches and nothing else, as fast as they go: the yardstick for what tracing a page fault costs.

use serde::Serialize;

use super::is_stopped;
use super::mapping::Mapping;
use super::truth::{Faults, timed_with_cpu};
use crate::cli::workload::FaultsArgs;
use anyhow::Context;

/// What faults did. Times are of touching only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultsTruth {
    workload: &'static str,
    pid: u32,
    mib: u64,
    rounds: u64,
    pages_touched: u64,
    touch_ns: u64,
    /// The same by the thread's CPU clock, which stands still while others run.
    touch_cpu_ns: u64,
    /// Of all rounds.
    ns_per_fault_mean: f64,
    /// Of the middle round.
    ns_per_fault_median: f64,
    /// Of the fastest round.
    ns_per_fault_best: f64,
    faults: Faults,
}

/// Touches all of a mapping, throws its pages away untimed, and begins anew.
pub fn run(args: &FaultsArgs) -> anyhow::Result<FaultsTruth> {
    let mut mapping = Mapping::new(args.mib << 20)?;
    mapping.advise(libc::MADV_NOHUGEPAGE).ok();
    let mut rounds_ns = Vec::with_capacity(usize::try_from(args.rounds)?);
    let (mut pages_touched, mut cpu_ns) = (0, 0);
    let before = Faults::so_far()?;
    for _ in 0..args.rounds {
        if is_stopped() {
            break;
        }
        let mut round_ns = 0;
        pages_touched += timed_with_cpu(&mut round_ns, &mut cpu_ns, || {
            if args.read { mapping.read() } else { mapping.touch() }
        })?;
        rounds_ns.push(round_ns);
        mapping.advise(libc::MADV_DONTNEED).context("cannot discard pages")?;
    }
    let faults = Faults::so_far()? - before;
    Ok(FaultsTruth { touch_cpu_ns: cpu_ns, ..summary(args.mib, pages_touched, rounds_ns, faults) })
}

fn summary(mib: u64, pages_touched: u64, mut rounds_ns: Vec<u64>, faults: Faults) -> FaultsTruth {
    rounds_ns.sort_unstable();
    let touch_ns = rounds_ns.iter().sum();
    let pages_per_round = (mib << 20) / super::PAGE_BYTES;
    let per_fault = |ns: Option<&u64>| ns.map_or(0.0, |&ns| ns as f64 / pages_per_round as f64);
    FaultsTruth {
        workload: "faults",
        pid: std::process::id(),
        mib,
        rounds: rounds_ns.len() as u64,
        pages_touched,
        touch_ns,
        touch_cpu_ns: 0,
        ns_per_fault_mean: touch_ns as f64 / pages_touched.max(1) as f64,
        ns_per_fault_median: per_fault(rounds_ns.get(rounds_ns.len() / 2)),
        ns_per_fault_best: per_fault(rounds_ns.first()),
        faults,
    }
}
