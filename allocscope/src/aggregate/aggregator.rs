//! Readings by slot and what is known of processes into [`Snapshot`]s; decides when a dead process is let go.
//!
//! A slot goes through these steps, each told by the session:
//!
//! ```text
//! admit ---> observe... ---> ended ---> observe ---> scraped ---> observe, take_retired ---> freed
//!   ^  exec: admit again                final counts  or too old   the slot's counts may go    slot may be used again
//! ```
//!
//! Counts that the kernel still holds for a process that was let go are never shown for the next one:
//! between retirement and [`Aggregator::freed`] a slot's counts are ignored.

use super::{Coverage, ProcessSnapshot, Snapshot, ToolSnapshot};
use crate::intake::{Reading, SlotReading};
use crate::target::ProcessInfo;
use allocscope_common::counter::LossReason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long ended processes are kept for a scrape to see their final counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Longest time from the final reading.
    pub max_age: Duration,
    /// Most ended processes at once: each holds a slot that a new process may need.
    pub max_ended: usize,
}

impl Default for Retirement {
    /// Five minutes, after which Prometheus itself takes a series for gone: whoever scrapes more rarely has gaps anyway.
    fn default() -> Self {
        Self { max_age: Duration::from_secs(300), max_ended: 256 }
    }
}

/// Joins readings with processes. Does no I/O, cannot fail.
#[derive(Debug, Default)]
pub struct Aggregator {
    retirement: Retirement,
    traced: BTreeMap<u32, Traced>,
    /// Slots that were let go and whose counts the kernel may still hold.
    unfreed: BTreeSet<u32>,
    /// The part of `unfreed` that [`Self::take_retired`] has not told yet.
    retired: Vec<u32>,
    tool: ToolSnapshot,
    sequence: u64,
    /// Processes that have ended so far.
    ends: u64,
    retired_unscraped: u64,
}

/// One of so many slots is kept free for those who come.
const ROOM: usize = 8;

/// A process that has a slot.
#[derive(Debug)]
struct Traced {
    info: ProcessInfo,
    coverage: Coverage,
    counts: SlotReading,
    life: Life,
    /// Which end it was of all; 0 while it runs.
    ended_as: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Ended; its final reading is still to come.
    Ending,
    /// Ended; its counts are final and first shown by the snapshot `sequence`, taken at `at`.
    Ended {
        sequence: u64,
        at: Duration,
        scraped: bool,
    },
}

impl Aggregator {
    /// An aggregator without processes.
    pub fn new(retirement: Retirement) -> Self {
        Self { retirement, ..Self::default() }
    }

    /// Tells what is in a slot: a new process, or (same process id) one that called exec, whose info
    /// and coverage are replaced and whose counts go on. One that has ended stays so: looking into a new
    /// image takes time, in which the process may end.
    ///
    /// A different process in a slot that was not freed is not believed: the old process is dropped,
    /// the slot is retired, and the new process shows zeros until [`Self::freed`].
    pub fn admit(&mut self, slot: u32, info: ProcessInfo, coverage: Coverage) {
        let Some(known) = self.traced.get_mut(&slot) else {
            self.traced.insert(slot, Traced::new(info, coverage));
            return;
        };
        if known.info.id == info.id {
            (known.info, known.coverage) = (info, coverage);
            return;
        }
        self.retired_unscraped += u64::from(!known.was_scraped());
        *known = Traced::new(info, coverage);
        self.retire_slot(slot);
    }

    /// Tells that the process in a slot has ended. The next [`Self::observe`] is its final reading. A
    /// process that was never admitted is let go at once and must not be admitted later.
    pub fn ended(&mut self, slot: u32) {
        match self.traced.get_mut(&slot) {
            Some(traced) if traced.life == Life::Running => {
                self.ends += 1;
                (traced.life, traced.ended_as) = (Life::Ending, self.ends);
            }
            Some(_) => {}
            None => self.retire_slot(slot),
        }
    }

    /// Tells what is known of allocscope itself; later snapshots carry it.
    pub fn describe_tool(&mut self, tool: ToolSnapshot) {
        self.tool = tool;
    }

    /// Takes in a reading made at `now`, a time since tracing began, and tells the state. Slots that
    /// hold no admitted process are skipped; their counts are seen once the process is admitted.
    pub fn observe(&mut self, reading: &Reading, now: Duration) -> Snapshot {
        self.retire(now);
        self.sequence += 1;
        for (slot, traced) in &mut self.traced {
            if !self.unfreed.contains(slot) {
                traced.take_counts(reading.slots.get(slot));
            }
            traced.settle(self.sequence, now);
        }
        self.snapshot(reading, now)
    }

