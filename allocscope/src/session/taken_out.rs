//! Probes that are taken out of a running process again, and why: each becomes a miss of its coverage.

use super::Session;
use crate::aggregate::{Tier, cost_seconds};
use crate::probe::Returns;
use crate::site::Miss;
use allocscope_common::counter::{ProbeClass, ProcessCounters};

/// Of a hundred calls, how many may return what no allocator does: a block may be gone, or its page swapped out,
/// by the time that it is looked at.
const MAX_ODD_PERCENT: u64 = 1;

impl Session {
    /// The kernel side ends return probes where a process puts itself under a filter. From then on its calls are
    /// seen to return at their callers.
    pub(super) fn attach_without_returns(&mut self, pid: u32) {
        let Some(known) = self.tracked.get_mut(&pid) else { return };
        let is_probed = known.coverage.tier > Tier::Kernel && !known.coverage.own_heap;
        if !is_probed || known.is_filtered || self.maps.is_return_safe(known.slot) {
            return;
        }
        // Told before the filter is in force: /proc may not know of it yet.
        let attached = self.binaries.attach(&mut self.loaded, pid, Returns::AtCallers);
        self.binaries.release(std::mem::replace(&mut known.used, attached.used));
        known.coverage = attached.coverage;
        known.is_filtered = true;
        self.aggregator.admit(known.slot, known.info.clone(), known.coverage.clone());
    }

    /// A native allocator's function was found by its name or by following code. Where what it returns is not
    /// what an allocator returns, it is another function.
    ///
    /// The process itself is what is looked at, from its first large call on, and not a child of allocscope's that
    /// loads the same library and allocates: the file is whoever's it is who runs the process, loading it runs its
    /// constructors, and allocscope is root. With all privileges given up it would still have to be the file's own
    /// loader and libraries, in its mount namespace, and it could not be done at all where the allocator is part of
    /// an executable, which nothing can load. What such a child would tell, this tells within two seconds: each
    /// call's result, against what the allocator can return for that size. A function that gives memory back needs
    /// no such look: only what is the first address of an object that was seen to be allocated counts.
    pub(super) fn take_out_what_is_wrong(&mut self) {
        for (pid, known) in &mut self.tracked {
            let counters = self.maps.counters(known.slot);
            if known.coverage.tier == Tier::Kernel
                || !is_refuted(&counters)
                || !self.binaries.detach(&known.used)
            {
                continue;
            }
            known.coverage.sites_attached = 0;
            known.coverage.tier = Tier::Kernel;
            let detail = "what the probed function returned is not what an allocator returns: it is another \
                          function, and its counts are not to be trusted"
                .to_owned();
            log::warn!("process {pid}: {detail}");
            known.coverage.misses.push(Miss { reason: "allocator_path_refuted", detail });
            self.aggregator.admit(known.slot, known.info.clone(), known.coverage.clone());
        }
    }

    /// Takes out of processes that tracing costs more than it may what it costs: their uprobes first; where
    /// these are gone and it is still too much, the process is left alone.
    pub(super) fn take_out_what_costs_too_much(&mut self) {
        let Some(overhead) = &mut self.overhead else { return };
        let (now, prices, max) = (self.started.elapsed(), self.prices.by_class(), overhead.max_percent());
        overhead.keep(|pid| self.tracked.contains_key(&pid));
        for (&pid, known) in &mut self.tracked {
            let cost = cost_seconds(&self.maps.counters(known.slot), &prices);
            let Some(percent) = overhead.look(pid, now, cost) else { continue };
            let what = if self.binaries.detach(&known.used) {
                known.coverage.sites_attached = 0;
                known.coverage.tier = Tier::Kernel;
                "its uprobes were taken out"
            } else {
                self.maps.remove_target(pid, known.slot);
                "it is not traced any more"
            };
            let detail =
                format!("tracing it cost {percent:.1}% of a CPU, where --max-overhead allows {max}%: {what}");
            log::warn!("process {pid}: {detail}");
            known.coverage.misses.push(Miss { reason: "shed_for_overhead", detail });
            self.aggregator.admit(known.slot, known.info.clone(), known.coverage.clone());
        }
    }
}

fn is_refuted(counters: &ProcessCounters) -> bool {
    let calls = counters.hits[ProbeClass::UprobeReturn as usize];
    counters.odd_results * 100 > calls * MAX_ODD_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(returns: u64, odd_results: u64) -> ProcessCounters {
        let mut counters = ProcessCounters { odd_results, ..ProcessCounters::default() };
        counters.hits[ProbeClass::UprobeReturn as usize] = returns;
        counters
    }

    #[test]
    fn one_odd_result_in_a_hundred_refutes_nothing() {
        assert!(!is_refuted(&counters(0, 0)));
        assert!(!is_refuted(&counters(100, 1)));
        assert!(is_refuted(&counters(100, 2)));
        assert!(is_refuted(&counters(1, 1)));
    }
}
