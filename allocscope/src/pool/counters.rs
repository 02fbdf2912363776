//! What a pool did into numbers that can be read at any time.

/// What an object pool did since it was built, and what it holds. A snapshot: numbers of threads that are at work
/// while it is taken may be a few operations apart.
///
/// `gets = hits.all() + misses`, and `in_use` is what was got and neither came back nor was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Items handed out.
    pub gets: u64,
    /// Items handed out that were there already.
    pub hits: Hits,
    /// Items handed out that had to be made.
    pub misses: u64,
    /// Times an item could not be made, by the factory's word.
    pub failures: u64,
    /// Items that came back, by the drop of their guard.
    pub returns: u64,
    /// Items given by [`put`](crate::pool::Pool::put).
    pub puts: u64,
    /// Items taken out for good by [`take`](crate::pool::Pooled::take).
    pub takes: u64,
    /// Items dropped instead of kept, and kept ones dropped later.
    pub drops: Drops,
    /// Times somebody waited because `max_total` items were out.
    pub waits: u64,
    /// Waits that ended without an item.
    pub timeouts: u64,
    /// Items made beyond `max_total`, because [`get`](crate::pool::Pool::get) cannot fail.
    pub beyond_limit: u64,
    /// Generations so far: calls of [`tick`](crate::pool::Pool::tick), and those that `max_age` caused.
    pub ticks: u64,
    /// Items that are out now.
    pub in_use: u64,
    /// Items held idle now.
    pub idle: u64,
    /// Bytes held idle now, by the recipe's measure of an item.
    pub idle_bytes: u64,
}

/// Where items came from that were there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// The thread's own part.
    pub private: u64,
    /// The thread's own shelf of the shared part.
    pub shared: u64,
    /// Another thread's shelf or, at the limit, another thread's own part.
    pub stolen: u64,
    /// The generation before this one.
    pub victim: u64,
}

impl Hits {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.private + self.shared + self.stolen + self.victim
    }
}

/// Why items were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// There was no room: `max_idle`, `max_idle_bytes` or the size of the shared part.
    pub full: u64,
    /// A single item was larger than the pool keeps.
    pub oversized: u64,
    /// Its user panicked while it was out.
    pub poisoned: u64,
    /// `reset` said no.
    pub rejected: u64,
    /// It was idle for two generations.
    pub aged: u64,
    /// It was idle and [`release`](crate::pool::pressure::Release::release) or `trim` wanted its memory.
    pub released: u64,
    /// More than `max_total` items were out.
    pub beyond_limit: u64,
}

impl Drops {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.full
            + self.oversized
            + self.poisoned
            + self.rejected
            + self.aged
            + self.released
            + self.beyond_limit
    }

    /// Each with its reason's name, as a label has it.
    pub fn by_reason(&self) -> [(&'static str, u64); 7] {
        [
            ("full", self.full),
            ("oversized", self.oversized),
            ("poisoned", self.poisoned),
            ("rejected", self.rejected),
            ("aged", self.aged),
            ("released", self.released),
            ("beyond_limit", self.beyond_limit),
        ]
    }
}

/// What a buffer pool did with one size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounters {
    /// Capacity of its buffers in bytes.
    pub bytes: usize,
    /// What its pool did.
    pub pool: PoolCounters,
    /// Bytes asked for in all gets of this class; `pool.gets * bytes` less this is what rounding up wasted.
    pub asked_bytes: u64,
}

impl ClassCounters {
    /// Share of gets that needed no new buffer, 0 to 1; 0 where there were none.
    pub fn hit_rate(&self) -> f64 {
        share(self.pool.hits.all(), self.pool.gets)
    }

    /// Share of the capacity handed out that nobody asked for, 0 to 1.
    pub fn waste(&self) -> f64 {
        let given = self.pool.gets.saturating_mul(self.bytes as u64);
        share(given.saturating_sub(self.asked_bytes), given)
    }
}

/// What a buffer pool did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferCounters {
    /// By class that was ever used, smallest first.
    pub classes: Vec<ClassCounters>,
    /// Gets above the largest class: plain allocations.
    pub oversized: u64,
    /// Buffers that came back with another capacity than their class's, and were dropped.
    pub regrown: u64,
}

impl BufferCounters {
    /// Bytes held idle.
    pub fn idle_bytes(&self) -> u64 {
        self.classes.iter().map(|class| class.pool.idle_bytes).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