    /// Tells that a scrape which showed the snapshot `sequence` was answered: processes whose final
    /// counts were in it are let go by the next [`Self::observe`].
    pub fn scraped(&mut self, sequence: u64) {
        for traced in self.traced.values_mut() {
            if let Life::Ended { sequence: final_in, scraped, .. } = &mut traced.life {
                *scraped |= *final_in <= sequence;
            }
        }
    }

    /// Slots that were let go since the last call: the kernel side's counts of them are to be
    /// cleared, and then [`Self::freed`] to be called.
    pub fn take_retired(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.retired)
    }

    /// Tells that the kernel side's counts of a slot were cleared: what is read of it from now on
    /// belongs to the process admitted next.
    pub fn freed(&mut self, slot: u32) {
        self.unfreed.remove(&slot);
        self.retired.retain(|&retired| retired != slot);
    }

    /// Lets go of ended processes that were scraped, are too old, or are too many.
    fn retire(&mut self, now: Duration) {
        let mut ended: Vec<(u64, u32)> = Vec::new();
        let mut gone = Vec::new();
        for (&slot, traced) in &self.traced {
            match traced.life {
                Life::Ended { scraped: true, .. } => gone.push(slot),
                Life::Ended { at, .. } if now.saturating_sub(at) > self.retirement.max_age => gone.push(slot),
                Life::Ended { .. } => ended.push((traced.ended_as, slot)),
                Life::Running | Life::Ending => {}
            }
        }
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(self.retirement.max_ended);
        gone.extend(ended.iter().take(too_many).map(|&(_, slot)| slot));
        gone.into_iter().for_each(|slot| self.let_go(slot));
    }

    /// Where hardly any of `slots` is free, lets go of processes that have ended, the first ones first, whether a scrape
    /// has seen them or not: one that comes would not be traced at all. Returns whether there is any.
    pub fn make_room(&mut self, slots: usize) -> bool {
        let room = (slots / ROOM).max(1);
        let free = self.free(slots);
        if free > room / 2 {
            return false;
        }
        let ended = self.traced.iter().filter(|(_, traced)| traced.ended_as > 0);
        let mut ended: Vec<_> = ended.map(|(&slot, traced)| (traced.ended_as, slot)).collect();
        // To clear a slot the maps are gone through: not for each one, unless it is the last.
        if free > 0 && ended.len() < room / 2 {
            return false;
        }
        ended.sort_unstable();
        ended.truncate(room.saturating_sub(free));
        ended.iter().for_each(|&(_, slot)| self.let_go(slot));
        !ended.is_empty()
    }

    /// How many of `slots` nobody has.
    pub fn free(&self, slots: usize) -> usize {
        slots.saturating_sub(self.traced.len())
    }

    fn let_go(&mut self, slot: u32) {
        let scraped = self.traced.remove(&slot).is_some_and(|traced| traced.was_scraped());
        self.retired_unscraped += u64::from(!scraped);
        self.retire_slot(slot);
    }

    fn retire_slot(&mut self, slot: u32) {
        if self.unfreed.insert(slot) {
            self.retired.push(slot);
        }
    }

    fn snapshot(&self, reading: &Reading, now: Duration) -> Snapshot {
        let mut processes: Vec<_> = self.traced.values().map(Traced::snapshot).collect();
        processes.sort_by_key(|process| process.info.id);
        let lost = LossReason::ALL.iter().map(|&reason| (reason, reading.lost[reason as usize])).collect();
        Snapshot {
            sequence: self.sequence,
            elapsed: now,
            processes,
            slowest: Vec::new(),
            examples: Vec::new(),
            lost,
            retired_unscraped: self.retired_unscraped,
            tool: self.tool.clone(),
        }
    }
}

impl Traced {
    fn new(info: ProcessInfo, coverage: Coverage) -> Self {
        Self { info, coverage, counts: SlotReading::default(), life: Life::Running, ended_as: 0 }
    }

    /// Takes the counts of a reading; those of an ended process are final.
    fn take_counts(&mut self, slot: Option<&SlotReading>) {
        if let (Life::Running | Life::Ending, Some(counts)) = (self.life, slot) {
            self.counts.clone_from(counts);
        }
    }

    /// A process that was ending has ended with the snapshot `sequence`.
    fn settle(&mut self, sequence: u64, now: Duration) {
        if self.life == Life::Ending {
            self.life = Life::Ended { sequence, at: now, scraped: false };
        }
    }

    fn was_scraped(&self) -> bool {
        matches!(self.life, Life::Ended { scraped: true, .. })
    }

