//! Outcomes of calls into whether to call at all: what keeps failing is left alone for a while.
//!
//! ```text
//!            failures reach a share of a window
//!   closed ------------------------------------> open
//!     ^                                          |  ^
//!     | three successes                 a while  |  | a failure
//!     |                                          v  |
//!     +---------------------------------------- half-open (a few calls are let through)
//! ```
//!
//! A healthy breaker costs one relaxed load before a call and one after it: a window begins with a failure, and
//! successes are counted inside of a window only. All state is one word, so that nothing ever waits.

use super::probe;
use super::sync::{AtomicU64, Ordering::Relaxed};
use std::fmt;
use std::time::{Duration, Instant};

mod word;

use word::Word;

/// Where times come from.
pub trait Clock: Send + Sync {
    /// Time since any moment, the same for all calls.
    fn now(&self) -> Duration;
}

impl<F: Fn() -> Duration + Send + Sync> Clock for F {
    fn now(&self) -> Duration {
        self()
    }
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// When a breaker opens and closes. Times have a resolution of a millisecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerOptions {
    /// Share of failures that opens it, above 0 and up to 1.
    pub failure_share: f64,
    /// Calls in a window that are too few to open it are less than this; 1 to 32767.
    pub least_calls: u16,
    /// How long calls are counted together, from the first failure on; a millisecond to a day.
    pub window: Duration,
    /// How long it stays open; a millisecond to a day.
    pub open_for: Duration,
    /// Calls at the same time while it is half-open; 1 to 32767.
    pub probes: u16,
    /// Successes that close it again; 1 to 32767.
    pub successes: u16,
    /// A call that waited this long is a failure whatever came of it. The clock is read twice at each call where this
    /// is set, and at none where it is not.
    pub max_wait: Option<Duration>,
}

impl Default for BreakerOptions {
    /// Half of 20 calls in 10 s; open for a second; one probe at a time; three successes; waits do not matter.
    fn default() -> Self {
        Self {
            failure_share: 0.5,
            least_calls: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(1),
            probes: 1,
            successes: 3,
            max_wait: None,
        }
    }
}

/// An option out of its range: its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerError(pub &'static str);

impl fmt::Display for BreakerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the breaker's option {} is out of its range", self.0)
    }
}

impl std::error::Error for BreakerError {}

impl BreakerOptions {
    fn check(&self) -> Result<(), BreakerError> {
        const TIMES: std::ops::RangeInclusive<Duration> =
            Duration::from_millis(1)..=Duration::from_secs(86_400);
        let counted = |count: u16| (1..=word::MOST).contains(&count);
        let checks = [
            ("failure_share", self.failure_share > 0.0 && self.failure_share <= 1.0),
            ("least_calls", counted(self.least_calls)),
            ("window", TIMES.contains(&self.window)),
            ("open_for", TIMES.contains(&self.open_for)),
            ("probes", counted(self.probes)),
            ("successes", counted(self.successes)),
        ];
        checks.iter().find(|(_, fine)| !fine).map_or(Ok(()), |(name, _)| Err(BreakerError(name)))
    }

    fn is_too_many(&self, failures: u16, calls: u16) -> bool {
        calls >= self.least_calls && f64::from(failures) >= self.failure_share * f64::from(calls)
    }
}

/// What a breaker does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets all through.
    Closed = 0,
    /// Lets none through.
    Open = 1,
    /// Lets a few through, to see.
    HalfOpen = 2,
}

impl BreakerState {
    /// All of them, by their numbers.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its name, as a label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a breaker did so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerCounters {
    /// What it does now.
    pub state: BreakerState,
    /// Times it went to each state, by [`BreakerState`] as a number; it began closed, which is not counted.
    pub transitions: [u64; 3],
    /// Calls not let through.
    pub rejected: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Of these, calls that did not fail but waited too long.
    pub slow: u64,
}

/// Says of each call whether to try it, by how earlier ones ended.
pub struct Breaker<C = Monotonic> {
    word: Line<AtomicU64>,
    counts: Line<Counts>,
    options: BreakerOptions,
    clock: C,
}

/// What has cache lines of its own.
#[repr(align(128))]
struct Line<T>(T);

#[derive(Default)]
struct Counts {
    transitions: [AtomicU64; 3],
    rejected: AtomicU64,
    failures: AtomicU64,
    slow: AtomicU64,
}

/// A breaker did not let a call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected;

impl Breaker {
    /// A closed one by the machine's clock.
    pub fn new(options: BreakerOptions) -> Result<Self, BreakerError> {
        Self::with_clock(options, Monotonic::default())
    }
}

impl<C: Clock> Breaker<C> {
    /// A closed one by another clock.
    pub fn with_clock(options: BreakerOptions, clock: C) -> Result<Self, BreakerError> {
        options.check()?;
        let word = Line(AtomicU64::new(Word::Quiet.packed()));
        Ok(Self { word, counts: Line(Counts::default()), options, clock })
    }

    /// What it does now. An open one whose time is over says so until the next call.
    pub fn state(&self) -> BreakerState {
        self.load().state()
    }

    /// What it did so far.
    pub fn counters(&self) -> BreakerCounters {
        let counts = &self.counts.0;
        BreakerCounters {
            state: self.state(),
            transitions: counts.transitions.each_ref().map(|count| count.load(Relaxed)),
            rejected: counts.rejected.load(Relaxed),
            failures: counts.failures.load(Relaxed),
            slow: counts.slow.load(Relaxed),
        }
    }

