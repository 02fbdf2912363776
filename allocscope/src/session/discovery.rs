//! A process into what is attached to it, and what it maps later into more.

use super::Session;
use super::binaries::{Attached, is_unfiltered, returns_of};
use crate::aggregate::Coverage;
use crate::intake::Maps;
use crate::target::ProcessInfo;

impl Session {
    /// Examines a process' binaries and attaches their sites.
    pub(super) fn discover(&mut self, info: &ProcessInfo) -> Attached {
        let mut attached = self.binaries.attach(&mut self.loaded, info.id.pid, returns_of(info.id.pid));
        attached.coverage.misses.extend_from_slice(self.system.cause_misses());
        self.measure_prices(&attached.coverage);
        attached
    }

    pub(super) fn measure_prices(&mut self, coverage: &Coverage) {
        if coverage.sites_attached > 0 {
            self.prices.measure_uprobes(&mut self.loaded, &mut self.maps);
        }
    }

    /// A filter that came into force since it was looked for is found by looking again: the kernel side
    /// watches for those that come later.
    pub(super) fn set_return_safe(&mut self, slot: u32, pid: u32, safe: bool) {
        let set = |maps: &mut Maps, safe| {
            if let Err(error) = maps.set_return_safe(slot, safe) {
                log::warn!("native allocators of process {pid} are not probed: {error:#}");
            }
        };
        set(&mut self.maps, safe);
        if safe && !is_unfiltered(pid) {
            set(&mut self.maps, false);
        }
    }

    /// Attaches to the allocators' libraries that process `pid` has mapped since it was looked at: what a
    /// dynamic executable does after its exec.
    pub fn attach_libraries(&mut self, pid: u32) {
        self.look(pid);
        let Some(known) = self.tracked.get_mut(&pid) else { return };
        if known.coverage.own_heap
            || !self.binaries.attach_libraries(&mut self.loaded, pid, &mut known.used, &mut known.coverage)
        {
            return;
        }
        let coverage = known.coverage.clone();
        self.aggregator.admit(known.slot, known.info.clone(), coverage.clone());
        self.measure_prices(&coverage);
    }
}