    fn snapshot(&self) -> ProcessSnapshot {
        ProcessSnapshot {
            info: self.info.clone(),
            coverage: self.coverage.clone(),
            alive: self.life == Life::Running,
            counters: self.counts.counters,
            live: self.counts.live.clone(),
            series: self.counts.series.clone(),
            depths: self.counts.depths.clone(),
            findings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Tier;
    use crate::target::ProcessId;

    fn info(pid: u32, start_ticks: u64, comm: &str) -> ProcessInfo {
        ProcessInfo {
            id: ProcessId { pid, start_ticks },
            comm: comm.to_owned(),
            exe: "/bin/app".into(),
            cgroup: String::new(),
            container: String::new(),
        }
    }

    fn coverage(allocator: &str) -> Coverage {
        Coverage {
            allocator: allocator.to_owned(),
            tier: Tier::LargePath,
            own_heap: false,
            sites_attached: 1,
            sites_planned: 1,
            misses: Vec::new(),
        }
    }

    /// A reading in which each slot has filed that many ranges.
    fn reading(slots: &[(u32, u64)]) -> Reading {
        let mut reading = Reading::default();
        for &(slot, filed) in slots {
            reading.slots.entry(slot).or_default().counters.ranges_filed = filed;
        }
        reading
    }

    fn filed(snapshot: &Snapshot) -> Vec<(u32, u64, bool)> {
        let row = |p: &ProcessSnapshot| (p.info.id.pid, p.counters.ranges_filed, p.alive);
        snapshot.processes.iter().map(row).collect()
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn slots_are_skipped_until_admitted_and_their_earlier_counts_are_kept() {
        let mut aggregator = Aggregator::new(Retirement::default());
        assert!(aggregator.observe(&reading(&[(3, 5)]), at(1)).processes.is_empty());
        aggregator.admit(3, info(30, 1, "a"), coverage("go"));
        assert_eq!(filed(&aggregator.observe(&reading(&[(3, 6)]), at(2))), [(30, 6, true)]);
        aggregator.admit(1, info(9, 1, "b"), coverage("go"));
        let snapshot = aggregator.observe(&reading(&[(3, 7)]), at(3));
        assert_eq!(filed(&snapshot), [(9, 0, true), (30, 7, true)]);
        assert_eq!((snapshot.sequence, snapshot.elapsed), (3, at(3)));
    }

    #[test]
    fn exec_replaces_info_and_coverage_and_keeps_counts() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "sh"), coverage("musl"));
        aggregator.observe(&reading(&[(0, 4)]), at(1));
        aggregator.admit(0, info(30, 1, "server"), coverage("go"));
        let snapshot = aggregator.observe(&reading(&[(0, 9)]), at(2));
        assert_eq!(filed(&snapshot), [(30, 9, true)]);
        assert_eq!(snapshot.processes[0].info.comm, "server");
        assert_eq!(snapshot.processes[0].coverage.allocator, "go");
        assert!(aggregator.take_retired().is_empty());
    }

