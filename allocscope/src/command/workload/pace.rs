//! A duration and a rate into rounds, each when it is due.

use std::thread;
use std::time::{Duration, Instant};

use super::is_stopped;
use crate::cli::pooled::PaceArgs;

/// Waits that are shorter are made up for by the next ones.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// So many times the duration, and what is not done by then is left.
const PATIENCE: u32 = 4;

/// The rounds of a workload: as many as fit the duration at the rate, whatever the machine does.
pub struct Pace {
    begun: Instant,
    seconds: Duration,
    rate: u64,
    rounds: u64,
    next: u64,
}

impl Pace {
    /// From now on.
    pub fn new(args: &PaceArgs) -> Self {
        let rounds = args.seconds.saturating_mul(args.rate);
        let seconds = Duration::from_secs(args.seconds);
        Self { begun: Instant::now(), seconds, rate: args.rate, rounds, next: 0 }
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// The number of each round when it is due.
impl Iterator for Pace {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let round = self.next;
        if round >= self.rounds || is_stopped() || self.elapsed() > self.seconds * PATIENCE {
            return None;
        }
        let due = Duration::from_secs_f64(round as f64 / self.rate as f64);
        let wait = due.saturating_sub(self.elapsed());
        if wait >= SHORTEST_SLEEP {
            thread::sleep(wait);
        }
        self.next += 1;
        Some(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::workload::StartArgs;

    #[test]
    fn all_rounds_are_done_in_time() {
        let pace = Pace::new(&PaceArgs { seconds: 1, rate: 20, start: StartArgs::default() });
        let begun = pace.begun;
        assert_eq!(pace.collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert!(begun.elapsed() >= Duration::from_millis(900));
    }
}
