//! All interleavings of a few threads, explored by loom: `RUSTFLAGS="--cfg loom" cargo test --no-default-features --lib
//! breaker::explored`. The clock stands still, so that all that is modelled is the word and its changes.

use super::*;
use loom::sync::Arc;
use loom::thread;

/// A clock by which any time that is waited for is over at once, or never.
#[derive(Clone, Copy)]
struct At(Duration);

impl Clock for At {
    fn now(&self) -> Duration {
        self.0
    }
}

const OPTIONS: BreakerOptions = BreakerOptions {
    failure_share: 0.5,
    least_calls: 2,
    window: Duration::from_secs(100),
    open_for: Duration::from_secs(1),
    probes: 1,
    successes: 2,
    max_wait: None,
};

fn breaker(options: BreakerOptions, word: Word, seconds: u64) -> Arc<Breaker<At>> {
    let breaker = Breaker::with_clock(options, At(Duration::from_secs(seconds))).unwrap();
    breaker.word.0.store(word.packed(), Relaxed);
    Arc::new(breaker)
}

/// Runs the same in two threads beside each other and then says what came of it.
fn both<T: 'static>(
    breaker: &Arc<Breaker<At>>,
    one: impl Fn(&Breaker<At>) -> T + 'static,
    other: impl Fn(&Breaker<At>) -> T,
) -> [T; 2] {
    let shared = Arc::clone(breaker);
    let thread = thread::spawn(move || one(&shared));
    let here = other(breaker);
    [thread.join().unwrap(), here]
}

fn end(success: bool) -> impl Fn(&Breaker<At>) {
    move |breaker| breaker.admit().unwrap().end(success, Duration::ZERO)
}

#[test]
fn two_failures_at_once_are_two_and_open_it_once() {
    loom::model(|| {
        let breaker = breaker(OPTIONS, Word::Quiet, 0);
        let fail = |breaker: &Breaker<At>| breaker.admit().map(Permit::failure).is_ok();
        assert_eq!(both(&breaker, fail, fail), [true, true]);
        let counters = breaker.counters();
        assert_eq!(
            (counters.state, counters.transitions[BreakerState::Open as usize]),
            (BreakerState::Open, 1)
        );
    });
}

#[test]
fn a_success_beside_a_failure_is_counted_or_was_before_it() {
    loom::model(|| {
        let breaker = breaker(BreakerOptions { least_calls: 3, ..OPTIONS }, Word::Quiet, 0);
        both(&breaker, end(false), end(true));
        match breaker.load() {
            Word::Watching { failures: 1, calls: 1 | 2, .. } => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn of_two_that_find_it_half_open_one_is_let_through() {
    loom::model(|| {
        let breaker = breaker(OPTIONS, Word::Open { since: 0 }, 1);
        let admitted = |breaker: &Breaker<At>| breaker.admit().map(std::mem::forget).is_ok();
        let admitted = both(&breaker, admitted, admitted);
        assert_eq!(admitted.iter().filter(|admitted| **admitted).count(), 1);
        assert_eq!(breaker.load(), Word::HalfOpen { since: 1000, probes: 1, successes: 0 });
        assert_eq!(breaker.counters().transitions, [0, 0, 1]);
    });
}

#[test]
fn two_probes_that_succeed_at_once_close_it_once() {
    loom::model(|| {
        let options = BreakerOptions { probes: 2, ..OPTIONS };
        let breaker = breaker(options, Word::HalfOpen { since: 1000, probes: 0, successes: 0 }, 1);
        both(&breaker, end(true), end(true));
        assert_eq!((breaker.load(), breaker.counters().transitions), (Word::Quiet, [1, 0, 0]));
    });
}

/// Whichever ends first: the failure opens it, and the success does not close it after that.
#[test]
fn a_probe_that_fails_beside_one_that_succeeds_opens_it() {
    loom::model(|| {
        let options = BreakerOptions { probes: 2, ..OPTIONS };
        let breaker = breaker(options, Word::HalfOpen { since: 1000, probes: 2, successes: 0 }, 1);
        let ends = |success| {
            move |breaker: &Breaker<At>| {
                Permit { breaker, since: Some(1000) }.end(success, Duration::ZERO);
            }
        };
        both(&breaker, ends(true), ends(false));
        assert_eq!(breaker.load(), Word::Open { since: 1000 });
        assert_eq!(breaker.counters().transitions, [0, 1, 0]);
    });
}

#[test]
fn a_place_given_back_beside_an_admission_is_not_lost() {
    loom::model(|| {
        let options = BreakerOptions { probes: 2, ..OPTIONS };
        let breaker = breaker(options, Word::HalfOpen { since: 1000, probes: 1, successes: 0 }, 1);
        let give_back = |breaker: &Breaker<At>| drop(Permit { breaker, since: Some(1000) });
        let admit = |breaker: &Breaker<At>| std::mem::forget(breaker.admit().unwrap());
        both(&breaker, give_back, admit);
        assert_eq!(breaker.load(), Word::HalfOpen { since: 1000, probes: 1, successes: 0 });
    });
}
