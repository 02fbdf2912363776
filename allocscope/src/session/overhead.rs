//! What tracing costs each process over time, against what it may cost.

use std::collections::BTreeMap;
use std::time::Duration;

/// Costs so far, by process: a rate is taken from one look to the next.
pub struct Overhead {
    max_percent: f64,
    last: BTreeMap<u32, Look>,
}

#[derive(Clone, Copy)]
struct Look {
    at: Duration,
    cost_seconds: f64,
}

impl Overhead {
    /// `max_percent` is of one CPU, above 0.
    pub fn new(max_percent: f64) -> Self {
        Self { max_percent, last: BTreeMap::new() }
    }

    /// What may be spent, in percent of one CPU.
    pub fn max_percent(&self) -> f64 {
        self.max_percent
    }

    /// Takes in what process `pid` has cost by `now`, in seconds; returns the percentage of one CPU since the
    /// last look where it is more than allowed.
    pub fn look(&mut self, pid: u32, now: Duration, cost_seconds: f64) -> Option<f64> {
        let last = self.last.insert(pid, Look { at: now, cost_seconds })?;
        let elapsed = now.checked_sub(last.at)?.as_secs_f64();
        let percent = 100.0 * (cost_seconds - last.cost_seconds) / elapsed;
        // A first look at the same instant, or a process that took another's pid, tells nothing.
        (percent.is_finite() && percent > self.max_percent).then_some(percent)
    }

    /// Forgets those that are not traced any more.
    pub fn keep(&mut self, traced: impl Fn(u32) -> bool) {
        self.last.retain(|&pid, _| traced(pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_needs_two_looks() {
        let mut overhead = Overhead::new(5.0);
        assert_eq!(overhead.look(7, SECOND, 0.5), None);
        assert_eq!(overhead.look(7, 2 * SECOND, 0.54), None);
        assert!((overhead.look(7, 3 * SECOND, 0.64).unwrap() - 10.0).abs() < 1e-6);
        assert_eq!(overhead.look(8, 3 * SECOND, 0.64), None);
    }

    #[test]
    fn looks_that_tell_nothing_shed_nothing() {
        let mut overhead = Overhead::new(5.0);
        overhead.look(7, SECOND, 0.5);
        assert_eq!(overhead.look(7, SECOND, 0.9), None);
        assert_eq!(overhead.look(7, 2 * SECOND, 0.1), None);
        overhead.keep(|pid| pid == 8);
        assert_eq!(overhead.look(7, 3 * SECOND, 0.9), None);
    }
}
