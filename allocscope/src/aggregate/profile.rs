//! What is told of single allocations into costs by stack: the values of a profile.

use crate::intake::{Name, Told};
use crate::symbol::StackId;
use allocscope_common::allocation::AllocationEvent;
use std::collections::BTreeMap;

/// Allocations whose later cost is waited for; past it the oldest are given up.
const MAX_LIVE: usize = 1 << 20;

/// What the allocations of a stack cost. Of allocations that were not all recorded, an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Allocations.
    pub count: u64,
    /// Bytes that were asked for.
    pub bytes: u64,
    /// Time of the calls, in nanoseconds.
    pub call_ns: u64,
    /// Time of first touch, in nanoseconds.
    pub touch_ns: u64,
    /// Time of the release, in nanoseconds.
    pub release_ns: u64,
    /// Page faults of first touch.
    pub faults: u64,
}

/// Whose allocations, and with which stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The process.
    pub pid: u32,
    /// The stack of their calls.
    pub stack: StackId,
}

/// Costs by stack.
#[derive(Debug, Default)]
pub struct Profile {
    sites: BTreeMap<Site, Values>,
    live: BTreeMap<Name, (Site, u64)>,
    /// Calls that were recorded.
    pub recorded: u64,
    /// Of these, calls that stood for others as well.
    pub thinned: u64,
    /// Allocations whose later cost was given up.
    pub given_up: u64,
}

impl Profile {
    /// Takes in what was told, with the stack of a call.
    pub fn take(&mut self, told: &Told, stack: StackId) {
        match told.event {
            AllocationEvent::Call => self.call(told, Site { pid: told.pid, stack }),
            AllocationEvent::Touch => self.touch(told.name, told.ns, told.faults),
            AllocationEvent::Release => self.release(told),
            AllocationEvent::Move => self.rename(told),
        }
    }

    fn call(&mut self, told: &Told, site: Site) {
        self.recorded += 1;
        self.thinned += u64::from(told.weight > 1);
        let values = self.sites.entry(site).or_default();
        values.count = values.count.saturating_add(told.weight);
        add(&mut values.bytes, told.size, told.weight);
        add(&mut values.call_ns, told.ns, told.weight);
        self.live.insert(told.name, (site, told.weight));
        while self.live.len() > MAX_LIVE {
            self.live.pop_first();
            self.given_up += 1;
        }
    }

    /// Takes in the first touch of an allocation, at its end or at the end of the recording.
    pub fn touch(&mut self, name: Name, ns: u64, faults: u64) {
        if let Some((values, weight)) = self.values_of(name) {
            add(&mut values.touch_ns, ns, weight);
            add(&mut values.faults, faults, weight);
        }
    }

    fn release(&mut self, told: &Told) {
        if let Some((values, weight)) = self.values_of(told.name) {
            add(&mut values.release_ns, told.ns, weight);
        }
        self.live.remove(&told.name);
    }

    fn rename(&mut self, told: &Told) {
        let before = Name { filed_ns: told.at_ns, ..told.name };
        if let Some(found) = self.live.remove(&before) {
            self.live.insert(told.name, found);
        }
    }

    fn values_of(&mut self, name: Name) -> Option<(&mut Values, u64)> {
        let &(site, weight) = self.live.get(&name)?;
        Some((self.sites.get_mut(&site)?, weight))
    }

    /// The values of each site.
    pub fn sites(&self) -> &BTreeMap<Site, Values> {
        &self.sites
    }
}

fn add(sum: &mut u64, value: u64, weight: u64) {
    *sum = sum.saturating_add(value.saturating_mul(weight));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use allocscope_common::cause::CAUSES;
    use allocscope_common::key::Allocator;

    pub(crate) fn told(event: AllocationEvent, filed_ns: u64, ns: u64) -> Told {
        Told {
            name: Name { slot: 0, filed_ns },
            event,
            pid: 7,
            tid: 8,
            goroutine: 0,
            allocator: Allocator::Glibc,
            size: 1000,
            at_ns: filed_ns,
            ns,
            faults: 3,
            weight: 1,
            causes: [0; CAUSES],
            stack: None,
        }
    }

    #[test]
    fn the_stages_of_an_allocation_come_together_by_its_stack() {
        let mut profile = Profile::default();
        profile.take(&told(AllocationEvent::Call, 10, 1), 1);
        profile.take(&Told { weight: 4, ..told(AllocationEvent::Call, 20, 2) }, 1);
        profile.take(&told(AllocationEvent::Touch, 20, 100), 0);
        profile.take(&told(AllocationEvent::Release, 20, 50), 0);
        // Over: what is told of it again is another's.
        profile.take(&told(AllocationEvent::Release, 20, 50), 0);
        profile.take(&told(AllocationEvent::Touch, 99, 1), 0);
        let values = profile.sites()[&Site { pid: 7, stack: 1 }];
        let expected =
            Values { count: 5, bytes: 5000, call_ns: 9, touch_ns: 400, release_ns: 200, faults: 12 };
        assert_eq!((values, profile.sites().len()), (expected, 1));
        assert_eq!((profile.recorded, profile.thinned), (2, 1));
    }

    #[test]
    fn what_is_moved_keeps_its_stack() {
        let mut profile = Profile::default();
        profile.take(&told(AllocationEvent::Call, 10, 1), 1);
        profile.take(&Told { at_ns: 10, ..told(AllocationEvent::Move, 30, 0) }, 0);
        profile.take(&told(AllocationEvent::Touch, 30, 100), 0);
        profile.take(&told(AllocationEvent::Touch, 10, 1000), 0);
        assert_eq!(profile.sites()[&Site { pid: 7, stack: 1 }].touch_ns, 100);
    }
}
