//! Used and allowed memory of the machine and of cgroups into what may stay: nothing above the low mark, once the high
//! mark was reached.

use super::band::{Band, Latch};
use super::{Asked, Keep, Signal};
use std::time::Duration;

/// The band unless another is given: nine tenths of a limit, down to eight.
pub const DEFAULT_SHARE: Band = Band::of(0.9, 0.8);

/// A limit of memory and what of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Bytes used that the kernel cannot take back by itself.
    pub used_bytes: u64,
    /// Bytes allowed.
    pub limit_bytes: u64,
}

impl Level {
    /// The share that is used; 1 where nothing is allowed.
    pub fn share(&self) -> f64 {
        if self.limit_bytes == 0 { 1.0 } else { self.used_bytes as f64 / self.limit_bytes as f64 }
    }

    /// Bytes used above a share of what is allowed.
    pub fn above(&self, share: f64) -> u64 {
        self.used_bytes.saturating_sub((self.limit_bytes as f64 * share) as u64)
    }
}

/// All limits that bind, or why they are not known.
pub type Levels = Result<Vec<Level>, &'static str>;

/// The signal of used memory. The tightest limit decides: that of the machine, or of a cgroup up the tree.
pub struct MemoryShare<S> {
    source: S,
    latch: Latch,
    reading: Levels,
}

impl<S: FnMut() -> Levels + Send> MemoryShare<S> {
    /// From where readings come; see [`Host`](super::Host).
    pub fn new(band: Band, source: S) -> Self {
        Self { source, latch: Latch::new(band), reading: Err("no reading yet") }
    }

    /// Whether the high mark was reached and the low one not since.
    pub fn begun(&self) -> bool {
        self.latch.begun()
    }
}

impl<S: FnMut() -> Levels + Send> Signal for MemoryShare<S> {
    fn name(&self) -> &'static str {
        "memory_share"
    }

    fn look(&mut self, _now: Duration) {
        self.reading = (self.source)();
    }

    fn keep(&mut self, asked: &Asked) -> Keep {
        let levels = match &self.reading {
            Ok(levels) if !levels.is_empty() => levels,
            Ok(_) => return Keep::Unknown("nothing limits memory"),
            Err(reason) => return Keep::Unknown(reason),
        };
        let share = levels.iter().map(Level::share).fold(0.0, f64::max);
        let low = self.latch.band.low();
        let above = levels.iter().map(|level| level.above(low)).max().unwrap_or(0);
        let worth = above > 0 && above >= asked.least_bytes as u64;
        if !self.latch.step(share, worth) {
            return Keep::All;
        }
        let above = usize::try_from(above).unwrap_or(usize::MAX);
        Keep::Bytes(asked.idle_bytes.saturating_sub(above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn keep(signal: &mut impl Signal, idle_bytes: u64, least_bytes: u64) -> Keep {
        signal.look(Duration::ZERO);
        let (idle_bytes, least_bytes) = (idle_bytes as usize, least_bytes as usize);
        signal.keep(&Asked { now: Duration::ZERO, idle_bytes, least_bytes })
    }

    fn level(used: u64, limit: u64) -> Level {
        Level { used_bytes: used * MIB, limit_bytes: limit * MIB }
    }

    #[test]
    fn the_tightest_limit_decides() {
        let readings = [vec![level(10, 100), level(50, 64)], vec![level(10, 100), level(60, 64)]];
        let mut next = readings.into_iter();
        let mut signal = MemoryShare::new(Band::of(0.9, 0.5), || Ok(next.next().unwrap()));
        assert_eq!(keep(&mut signal, 40 * MIB, 0), Keep::All);
        // 60 MiB of 64 are used: 28 MiB above half.
        assert_eq!(keep(&mut signal, 40 * MIB, 0), Keep::Bytes(12 << 20));
    }

    #[test]
    fn a_limit_of_nothing_is_reached() {
        let mut signal = MemoryShare::new(DEFAULT_SHARE, || Ok(vec![level(1, 0)]));
        assert_eq!(keep(&mut signal, 5 * MIB, 0), Keep::Bytes(4 << 20));
    }

    #[test]
    fn what_is_not_known_asks_for_nothing() {
        let mut signal = MemoryShare::new(DEFAULT_SHARE, || Err("no such file"));
        assert_eq!(keep(&mut signal, MIB, 0), Keep::Unknown("no such file"));
        let mut signal = MemoryShare::new(DEFAULT_SHARE, || Ok(Vec::new()));
        assert_eq!(keep(&mut signal, MIB, 0), Keep::Unknown("nothing limits memory"));
    }

    #[test]
    fn less_than_the_least_above_the_low_mark_ends_it() {
        let mut used = [95, 82, 85, 95].into_iter();
        let mut signal = MemoryShare::new(DEFAULT_SHARE, move || Ok(vec![level(used.next().unwrap(), 100)]));
        assert_eq!(keep(&mut signal, 50 * MIB, 4 * MIB), Keep::Bytes(35 << 20));
        assert_eq!(keep(&mut signal, 50 * MIB, 4 * MIB), Keep::All);
        assert_eq!(keep(&mut signal, 50 * MIB, 4 * MIB), Keep::All);
        assert_eq!(keep(&mut signal, 50 * MIB, 4 * MIB), Keep::Bytes(35 << 20));
    }
}