    #[test]
    fn an_exec_told_after_the_end_does_not_revive() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "sh"), coverage("musl"));
        aggregator.ended(0);
        aggregator.admit(0, info(30, 1, "true"), coverage("glibc"));
        let snapshot = aggregator.observe(&reading(&[(0, 9)]), at(2));
        assert_eq!(filed(&snapshot), [(30, 9, false)]);
        assert_eq!(snapshot.processes[0].info.comm, "true");
    }

    #[test]
    fn the_reading_after_the_end_is_final() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "a"), coverage("go"));
        aggregator.observe(&reading(&[(0, 4)]), at(1));
        aggregator.ended(0);
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 5)]), at(2))), [(30, 5, false)]);
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 99)]), at(3))), [(30, 5, false)]);
        assert_eq!(filed(&aggregator.observe(&reading(&[]), at(4))), [(30, 5, false)]);
    }

    #[test]
    fn a_dead_process_stays_until_a_scrape_has_shown_its_final_counts() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "a"), coverage("go"));
        let before = aggregator.observe(&reading(&[(0, 4)]), at(1)).sequence;
        aggregator.ended(0);
        let last = aggregator.observe(&reading(&[(0, 5)]), at(2)).sequence;
        // A scrape that was answered late, with a snapshot from before the end, does not count.
        aggregator.scraped(before);
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 5)]), at(3))), [(30, 5, false)]);
        assert!(aggregator.take_retired().is_empty());
        aggregator.scraped(last);
        let snapshot = aggregator.observe(&reading(&[(0, 5)]), at(4));
        assert!(snapshot.processes.is_empty());
        assert_eq!(snapshot.retired_unscraped, 0);
        assert_eq!(aggregator.take_retired(), [0]);
        assert!(aggregator.take_retired().is_empty(), "told once");
    }

    #[test]
    fn without_scrapes_a_dead_process_goes_after_the_maximum_age() {
        let mut aggregator = Aggregator::new(Retirement { max_age: at(10), max_ended: 8 });
        aggregator.admit(0, info(30, 1, "a"), coverage("go"));
        aggregator.ended(0);
        aggregator.observe(&reading(&[(0, 5)]), at(2));
        assert_eq!(aggregator.observe(&reading(&[(0, 5)]), at(12)).processes.len(), 1);
        let snapshot = aggregator.observe(&reading(&[(0, 5)]), at(13));
        assert!(snapshot.processes.is_empty());
        assert_eq!(snapshot.retired_unscraped, 1);
        assert_eq!(aggregator.take_retired(), [0]);
    }

    #[test]
    fn too_many_dead_processes_go_oldest_first() {
        let mut aggregator = Aggregator::new(Retirement { max_age: at(300), max_ended: 2 });
        for slot in 0..4 {
            aggregator.admit(slot, info(100 - slot, 1, "a"), coverage("go"));
            aggregator.ended(slot);
            aggregator.observe(&reading(&[]), at(u64::from(slot)));
        }
        let snapshot = aggregator.observe(&reading(&[]), at(9));
        assert_eq!(filed(&snapshot), [(97, 0, false), (98, 0, false)]);
        assert_eq!(snapshot.retired_unscraped, 2);
        assert_eq!(aggregator.take_retired(), [0, 1]);
    }

    #[test]
    fn those_who_ended_make_room_for_those_who_come() {
        let mut aggregator = Aggregator::new(Retirement::default());
        for slot in 0..32 {
            aggregator.admit(slot, info(100 + slot, 1, "a"), coverage("go"));
        }
        assert!(!aggregator.make_room(32), "all of them run");
        [7, 3, 9, 4, 5].into_iter().for_each(|slot| aggregator.ended(slot));
        assert!(!aggregator.make_room(40), "an eighth is free");
        assert!(!aggregator.make_room(35), "more than half of that is");
        assert!(aggregator.make_room(33));
        assert_eq!(aggregator.take_retired(), [7, 3, 9]);
        assert!(!aggregator.make_room(33), "now they are");
        let snapshot = aggregator.observe(&reading(&[]), at(1));
        assert_eq!((snapshot.processes.len(), snapshot.retired_unscraped), (29, 3));
    }

    #[test]
    fn a_reused_slot_starts_from_zero() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "old"), coverage("go"));
        aggregator.ended(0);
        let last = aggregator.observe(&reading(&[(0, 5)]), at(1)).sequence;
        aggregator.scraped(last);
        aggregator.observe(&reading(&[(0, 5)]), at(2));
        assert_eq!(aggregator.take_retired(), [0]);
        // Admitted before the kernel's counts were cleared: the old ones are not shown for the new process.
        aggregator.admit(0, info(31, 2, "new"), coverage("go"));
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 5)]), at(3))), [(31, 0, true)]);
        aggregator.freed(0);
        assert_eq!(filed(&aggregator.observe(&reading(&[]), at(4))), [(31, 0, true)]);
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 2)]), at(5))), [(31, 2, true)]);
        assert!(aggregator.take_retired().is_empty());
    }

    #[test]
    fn a_slot_taken_over_without_being_freed_is_retired_first() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.admit(0, info(30, 1, "old"), coverage("go"));
        aggregator.observe(&reading(&[(0, 5)]), at(1));
        // The same pid again, started later: another process.
        aggregator.admit(0, info(30, 2, "new"), coverage("go"));
        let snapshot = aggregator.observe(&reading(&[(0, 6)]), at(2));
        assert_eq!(filed(&snapshot), [(30, 0, true)]);
        assert_eq!(snapshot.retired_unscraped, 1);
        assert_eq!(aggregator.take_retired(), [0]);
        aggregator.freed(0);
        assert_eq!(filed(&aggregator.observe(&reading(&[(0, 1)]), at(3))), [(30, 1, true)]);
    }

    #[test]
    fn the_end_of_an_unknown_process_frees_its_slot_and_ends_are_told_once() {
        let mut aggregator = Aggregator::new(Retirement::default());
        aggregator.ended(4);
        aggregator.ended(4);
        assert_eq!(aggregator.take_retired(), [4]);
        aggregator.freed(4);
        aggregator.admit(4, info(30, 1, "a"), coverage("go"));
        aggregator.ended(4);
        let first = aggregator.observe(&reading(&[(4, 1)]), at(1));
        aggregator.ended(4);
        assert_eq!(filed(&first), filed(&aggregator.observe(&reading(&[(4, 2)]), at(2))));
    }

    #[test]
    fn every_loss_reason_is_present() {
        let mut aggregator = Aggregator::new(Retirement::default());
        let mut reading = Reading::default();
        reading.lost[LossReason::SlotsExhausted as usize] = 3;
        aggregator.describe_tool(ToolSnapshot { map_bytes: 4096, ..ToolSnapshot::default() });
        let snapshot = aggregator.observe(&reading, at(1));
        assert_eq!(snapshot.lost.len(), LossReason::ALL.len());
        assert_eq!(snapshot.lost[&LossReason::SlotsExhausted], 3);
        assert_eq!(snapshot.tool.map_bytes, 4096);
    }
}
