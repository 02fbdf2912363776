//! What signals let stay into what is asked back, from whom and when.

use super::{Advice, Asked, Keep, Release, Signal};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bytes below which nothing is given back, unless told otherwise: the pages that the deepest stack keeps.
const LEAST_BYTES: usize = 64 << 10;
/// Time between two releases, unless told otherwise: what was given back must show in the readings first.
const EVERY: Duration = Duration::from_secs(1);

/// Decides by signals how much goes back.
pub struct Pressure {
    signals: Vec<Box<dyn Signal>>,
    least_bytes: usize,
    every: Duration,
    advice: Option<Advice>,
    released_at: Option<Duration>,
    counters: Arc<PressureCounters>,
}

impl fmt::Debug for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signals: Vec<_> = self.signals.iter().map(|signal| signal.name()).collect();
        let mut out = f.debug_struct("Pressure");
        out.field("signals", &signals).field("least_bytes", &self.least_bytes).field("every", &self.every);
        out.field("advice", &self.advice).field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// A [`Pressure`] being made.
#[must_use = "it does nothing until it is built"]
#[derive(Debug)]
pub struct PressureBuilder(Pressure);

impl PressureBuilder {
    /// One more signal; that which lets the least stay decides.
    pub fn signal(mut self, signal: impl Signal + 'static) -> Self {
        self.0.signals.push(Box::new(signal));
        self
    }

    /// Bytes below which nothing is given back; 64 KiB unless told otherwise.
    pub fn least_bytes(mut self, bytes: usize) -> Self {
        self.0.least_bytes = bytes;
        self
    }

    /// Time between two releases; a second unless told otherwise.
    pub fn every(mut self, time: Duration) -> Self {
        self.0.every = time;
        self
    }

    /// How pages go back, whatever the signals want.
    pub fn advice(mut self, advice: Advice) -> Self {
        self.0.advice = Some(advice);
        self
    }

    /// Done.
    pub fn build(self) -> Pressure {
        self.0
    }
}

/// What was released so far, readable from any thread.
#[derive(Debug, Default)]
pub struct PressureCounters {
    steps: AtomicU64,
    releases: AtomicU64,
    asked_bytes: AtomicU64,
    released_bytes: AtomicU64,
}

impl PressureCounters {
    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Steps that asked for memory.
    pub fn releases(&self) -> u64 {
        self.releases.load(Relaxed)
    }

    /// Bytes asked for.
    pub fn asked_bytes(&self) -> u64 {
        self.asked_bytes.load(Relaxed)
    }

    /// Bytes that came.
    pub fn released_bytes(&self) -> u64 {
        self.released_bytes.load(Relaxed)
    }

    fn add(&self, step: &Step) {
        self.steps.fetch_add(1, Relaxed);
        self.releases.fetch_add(u64::from(step.asked_bytes > 0), Relaxed);
        self.asked_bytes.fetch_add(step.asked_bytes as u64, Relaxed);
        self.released_bytes.fetch_add(step.released_bytes as u64, Relaxed);
    }
}

/// What a signal said in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The signal's name.
    pub signal: &'static str,
    /// What may stay.
    pub keep: Keep,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were idle.
    pub idle_bytes: usize,
    /// Bytes that may stay: all that is idle where no signal asks for less.
    pub keep_bytes: usize,
    /// What each signal said.
    pub heard: Vec<Heard>,
    /// Bytes asked for: 0 where it is not worth it or too early.
    pub asked_bytes: usize,
    /// Bytes that came.
    pub released_bytes: usize,
    /// How pages went back.
    pub advice: Advice,
}

impl Pressure {
    /// A policy without signals, which lets everything stay.
    pub fn builder() -> PressureBuilder {
        PressureBuilder(Self {
            signals: Vec::new(),
            least_bytes: LEAST_BYTES,
            every: EVERY,
            advice: None,
            released_at: None,
            counters: Arc::default(),
        })
    }

    /// Its counters, which outlive it.
    pub fn counters(&self) -> Arc<PressureCounters> {
        Arc::clone(&self.counters)
    }

    /// Lets all signals take new readings.
    pub fn look(&mut self, now: Duration) {
        self.signals.iter_mut().for_each(|signal| signal.look(now));
    }

    /// By the last readings, asks for what may not stay. `now` counts from any moment, the same for all steps.
    pub fn step(&mut self, now: Duration, holders: &[&dyn Release]) -> Step {
        let idle_bytes = holders.iter().fold(0usize, |sum, holder| sum.saturating_add(holder.idle_bytes()));
        let mut step = self.hear(Asked { now, idle_bytes, least_bytes: self.least_bytes });
        let excess = idle_bytes - step.keep_bytes;
        if excess > 0 && excess >= self.least_bytes && self.is_time(now) {
            step.asked_bytes = excess;
            step.released_bytes = ask(holders, excess, idle_bytes, step.advice);
            self.released_at = Some(now);
        }
        self.counters.add(&step);
        step
    }

    /// Asks all signals: the least that one lets stay, and how the rest goes back.
    fn hear(&mut self, asked: Asked) -> Step {
        let mut keep_bytes = asked.idle_bytes;
        let mut advice = Advice::Free;
        let mut heard = Vec::with_capacity(self.signals.len());
        for signal in &mut self.signals {
            let keep = signal.keep(&asked);
            if let Keep::Bytes(bytes) = keep
                && bytes < asked.idle_bytes
            {
                keep_bytes = keep_bytes.min(bytes);
                advice = advice.stronger(signal.advice());
            }
            heard.push(Heard { signal: signal.name(), keep });
        }
        let (idle_bytes, advice) = (asked.idle_bytes, self.advice.unwrap_or(advice));
        Step { idle_bytes, keep_bytes, heard, asked_bytes: 0, released_bytes: 0, advice }
    }

    fn is_time(&self, now: Duration) -> bool {
        self.released_at.is_none_or(|at| now.saturating_sub(at) >= self.every)
    }
}

impl Advice {
    /// The one of two that gives memory back for sure.
    fn stronger(self, other: Self) -> Self {
        if self == other { self } else { Self::DontNeed }
    }
}

/// Asks each for its share of the excess, then again for what others could not give; the bytes that came.
fn ask(holders: &[&dyn Release], excess: usize, idle_bytes: usize, advice: Advice) -> usize {
    let mut came = 0usize;
    for holder in holders {
        let share = holder.idle_bytes() as u128 * excess as u128 / idle_bytes.max(1) as u128;
        came = came.saturating_add(give(*holder, share as usize, excess.saturating_sub(came), advice));
    }
    for holder in holders {
        came = came.saturating_add(give(*holder, usize::MAX, excess.saturating_sub(came), advice));
    }
    came
}

/// Asks one for some bytes, but never for more than it has or than are left to be asked for.
fn give(holder: &dyn Release, bytes: usize, left: usize, advice: Advice) -> usize {
    let bytes = bytes.min(left).min(holder.idle_bytes());
    if bytes == 0 { 0 } else { holder.release_with(bytes, advice) }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
