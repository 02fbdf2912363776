//! A pool's own counters into a part of a workload's truth, and large blocks by classes of size.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pool::counters::{Drops, Hits};
use crate::pool::{BufferCounters, PoolCounters};

/// What a pool says that it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolTruth {
    gets: u64,
    hits: HitTruth,
    /// Objects made, each by one call of malloc.
    pub misses: u64,
    returns: u64,
    puts: u64,
    takes: u64,
    /// By reason.
    drops: BTreeMap<&'static str, u64>,
    beyond_limit: u64,
    waits: u64,
    timeouts: u64,
    ticks: u64,
    in_use: u64,
    idle: u64,
    idle_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct HitTruth {
    private: u64,
    shared: u64,
    stolen: u64,
    victim: u64,
}

impl From<PoolCounters> for PoolTruth {
    fn from(counters: PoolCounters) -> Self {
        let Hits { private, shared, stolen, victim } = counters.hits;
        Self {
            gets: counters.gets,
            hits: HitTruth { private, shared, stolen, victim },
            misses: counters.misses,
            returns: counters.returns,
            puts: counters.puts,
            takes: counters.takes,
            drops: Drops::by_reason(&counters.drops).into_iter().collect(),
            beyond_limit: counters.beyond_limit,
            waits: counters.waits,
            timeouts: counters.timeouts,
            ticks: counters.ticks,
            in_use: counters.in_use,
            idle: counters.idle,
            idle_bytes: counters.idle_bytes,
        }
    }
}

/// What one class of a buffer pool did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BufferClassTruth {
    class_bytes: u64,
    gets: u64,
    misses: u64,
    hit_rate: f64,
    waste: f64,
}

/// Those of its classes that were used.
pub fn buffer_classes(counters: &BufferCounters) -> Vec<BufferClassTruth> {
    let used = counters.classes.iter().filter(|class| class.pool.gets > 0);
    let truth = |class: &crate::pool::ClassCounters| BufferClassTruth {
        class_bytes: class.bytes as u64,
        gets: class.pool.gets,
        misses: class.pool.misses,
        hit_rate: class.hit_rate(),
        waste: class.waste(),
    };
    used.map(truth).collect()
}

/// Large blocks by the power of two that begins their class, as a tracer tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LargeBlocks(BTreeMap<u64, ClassTruth>);

/// Blocks of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassTruth {
    /// The class' first size.
    pub class_bytes: u64,
    /// Calls of malloc.
    pub count: u64,
    /// What they asked for.
    pub bytes: u64,
}

impl LargeBlocks {
    /// Adds so many of a size.
    pub fn add(&mut self, count: u64, size_bytes: u64) {
        if count > 0 {
            let class_bytes = 1 << size_bytes.max(1).ilog2();
            let class =
                self.0.entry(class_bytes).or_insert(ClassTruth { class_bytes, ..ClassTruth::default() });
            class.count += count;
            class.bytes += count * size_bytes;
        }
    }

    /// Those of a buffer pool, which made one for each miss.
    pub fn add_misses(&mut self, counters: &BufferCounters) {
        counters.classes.iter().for_each(|class| self.add(class.pool.misses, class.bytes as u64));
    }
}

/// As a list.
impl Serialize for LargeBlocks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_to_the_class_of_their_size() {
        let mut blocks = LargeBlocks::default();
        blocks.add(2, 65_536);
        blocks.add(1, 131_071);
        blocks.add(0, 1 << 20);
        let class = ClassTruth { class_bytes: 65_536, count: 3, bytes: 262_143 };
        assert_eq!(blocks.0.into_values().collect::<Vec<_>>(), [class]);
    }
}
