//! Frames on the stack at allocations into what may stay: the deeper the calls, the fewer pages.

use super::frames::{Frames, FramesError};
use super::{Advice, Asked, Keep, PressureError, Signal};
use std::time::Duration;

/// Steps that there may be.
const MAX_STEPS: usize = 16;
/// Large allocations that are too few to decide by.
const LEAST_CALLS: u64 = 16;
/// A stack of so few frames was not walked to its end: an allocator and its caller alone are more. Seen where the
/// allocator keeps no frame pointers, as glibc: one frame at each call, however deep.
const CUT_OFF: u64 = 2;
/// How long a decision holds without further allocations.
const HOLDS: Duration = Duration::from_secs(60);

/// Up to how many frames how many pages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    steps: Vec<(u64, usize)>,
    deeper: usize,
    page_bytes: usize,
}

impl Default for Steps {
    /// Up to 8 frames 128 pages, up to 15 frames 64, deeper 16.
    fn default() -> Self {
        Self { steps: vec![(8, 128), (15, 64)], deeper: 16, page_bytes: page_bytes() }
    }
}

impl Steps {
    /// Pairs of frames and pages, ascending in frames and not in pages; and the pages where calls are deeper.
    pub fn new(steps: &[(u64, usize)], deeper: usize) -> Result<Self, PressureError> {
        Self::of_pages(steps, deeper, page_bytes())
    }

    /// The same for pages of another size than the machine's.
    pub fn of_pages(steps: &[(u64, usize)], deeper: usize, page_bytes: usize) -> Result<Self, PressureError> {
        let pages = || steps.iter().map(|&(_, pages)| pages).chain([deeper]);
        let in_order = steps.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let fewer = pages().zip(pages().skip(1)).all(|(before, after)| after <= before);
        let fits = pages().all(|pages| pages.checked_mul(page_bytes).is_some());
        let counted = (1..=MAX_STEPS).contains(&steps.len()) && page_bytes > 0;
        if in_order && fewer && fits && counted {
            Ok(Self { steps: steps.to_vec(), deeper, page_bytes })
        } else {
            Err(PressureError::Steps)
        }
    }

    /// Pages kept where calls have so many frames.
    pub fn pages(&self, frames: u64) -> usize {
        self.steps.iter().find(|&&(most, _)| frames <= most).map_or(self.deeper, |&(_, pages)| pages)
    }

    /// The same in bytes.
    pub fn bytes(&self, frames: u64) -> usize {
        self.pages(frames) * self.page_bytes
    }
}

/// Bytes of a page of this machine; 4096 where it does not tell.
pub fn page_bytes() -> usize {
    // SAFETY: sysconf reads a number and takes no pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// The signal of stack depth at allocations, as allocscope's histogram has it.
pub struct StackDepth<S> {
    source: S,
    steps: Steps,
    share: f64,
    /// The histogram of the last decision.
    latest: Frames,
    decided: Option<Decided>,
    failed: Option<&'static str>,
}

#[derive(Clone, Copy)]
struct Decided {
    frames: u64,
    at: Duration,
}

impl<S: FnMut() -> Result<Frames, FramesError> + Send> StackDepth<S> {
    /// From where histograms come: counts since the traced process began, as they are exported.
    pub fn new(steps: Steps, source: S) -> Self {
        Self { source, steps, share: 0.5, latest: Frames::default(), decided: None, failed: None }
    }

    /// The share of calls that decides, instead of half of them: at 0.9 a tenth of deep calls is enough.
    pub fn share(mut self, share: f64) -> Result<Self, PressureError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(PressureError::Share);
        }
        self.share = share;
        Ok(self)
    }

    /// The frames that the last decision went by, rounded up to the histogram's bound.
    pub fn frames(&self) -> Option<u64> {
        self.decided.map(|decided| decided.frames)
    }

    /// Decides anew as soon as there were enough calls since the last time.
    fn decide(&mut self, frames: Frames, now: Duration) {
        let since = frames.since(&self.latest);
        if since.calls() < LEAST_CALLS {
            return;
        }
        self.decided = since.at_most(self.share).map(|frames| Decided { frames, at: now });
        self.latest = frames;
    }
}

