//! A breaker's state into one word and what a call changes in it: pure.

use super::{BreakerOptions, BreakerState};
use std::time::Duration;

/// Counts have 15 bits.
pub(super) const MOST: u16 = (1 << 15) - 1;
/// Milliseconds that a moment may lie before another's, as threads read the clock one after the other.
const DISORDER_MS: u32 = 60_000;

/// What a breaker knows. `since` is in milliseconds and wraps after 49 days, as does the clock it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Closed, no failures to think of.
    Quiet,
    /// Closed, and calls are counted since a failure.
    Watching { since: u32, failures: u16, calls: u16 },
    /// Open.
    Open { since: u32 },
    /// Half-open: calls under way, and how many went well.
    HalfOpen { since: u32, probes: u16, successes: u16 },
}

const KIND: u64 = 3;
const QUIET: u64 = 0;
const WATCHING: u64 = 1;
const OPEN: u64 = 2;
const HALF_OPEN: u64 = 3;

/// Whether calls are let through without a second look.
#[inline(always)]
pub(super) fn is_closed(packed: u64) -> bool {
    packed & OPEN == 0
}

/// Whether successes are not counted.
#[inline(always)]
pub(super) fn is_quiet(packed: u64) -> bool {
    packed & KIND == QUIET
}

fn pack(kind: u64, since: u32, one: u16, other: u16) -> u64 {
    kind | u64::from(one & MOST) << 2 | u64::from(other & MOST) << 17 | u64::from(since) << 32
}

/// Milliseconds from one moment to a later one; 0 if the later is a little earlier.
fn elapsed_ms(since: u32, now: u32) -> u32 {
    let elapsed = now.wrapping_sub(since);
    if elapsed > u32::MAX - DISORDER_MS { 0 } else { elapsed }
}

/// Whether so much time is over.
fn is_over(since: u32, now: u32, time: Duration) -> bool {
    u128::from(elapsed_ms(since, now)) >= time.as_millis()
}

impl Word {
    pub(super) fn packed(self) -> u64 {
        match self {
            Self::Quiet => QUIET,
            Self::Watching { since, failures, calls } => pack(WATCHING, since, failures, calls),
            Self::Open { since } => pack(OPEN, since, 0, 0),
            Self::HalfOpen { since, probes, successes } => pack(HALF_OPEN, since, probes, successes),
        }
    }

    pub(super) fn unpacked(packed: u64) -> Self {
        let count = |shift: u32| (packed >> shift) as u16 & MOST;
        let (since, one, other) = ((packed >> 32) as u32, count(2), count(17));
        match packed & KIND {
            QUIET => Self::Quiet,
            WATCHING => Self::Watching { since, failures: one, calls: other },
            OPEN => Self::Open { since },
            _ => Self::HalfOpen { since, probes: one, successes: other },
        }
    }

    pub(super) fn state(self) -> BreakerState {
        match self {
            Self::Quiet | Self::Watching { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Since when it is half-open.
    pub(super) fn probing_since(self) -> Option<u32> {
        if let Self::HalfOpen { since, .. } = self { Some(since) } else { None }
    }

    /// After one more probe was let through; `None` where none is, or where none is needed as it is closed. Probes
    /// that did not end for as long as it would stay open are lost, as those of a thread that was killed.
    pub(super) fn admitted(self, now: u32, options: &BreakerOptions) -> Option<Self> {
        let begin = |successes| Self::HalfOpen { since: now, probes: 1, successes };
        match self {
            Self::Open { since } => is_over(since, now, options.open_for).then(|| begin(0)),
            Self::HalfOpen { since, probes, successes } if probes < options.probes => {
                Some(Self::HalfOpen { since, probes: probes + 1, successes })
            }
            Self::HalfOpen { since, successes, .. } => {
                is_over(since, now, options.open_for).then(|| begin(successes))
            }
            Self::Quiet | Self::Watching { .. } => None,
        }
    }

    /// After a call ended that was let through while it was closed; `None` where that matters no more.
    pub(super) fn counted(self, success: bool, now: u32, options: &BreakerOptions) -> Option<Self> {
        let counted = match self {
            Self::Open { .. } | Self::HalfOpen { .. } => return None,
            Self::Watching { since, failures, calls } if !is_over(since, now, options.window) => {
                let (failures, calls) =
                    if calls == MOST { (failures / 2, calls / 2) } else { (failures, calls) };
                Self::Watching { since, failures: failures + u16::from(!success), calls: calls + 1 }
            }
            _ if success => Self::Quiet,
            _ => Self::Watching { since: now, failures: 1, calls: 1 },
        };
        let changed = (counted != self).then_some(counted)?;
        match changed {
            Self::Watching { failures, calls, .. } if options.is_too_many(failures, calls) => {
                Some(Self::Open { since: now })
            }
            other => Some(other),
        }
    }

    /// After a probe ended that was let through since then; `None` where it is not of this time.
    pub(super) fn probed(
        self,
        began: u32,
        success: bool,
        now: u32,
        options: &BreakerOptions,
    ) -> Option<Self> {
        match self {
            Self::HalfOpen { since, .. } if since == began && !success => Some(Self::Open { since: now }),
            Self::HalfOpen { since, probes, successes } if since == began => {
                let successes = successes + 1;
                let probes = probes.saturating_sub(1);
                let closed = successes >= options.successes;
                Some(if closed { Self::Quiet } else { Self::HalfOpen { since, probes, successes } })
            }
            _ => None,
        }
    }

    /// After a probe ended without a verdict.
    pub(super) fn given_back(self, began: u32) -> Option<Self> {
        match self {
            Self::HalfOpen { since, probes, successes } if since == began => {
                Some(Self::HalfOpen { since, probes: probes.saturating_sub(1), successes })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_wrap_and_may_be_a_little_in_disorder() {
        assert_eq!(elapsed_ms(u32::MAX, 4), 5);
        assert_eq!(elapsed_ms(10, 9), 0);
        assert_eq!(elapsed_ms(0, u32::MAX / 2), u32::MAX / 2);
    }

    #[test]
    fn counts_that_are_full_keep_their_share() {
        let options = BreakerOptions::default();
        let full = Word::Watching { since: 0, failures: 10_000, calls: MOST };
        let halved = Word::Watching { since: 0, failures: 5000, calls: MOST / 2 + 1 };
        assert_eq!(full.counted(true, 0, &options), Some(halved));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_packed_comes_out(kind in 0..4, since: u32, one in 0..=MOST, other in 0..=MOST) {
            let word = match kind {
                0 => Word::Quiet,
                1 => Word::Watching { since, failures: one, calls: other },
                2 => Word::Open { since },
                _ => Word::HalfOpen { since, probes: one, successes: other },
            };
            prop_assert_eq!(Word::unpacked(word.packed()), word);
            prop_assert_eq!(is_closed(word.packed()), word.state() == BreakerState::Closed);
            prop_assert_eq!(is_quiet(word.packed()), word == Word::Quiet);
        }
    }
}
