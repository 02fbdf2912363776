//! What is told of single allocations into the slowest ones and examples, and into the threshold above which they are told.

use super::{Example, Examples};
use crate::intake::{Name, Told};
use crate::symbol::StackId;
use allocscope_common::allocation::AllocationEvent;
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::key::Allocator;
use allocscope_common::phases::Split;
use std::collections::{BTreeMap, BTreeSet};

/// Slow allocations that are kept.
const KEPT: usize = 64;
/// Allocations that may yet turn out slow and whose stack is kept.
const MAX_ENTRIES: usize = 16_384;
/// Slow allocations that are wanted between two adjustments of the threshold: the slowest.
const WANTED: usize = 5;
/// The threshold never goes below, in nanoseconds: a call of an allocator that maps memory.
const LOWEST_NS: u64 = 20_000;
/// Where it begins at most, in nanoseconds, so that a short run has something to show.
const FIRST_NS: u64 = 1_000_000;

/// A slow allocation. Stages that are not known are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowAllocation {
    /// The process.
    pub pid: u32,
    /// The thread that called, or else the one that ran into what is known.
    pub tid: u32,
    /// The number of the goroutine that called; 0 where there is none, or it is not known.
    pub goroutine: u64,
    /// Who allocated.
    pub allocator: Allocator,
    /// Bytes that were asked for.
    pub size: u64,
    /// When its memory was filed, in nanoseconds since boot.
    pub filed_ns: u64,
    /// Time of the call.
    pub call_ns: Option<u64>,
    /// Time of first touch so far.
    pub touch_ns: Option<u64>,
    /// Page faults so far.
    pub faults: u64,
    /// Time of the release.
    pub release_ns: Option<u64>,
    /// Where the time of its call and release went, by [`Cause`]; all 0 where that is not known.
    pub window_causes: Split,
    /// What its first touch spent on causes other than the service of page faults.
    pub touch_causes: Split,
    /// The stack of the call; 0 where it was not taken.
    pub stack: StackId,
    /// The functions on the stack, the innermost first, where they were looked up.
    pub frames: Vec<String>,
}

impl SlowAllocation {
    fn of(told: &Told) -> Self {
        Self {
            pid: told.pid,
            tid: told.tid,
            goroutine: told.goroutine,
            allocator: told.allocator,
            size: told.size,
            filed_ns: told.name.filed_ns,
            call_ns: None,
            touch_ns: None,
            faults: 0,
            release_ns: None,
            window_causes: [0; CAUSES],
            touch_causes: [0; CAUSES],
            stack: 0,
            frames: Vec::new(),
        }
    }

    /// Time of the longest stage, in nanoseconds.
    pub fn worst_ns(&self) -> u64 {
        [self.call_ns, self.touch_ns, self.release_ns].into_iter().flatten().max().unwrap_or(0)
    }

    /// Where the time of its known stages went, by [`Cause`]: the sum is theirs. Of first touch what is nothing else is
    /// `page_fault`; what was not told apart is `other`.
    pub fn causes_ns(&self) -> Split {
        let mut causes = self.window_causes;
        let touch_ns = self.touch_ns.unwrap_or(0);
        if let Some(service_ns) = touch_ns.checked_sub(self.touch_causes.iter().sum()) {
            causes.iter_mut().zip(self.touch_causes).for_each(|(sum, ns)| *sum += ns);
            causes[Cause::PageFault as usize] += service_ns;
        }
        let all_ns: u64 = [self.call_ns, self.touch_ns, self.release_ns].into_iter().flatten().sum();
        causes[Cause::Other as usize] += all_ns.saturating_sub(causes.iter().sum());
        causes
    }
}

/// The slowest allocations.
#[derive(Debug)]
pub struct Slowest {
    entries: BTreeMap<Name, SlowAllocation>,
    /// The slowest of them, by time.
    top: BTreeSet<(u64, Name)>,
    examples: Examples,
    asked_ns: u64,
    threshold_ns: u64,
    /// Times at or above the threshold since it was adjusted.
    recent: Vec<u64>,
}