impl<S: FnMut() -> Result<Frames, FramesError> + Send> Signal for StackDepth<S> {
    fn name(&self) -> &'static str {
        "stack_depth"
    }

    fn look(&mut self, now: Duration) {
        match (self.source)() {
            Ok(frames) => {
                self.failed = None;
                self.decide(frames, now);
            }
            Err(error) => self.failed = Some(error.reason()),
        }
    }

    fn keep(&mut self, asked: &Asked) -> Keep {
        let Some(decided) = self.decided else {
            return Keep::Unknown(self.failed.unwrap_or("too few allocations yet"));
        };
        if let Some(reason) = self.failed {
            return Keep::Unknown(reason);
        }
        if asked.now.saturating_sub(decided.at) > HOLDS {
            return Keep::Unknown("too few allocations lately");
        }
        if decided.frames <= CUT_OFF {
            return Keep::Unknown("stacks have no frame pointers");
        }
        let bytes = self.steps.bytes(decided.frames);
        if bytes < asked.idle_bytes { Keep::Bytes(bytes) } else { Keep::All }
    }

    /// Memory is not scarce: the kernel may take the pages when it is.
    fn advice(&self) -> Advice {
        Advice::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_steps_are_these() {
        let steps = Steps::default();
        let pages = [0, 8, 9, 15, 16, u64::MAX].map(|frames| steps.pages(frames));
        assert_eq!(pages, [128, 128, 64, 64, 16, 16]);
        assert_eq!(steps.bytes(9), 64 * page_bytes());
    }

    #[test]
    fn steps_in_disorder_are_refused() {
        let refused =
            |steps: &[(u64, usize)], deeper| assert_eq!(Steps::new(steps, deeper), Err(PressureError::Steps));
        refused(&[], 1);
        refused(&[(8, 10), (8, 9)], 1);
        refused(&[(9, 10), (8, 9)], 1);
        refused(&[(8, 10), (9, 11)], 1);
        refused(&[(8, 10)], 11);
        refused(&[(8, usize::MAX)], 1);
        refused(&(0..17).map(|step| (step, 1)).collect::<Vec<_>>(), 1);
        assert_eq!(Steps::of_pages(&[(8, 1)], 1, 0), Err(PressureError::Steps));
        assert_eq!(Steps::of_pages(&[(1, 5), (2, 5)], 0, 10).map(|steps| steps.bytes(2)), Ok(50));
    }

    /// What is kept of 1000 pages of 1 byte after each of these histograms: (up to 8, up to 15, deeper).
    fn kept(readings: &[Result<(u64, u64, u64), FramesError>]) -> Vec<Keep> {
        let mut next = readings.iter().copied();
        let source = move || {
            let (shallow, middle, deep) = next.next().unwrap()?;
            Frames::new(vec![(8, shallow), (15, middle), (u64::MAX, deep)])
        };
        let mut signal = StackDepth::new(Steps::of_pages(&[(8, 128), (15, 64)], 16, 1).unwrap(), source);
        let now = Duration::ZERO;
        let mut keep = |_: &_| {
            signal.look(now);
            signal.keep(&Asked { now, idle_bytes: 1000, least_bytes: 0 })
        };
        readings.iter().map(&mut keep).collect()
    }

    #[test]
    fn it_follows_the_calls_since_the_last_decision() {
        let readings =
            [(15, 0, 0), (100, 0, 0), (100, 30, 0), (101, 30, 1), (101, 30, 60), (120, 0, 0)].map(Ok);
        let too_few = Keep::Unknown("too few allocations yet");
        let expected = [128, 64, 64, 16, 128].map(Keep::Bytes);
        assert_eq!(kept(&readings), [&[too_few][..], &expected[..]].concat());
    }

    #[test]
    fn a_reading_that_fails_asks_for_nothing_and_forgets_nothing() {
        let readings =
            [Err(FramesError::Absent), Ok((0, 0, 99)), Err(FramesError::Malformed), Ok((0, 0, 99))];
        let unknown = |error: FramesError| Keep::Unknown(error.reason());
        let (absent, malformed) = (unknown(FramesError::Absent), unknown(FramesError::Malformed));
        assert_eq!(kept(&readings), [absent, Keep::Bytes(16), malformed, Keep::Bytes(16)]);
    }

    #[test]
    fn stacks_that_were_cut_off_are_not_taken_for_shallow_ones() {
        let mut signal =
            StackDepth::new(Steps::default(), || Frames::new(vec![(2, 99), (8, 0), (u64::MAX, 1)]));
        signal.look(Duration::ZERO);
        let asked = Asked { now: Duration::ZERO, idle_bytes: usize::MAX, least_bytes: 0 };
        assert_eq!(signal.keep(&asked), Keep::Unknown("stacks have no frame pointers"));
    }

    #[test]
    fn a_decision_ends_where_nothing_is_allocated() {
        let mut signal = StackDepth::new(Steps::default(), || Frames::new(vec![(8, 99)]));
        signal.look(Duration::ZERO);
        let mut at = |now| signal.keep(&Asked { now, idle_bytes: usize::MAX, least_bytes: 0 });
        assert_eq!(at(HOLDS), Keep::Bytes(128 * page_bytes()));
        assert_eq!(at(HOLDS + Duration::from_nanos(1)), Keep::Unknown("too few allocations lately"));
    }

    #[test]
    fn a_share_of_calls_decides() {
        let frames = |share| {
            let source = || Frames::new(vec![(8, 80), (15, 15), (u64::MAX, 5)]);
            let mut signal = StackDepth::new(Steps::default(), source).share(share).ok().unwrap();
            signal.look(Duration::ZERO);
            signal.frames()
        };
        assert_eq!([0.5, 0.9, 1.0].map(frames), [Some(8), Some(15), Some(u64::MAX)]);
        let signal = StackDepth::new(Steps::default(), || Err(FramesError::Absent));
        assert!(matches!(signal.share(1.5), Err(PressureError::Share)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn deeper_never_keeps_more(frames in any::<u64>(), more in any::<u64>()) {
            let steps = Steps::default();
            prop_assert!(steps.pages(frames.saturating_add(more)) <= steps.pages(frames));
        }
    }
}
