//! An arena's sizes into what they say about it.

/// An arena's sizes in bytes, computed when asked for from what the slow path knows: allocation counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaCounters {
    /// Handed out since the last reset, with what alignment skipped.
    pub used: usize,
    /// Held: addresses of the region, or chunks, in use or not.
    pub reserved: usize,
    /// Of these, backed: what the region has committed, or all of the chunks.
    pub committed: usize,
    /// Ends of chunks that were too small for what came next: lost until the next reset.
    pub wasted: usize,
    /// Backed, but in no use: chunks kept by a reset, or what the region has committed past what is used.
    pub idle: usize,
    /// The most that was used between two resets, as seen by resets and by this call.
    pub peak_used: usize,
    /// How often the arena grew: by a chunk (kept or new), or by a commit.
    pub grows: u64,
    /// How often it was reset.
    pub resets: u64,
}

impl ArenaCounters {
    /// The lost share of what the arena has gone through since the last reset, 0 to 1.
    pub fn fragmentation(&self) -> f64 {
        let passed = self.used + self.wasted;
        if passed == 0 { 0.0 } else { self.wasted as f64 / passed as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragmentation_is_the_lost_share() {
        let counters = ArenaCounters { used: 300, wasted: 100, ..Default::default() };
        assert!((counters.fragmentation() - 0.25).abs() < 1e-12);
        assert_eq!(ArenaCounters::default().fragmentation().to_bits(), 0);
    }
}
