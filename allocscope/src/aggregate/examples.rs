//! What is told of single allocations into an example of each series and order of time: the last one.

use crate::intake::Told;
use allocscope_common::allocation::AllocationEvent;
use allocscope_common::bucket::{BUCKETS_PER_OCTAVE, bucket_of_ns};
use allocscope_common::key::{Series, Stage, size_class};
use std::collections::BTreeMap;

/// Examples that are kept.
const MAX_EXAMPLES: usize = 4096;

/// One stage of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The process.
    pub pid: u32,
    /// Which of its series it counts in.
    pub series: Series,
    /// The thread that allocated, or else the one that ran into what is known.
    pub tid: u32,
    /// The number of the goroutine that allocated; 0 where there is none, or it is not known.
    pub goroutine: u64,
    /// Its time, in nanoseconds.
    pub ns: u64,
    /// When it was over, in nanoseconds since boot.
    pub at_ns: u64,
}

/// The last example of each series of a process and of each doubling of a time. An example is only ever replaced by a
/// later one, and none is seen again: Prometheus takes no exemplar that is older than the one before.
#[derive(Debug, Default)]
pub struct Examples {
    last: BTreeMap<(u32, Series, u32), Example>,
}

impl Examples {
    /// Takes in what was told, of an allocation by this thread and goroutine.
    pub fn take(&mut self, told: &Told, (tid, goroutine): (u32, u64)) {
        let stage = match told.event {
            AllocationEvent::Call => Stage::Call,
            AllocationEvent::Touch => Stage::Touch,
            AllocationEvent::Release => Stage::Release,
            AllocationEvent::Move => return,
        };
        let series = Series::Stage { allocator: told.allocator, stage, size_class: size_class(told.size) };
        let example = Example { pid: told.pid, series, tid, goroutine, ns: told.ns, at_ns: told.at_ns };
        // Octaves end at powers of two of a second, as classic buckets do.
        let octave = bucket_of_ns(told.ns).div_ceil(BUCKETS_PER_OCTAVE);
        let last = self.last.entry((told.pid, series, octave)).or_insert_with(|| example.clone());
        if example.at_ns > last.at_ns {
            *last = example;
        }
        if self.last.len() > MAX_EXAMPLES {
            self.forget_older_half();
        }
    }

    /// Lets go of what was over before then, in nanoseconds since boot.
    pub fn forget_before(&mut self, since_ns: u64) {
        self.last.retain(|_, example| example.at_ns >= since_ns);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Example> {
        self.last.values().cloned().collect()
    }

    /// Half of them, so that not each new one looks through all.
    fn forget_older_half(&mut self) {
        let mut times: Vec<u64> = self.last.values().map(|example| example.at_ns).collect();
        let half = times.len() / 2;
        let (_, &mut middle_ns, _) = times.select_nth_unstable(half);
        self.forget_before(middle_ns.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::told;
    use super::*;

    fn taken(all: &[(AllocationEvent, u64, u64)]) -> Examples {
        let mut examples = Examples::default();
        for &(event, at_ns, ns) in all {
            examples.take(&told(event, at_ns, ns), (8, 9));
        }
        examples
    }

    fn times(examples: &Examples) -> Vec<(u64, u64)> {
        examples.all().iter().map(|example| (example.at_ns, example.ns)).collect()
    }

    #[test]
    fn the_last_of_a_stage_and_an_octave_is_kept() {
        use AllocationEvent::{Call, Move, Release, Touch};
        // 2^-9 s is 1,953,125 ns.
        let examples = taken(&[
            (Call, 10, 1_000_000),
            (Call, 30, 1_953_125),
            (Call, 20, 1_500_000),
            (Call, 15, 1_953_126),
            (Touch, 16, 1_500_000),
            (Release, 17, 1_500_000),
            (Move, 40, 1_500_000),
        ]);
        assert_eq!(times(&examples), [(30, 1_953_125), (15, 1_953_126), (16, 1_500_000), (17, 1_500_000)]);
        let example = examples.all().remove(2);
        assert_eq!((example.pid, example.tid, example.goroutine), (7, 8, 9));
        assert!(matches!(example.series, Series::Stage { stage: Stage::Touch, size_class: 9, .. }));
    }

    #[test]
    fn old_ones_go() {
        let mut examples = taken(&[(AllocationEvent::Call, 10, 500), (AllocationEvent::Call, 20, 5_000_000)]);
        examples.forget_before(11);
        assert_eq!(times(&examples), [(20, 5_000_000)]);
        for pid in 0..2 * MAX_EXAMPLES as u32 {
            let told = Told { pid, ..told(AllocationEvent::Call, 100 + u64::from(pid), 500) };
            examples.take(&told, (8, 0));
        }
        let all = examples.all();
        assert!((MAX_EXAMPLES / 2..=MAX_EXAMPLES).contains(&all.len()));
        let oldest = 2 * MAX_EXAMPLES - all.len();
        assert!(all.iter().all(|example| example.pid >= oldest as u32), "the oldest went");
    }
}