    /// Lets a call through or not; how it ended is told to the permit.
    #[inline]
    pub fn admit(&self) -> Result<Permit<'_, C>, Rejected> {
        if word::is_closed(self.word.0.load(Relaxed)) {
            return Ok(Permit { breaker: self, since: None });
        }
        self.admit_slowly()
    }

    /// Runs a call if it is let through; `Err(None)` if not.
    #[inline]
    pub fn call<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, Option<E>> {
        if !self.is_healthy() {
            return self.call_watched(call);
        }
        let result = call();
        self.tell_of_healthy(result.is_ok());
        result.map_err(Some)
    }

    /// Whether a call needs no permit: nothing failed lately, and nobody wants to know how long it takes.
    #[inline]
    pub(super) fn is_healthy(&self) -> bool {
        word::is_quiet(self.word.0.load(Relaxed)) && self.options.max_wait.is_none()
    }

    /// How a call ended that needed no permit. One that went well counts where another failed in the meantime.
    #[inline]
    pub(super) fn tell_of_healthy(&self, success: bool) {
        if !success || !word::is_quiet(self.word.0.load(Relaxed)) {
            self.record(None, success, false);
        }
    }

    #[cold]
    #[inline(never)]
    fn call_watched<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, Option<E>> {
        let permit = self.admit().map_err(|_| None)?;
        let began = self.options.max_wait.map(|_| self.clock.now());
        let result = call();
        let waited = began.map_or(Duration::ZERO, |began| self.clock.now().saturating_sub(began));
        permit.end(result.is_ok(), waited);
        result.map_err(Some)
    }

    fn load(&self) -> Word {
        Word::unpacked(self.word.0.load(Relaxed))
    }

    /// The clock in milliseconds, which wrap. It is read after the word: what is there was written before.
    fn now_ms(&self) -> u32 {
        self.clock.now().as_millis() as u32
    }

    #[cold]
    fn admit_slowly(&self) -> Result<Permit<'_, C>, Rejected> {
        let mut since = None;
        let admitted = self.change(|word, now| {
            let next = word.admitted(now, &self.options);
            since = next.and_then(Word::probing_since);
            next
        });
        match admitted {
            Some(_) => Ok(Permit { breaker: self, since }),
            None if self.state() == BreakerState::Closed => Ok(Permit { breaker: self, since: None }),
            None => {
                self.counts.0.rejected.fetch_add(1, Relaxed);
                Err(Rejected)
            }
        }
    }

    /// Makes a change that depends on the word and the moment; `None` where there is nothing to change.
    fn change(&self, mut next: impl FnMut(Word, u32) -> Option<Word>) -> Option<Word> {
        let mut packed = self.word.0.load(Relaxed);
        loop {
            let before = Word::unpacked(packed);
            let after = next(before, self.now_ms())?;
            let began = probe::breaker::begin();
            match self.word.0.compare_exchange_weak(packed, after.packed(), Relaxed, Relaxed) {
                Ok(_) => {
                    self.tell(before.state(), after.state(), began);
                    return Some(after);
                }
                Err(found) => packed = found,
            }
        }
    }

    /// Counts a transition and tells those who listen.
    fn tell(&self, before: BreakerState, after: BreakerState, began: u64) {
        if before != after {
            self.counts.0.transitions[after as usize].fetch_add(1, Relaxed);
            probe::breaker::end(began, after as usize, std::ptr::from_ref(self).addr());
        }
    }
}

impl<C: Clock> fmt::Debug for Breaker<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Breaker");
        out.field("options", &self.options).field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// That a call was let through. Dropped without a verdict, as by a panic, it counts for nothing.
#[must_use = "how the call ended must be told"]
pub struct Permit<'a, C: Clock = Monotonic> {
    breaker: &'a Breaker<C>,
    /// For a probe of a half-open breaker: since when it was half-open.
    since: Option<u32>,
}

impl<C: Clock> Permit<'_, C> {
    /// The call did what it should.
    #[inline]
    pub fn success(self) {
        self.end(true, Duration::ZERO);
    }

    /// The call failed.
    #[inline]
    pub fn failure(self) {
        self.end(false, Duration::ZERO);
    }

    /// How the call ended and how long it waited.
    #[inline]
    pub fn end(mut self, success: bool, waited: Duration) {
        let breaker = self.breaker;
        let slow = breaker.options.max_wait.is_some_and(|most| waited >= most);
        let since = self.since.take();
        if !success || slow || since.is_some() || !word::is_quiet(breaker.word.0.load(Relaxed)) {
            breaker.record(since, success, slow);
        }
    }
}

impl<C: Clock> Drop for Permit<'_, C> {
    #[inline]
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.breaker.change(|word, _| word.given_back(since));
        }
    }
}

impl<C: Clock> Breaker<C> {
    #[cold]
    fn record(&self, since: Option<u32>, success: bool, slow: bool) {
        let success = success && !slow;
        self.counts.0.failures.fetch_add(u64::from(!success), Relaxed);
        self.counts.0.slow.fetch_add(u64::from(slow), Relaxed);
        self.change(|word, now| match since {
            Some(since) => word.probed(since, success, now, &self.options),
            None => word.counted(success, now, &self.options),
        });
    }
}

#[cfg(test)]
#[cfg(loom)]
mod explored;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