impl Slowest {
    /// Allocations that take `asked_ns` are always told, others as long as there are few.
    pub fn new(asked_ns: u64) -> Self {
        let threshold_ns = asked_ns.min(FIRST_NS);
        Self {
            entries: BTreeMap::new(),
            top: BTreeSet::new(),
            examples: Examples::default(),
            asked_ns,
            threshold_ns,
            recent: Vec::new(),
        }
    }

    /// What takes as long is to be told, in nanoseconds.
    pub fn threshold_ns(&self) -> u64 {
        self.threshold_ns
    }

    /// What takes as long is always to be told, in nanoseconds.
    pub fn asked_ns(&self) -> u64 {
        self.asked_ns
    }

    /// Takes in what was told, with the stack of a call; `touch_causes`, asked about first touch, tells what it spent on
    /// causes other than the service of page faults.
    pub fn take(&mut self, told: &Told, stack: StackId, touch_causes: impl FnOnce() -> Option<Split>) {
        if told.event == AllocationEvent::Move {
            return;
        }
        let entry = self.entries.entry(told.name).or_insert_with(|| SlowAllocation::of(told));
        let before = entry.worst_ns();
        match told.event {
            AllocationEvent::Call => {
                entry.call_ns = Some(told.ns);
                (entry.stack, entry.tid, entry.goroutine) = (stack, told.tid, told.goroutine);
            }
            AllocationEvent::Touch => {
                (entry.touch_ns, entry.faults) = (Some(told.ns), told.faults);
                entry.touch_causes = touch_causes().unwrap_or(entry.touch_causes);
            }
            AllocationEvent::Release => entry.release_ns = Some(told.ns),
            AllocationEvent::Move => {}
        }
        entry.window_causes.iter_mut().zip(told.causes).for_each(|(sum, ns)| *sum = sum.saturating_add(ns));
        self.examples.take(told, (entry.tid, entry.goroutine));
        let worst = entry.worst_ns();
        if told.ns >= self.threshold_ns && self.recent.len() < MAX_ENTRIES {
            self.recent.push(told.ns);
        }
        self.rank(told.name, before, worst);
        self.forget_oldest();
    }

    /// Takes in the first touch so far of an allocation that is live; `causes`, asked where it is known, tells what it
    /// spent on causes other than the service of page faults.
    pub fn touched_so_far(
        &mut self,
        name: Name,
        ns: u64,
        faults: u64,
        causes: impl FnOnce() -> Option<Split>,
    ) {
        if let Some(entry) = self.entries.get_mut(&name) {
            let before = entry.worst_ns();
            (entry.touch_ns, entry.faults) = (Some(ns), faults);
            entry.touch_causes = causes().unwrap_or(entry.touch_causes);
            let worst = entry.worst_ns();
            self.rank(name, before, worst);
        }
    }

    fn rank(&mut self, name: Name, before: u64, worst: u64) {
        self.top.remove(&(before, name));
        self.top.insert((worst, name));
        while self.top.len() > KEPT {
            self.top.pop_first();
        }
    }

    /// The last example of each series and order of time.
    pub fn examples(&self) -> Vec<Example> {
        self.examples.all()
    }

    /// Lets go of examples of before then, in nanoseconds since boot.
    pub fn forget_examples(&mut self, since_ns: u64) {
        self.examples.forget_before(since_ns);
    }

    /// Those that turned out slow stay.
    fn forget_oldest(&mut self) {
        if self.entries.len() <= MAX_ENTRIES {
            return;
        }
        let kept: BTreeSet<Name> = self.top.iter().map(|&(_, name)| name).collect();
        let mut left = MAX_ENTRIES / 2;
        self.entries.retain(|name, _| {
            let goes = left > 0 && !kept.contains(name);
            left -= usize::from(goes);
            !goes
        });
    }

    /// Adjusts the threshold to how much was told since it was last adjusted, and returns it: the time of the last
    /// one wanted, or less where there were not so many. Never more than was asked for.
    pub fn adjust(&mut self) -> u64 {
        self.recent.sort_unstable_by(|a, b| b.cmp(a));
        let wanted = self.recent.get(WANTED - 1).copied().unwrap_or(self.threshold_ns / 4);
        self.recent.clear();
        self.threshold_ns = wanted.max(LOWEST_NS).min(self.asked_ns);
        self.threshold_ns
    }

    /// The slowest `most` allocations of those wanted, the slowest first.
    pub fn slowest(&self, most: usize, is_wanted: impl Fn(&SlowAllocation) -> bool) -> Vec<SlowAllocation> {
        let found = self.top.iter().rev().filter_map(|(_, name)| self.entries.get(name));
        found
            .filter(|entry| entry.worst_ns() >= LOWEST_NS.min(self.asked_ns) && is_wanted(entry))
            .take(most)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::told;
    use super::*;

    fn all(slowest: &Slowest) -> Vec<u64> {
        slowest.slowest(10, |_| true).iter().map(SlowAllocation::worst_ns).collect()
    }

    #[test]
    fn the_stages_of_one_are_one() {
        let mut slowest = Slowest::new(10_000_000);
        slowest.take(&told(AllocationEvent::Call, 10, 500), 4, || None);
        slowest.take(&told(AllocationEvent::Touch, 10, 30_000_000), 0, || None);
        slowest.take(&told(AllocationEvent::Release, 10, 2_000_000), 0, || None);
        slowest.take(&told(AllocationEvent::Release, 20, 40_000_000), 0, || None);
        assert_eq!(all(&slowest), [40_000_000, 30_000_000]);
        let one = slowest.slowest(10, |one| one.filed_ns == 10).remove(0);
        assert_eq!(
            (one.call_ns, one.touch_ns, one.release_ns),
            (Some(500), Some(30_000_000), Some(2_000_000))
        );
        assert_eq!((one.stack, one.faults), (4, 3));
    }

    #[test]
    fn causes_sum_to_the_stages() {
        let mut call = told(AllocationEvent::Call, 10, 500);
        call.causes[Cause::Runnable as usize] = 300;
        call.causes[Cause::Alloc as usize] = 200;
        let mut went_to = [0; CAUSES];
        went_to[Cause::Runnable as usize] = 4_000;
        let mut slowest = Slowest::new(1_000);
        slowest.take(&call, 4, || None);
        slowest.take(&told(AllocationEvent::Touch, 10, 9_000), 0, || Some(went_to));
        slowest.take(&told(AllocationEvent::Release, 10, 70), 0, || None);
        let one = slowest.slowest(10, |_| true).remove(0);
        let split = |one: &SlowAllocation| {
            [Cause::Alloc, Cause::Runnable, Cause::PageFault, Cause::Other]
                .map(|cause| one.causes_ns()[cause as usize])
        };
        assert_eq!(split(&one), [200, 4_300, 5_000, 70]);
        // More than the time there is: none of it is believed.
        let odd = SlowAllocation { touch_ns: Some(3_999), ..one };
        assert_eq!(split(&odd), [200, 300, 0, 4_069]);
        assert_eq!(odd.causes_ns().iter().sum::<u64>(), 500 + 3_999 + 70);
    }

    #[test]
    fn the_threshold_follows_what_is_told() {
        let mut slowest = Slowest::new(10_000_000);
        assert_eq!(slowest.threshold_ns(), FIRST_NS);
        assert_eq!((slowest.adjust(), slowest.adjust()), (250_000, 62_500));
        for event in 0..20 {
            slowest.take(&told(AllocationEvent::Call, event, 100_000 * (event + 1)), 0, || None);
        }
        assert_eq!(slowest.adjust(), 1_600_000);
        for event in 0..20 {
            slowest.take(&told(AllocationEvent::Call, event, 50_000_000), 0, || None);
        }
        assert_eq!(slowest.adjust(), 10_000_000);
        (0..20).for_each(|_| assert!(slowest.adjust() >= LOWEST_NS));
        assert_eq!(slowest.threshold_ns(), LOWEST_NS);
    }

    #[test]
    fn few_are_kept_and_the_slowest_of_all() {
        let mut slowest = Slowest::new(1);
        for event in 0..3 * MAX_ENTRIES as u64 {
            slowest.take(
                &told(AllocationEvent::Call, event, if event == 5 { 1_000_000 } else { event % 1000 }),
                0,
                || None,
            );
        }
        assert!(slowest.entries.len() <= MAX_ENTRIES && slowest.top.len() == KEPT);
        assert_eq!(all(&slowest)[0], 1_000_000);
    }
}
