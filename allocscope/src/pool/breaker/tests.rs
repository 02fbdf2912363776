//! Random programs against a simple model, and threads that race.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::thread;

const CASES: u32 = if cfg!(miri) { 2 } else { 1024 };

/// A clock that the test sets.
#[derive(Clone, Default)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Relaxed);
    }
}

impl Clock for Hands {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const OPTIONS: BreakerOptions = BreakerOptions {
    failure_share: 0.5,
    least_calls: 4,
    window: Duration::from_millis(100),
    open_for: Duration::from_millis(50),
    probes: 2,
    successes: 3,
    max_wait: None,
};

fn breaker(options: BreakerOptions) -> (Breaker<Hands>, Hands) {
    let hands = Hands::default();
    (Breaker::with_clock(options, hands.clone()).unwrap(), hands)
}

fn fail<C: Clock>(breaker: &Breaker<C>, times: usize) {
    (0..times).for_each(|_| breaker.admit().unwrap().failure());
}

fn succeed<C: Clock>(breaker: &Breaker<C>, times: usize) {
    (0..times).for_each(|_| breaker.admit().unwrap().success());
}

#[test]
fn one_round_through_all_states() {
    let (breaker, hands) = breaker(OPTIONS);
    succeed(&breaker, 1000);
    fail(&breaker, 3);
    assert_eq!(breaker.state(), BreakerState::Closed);
    fail(&breaker, 1);
    assert_eq!(breaker.state(), BreakerState::Open);
    hands.advance(49);
    assert_eq!(breaker.admit().err(), Some(Rejected));
    hands.advance(1);
    succeed(&breaker, 2);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    succeed(&breaker, 1);
    let expected = BreakerCounters {
        state: BreakerState::Closed,
        transitions: [1, 1, 1],
        rejected: 1,
        failures: 4,
        slow: 0,
    };
    assert_eq!(breaker.counters(), expected);
}

#[test]
fn a_probe_that_fails_opens_it_again() {
    let (breaker, hands) = breaker(OPTIONS);
    fail(&breaker, 4);
    hands.advance(50);
    succeed(&breaker, 2);
    fail(&breaker, 1);
    assert_eq!((breaker.state(), breaker.counters().transitions), (BreakerState::Open, [0, 2, 1]));
}

#[test]
fn a_failure_now_and_then_does_not_open_it() {
    let (breaker, hands) = breaker(OPTIONS);
    for _ in 0..50 {
        fail(&breaker, 3);
        hands.advance(100);
    }
    for _ in 0..50 {
        fail(&breaker, 1);
        succeed(&breaker, 3);
    }
    assert_eq!(breaker.counters().transitions, [0, 0, 0]);
}

#[test]
fn a_wait_that_is_too_long_is_a_failure() {
    let (breaker, hands) = breaker(BreakerOptions { max_wait: Some(millis(10)), ..OPTIONS });
    let slow = |by| {
        breaker.call(|| {
            hands.advance(by);
            Ok::<_, ()>(by)
        })
    };
    assert_eq!([slow(10), slow(11), slow(10), slow(9)], [Ok(10), Ok(11), Ok(10), Ok(9)]);
    let counters = breaker.counters();
    assert_eq!((counters.state, counters.failures, counters.slow), (BreakerState::Open, 3, 3));
    assert_eq!(breaker.call(|| Err::<(), _>("not called")), Err(None));
    hands.advance(50);
    assert_eq!(breaker.call(|| Err::<(), _>("called")), Err(Some("called")));
}

#[test]
fn a_probe_that_panics_gives_its_place_back() {
    let (breaker, hands) = breaker(BreakerOptions { probes: 1, ..OPTIONS });
    fail(&breaker, 4);
    hands.advance(50);
    for _ in 0..5 {
        let call = || breaker.call(|| -> Result<(), ()> { panic!("in the call") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    }
    succeed(&breaker, 3);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn probes_that_never_end_are_replaced() {
    let (breaker, hands) = breaker(OPTIONS);
    fail(&breaker, 4);
    hands.advance(50);
    succeed(&breaker, 1);
    let (lost, late) = (breaker.admit().unwrap(), breaker.admit().unwrap());
    std::mem::forget(lost);
    assert!(breaker.admit().is_err());
    hands.advance(50);
    let probe = breaker.admit().unwrap();
    late.failure();
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "a verdict of a former time counts for nothing");
    probe.success();
    succeed(&breaker, 1);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |options| Breaker::new(options).err().map(|BreakerError(name)| name);
    let day = Duration::from_secs(86_401);
    assert_eq!(refused(BreakerOptions { failure_share: 0.0, ..OPTIONS }), Some("failure_share"));
    assert_eq!(refused(BreakerOptions { failure_share: f64::NAN, ..OPTIONS }), Some("failure_share"));
    assert_eq!(refused(BreakerOptions { least_calls: 0, ..OPTIONS }), Some("least_calls"));
    assert_eq!(refused(BreakerOptions { window: Duration::ZERO, ..OPTIONS }), Some("window"));
    assert_eq!(refused(BreakerOptions { open_for: day, ..OPTIONS }), Some("open_for"));
    assert_eq!(refused(BreakerOptions { probes: u16::MAX, ..OPTIONS }), Some("probes"));
    assert_eq!(refused(BreakerOptions { successes: 0, ..OPTIONS }), Some("successes"));
    assert_eq!(refused(OPTIONS), None);
}

/// The breaker told in the simplest way: lists and times.
#[derive(Default)]
struct Model {
    now: u64,
    /// Outcomes since a failure, and when that was.
    window: Vec<bool>,
    window_began: u64,
    opened: Option<u64>,
    half: Option<Half>,
    generation: u64,
    transitions: [u64; 3],
}

#[derive(Clone, Copy, Default)]
struct Half {
    began: u64,
    generation: u64,
    probes: u64,
    successes: u64,
}

impl Model {
    fn go(&mut self, state: BreakerState) {
        self.transitions[state as usize] += 1;
        (self.window, self.opened, self.half) = (Vec::new(), None, None);
        if state == BreakerState::Open {
            self.opened = Some(self.now);
        }
    }

    fn begin_half(&mut self, successes: u64) -> Option<u64> {
        self.generation += 1;
        self.half = Some(Half { began: self.now, generation: self.generation, probes: 1, successes });
        Some(self.generation)
    }

    /// `Ok(generation)` of a probe, `Ok(None)` of a call while closed.
    fn admit(&mut self) -> Result<Option<u64>, Rejected> {
        if let Some(opened) = self.opened {
            if self.now - opened < 50 {
                return Err(Rejected);
            }
            self.go(BreakerState::HalfOpen);
            return Ok(self.begin_half(0));
        }
        match self.half {
            None => Ok(None),
            Some(half) if half.probes < 2 => {
                self.half = Some(Half { probes: half.probes + 1, ..half });
                Ok(Some(half.generation))
            }
            Some(half) if self.now - half.began >= 50 => Ok(self.begin_half(half.successes)),
            Some(_) => Err(Rejected),
        }
    }

    fn end(&mut self, permit: Option<u64>, verdict: Option<bool>) {
        match (permit, verdict) {
            (None, Some(success)) if self.opened.is_none() && self.half.is_none() => self.count(success),
            (Some(generation), _) => self.probed(generation, verdict),
            _ => {}
        }
    }

    fn count(&mut self, success: bool) {
        if self.now - self.window_began >= 100 {
            self.window.clear();
        }
        if self.window.is_empty() {
            self.window_began = self.now;
        }
        if !success || !self.window.is_empty() {
            self.window.push(success);
        }
        let failures = self.window.iter().filter(|success| !**success).count();
        if self.window.len() >= 4 && failures * 2 >= self.window.len() {
            self.go(BreakerState::Open);
        }
    }

    fn probed(&mut self, generation: u64, verdict: Option<bool>) {
        let Some(half) = self.half.as_mut().filter(|half| half.generation == generation) else { return };
        half.probes -= 1;
        half.successes += u64::from(verdict == Some(true));
        let closed = half.successes >= 3;
        if verdict == Some(false) {
            self.go(BreakerState::Open);
        } else if closed {
            self.go(BreakerState::Closed);
        }
    }

    fn state(&self) -> BreakerState {
        match (self.opened, self.half) {
            (Some(_), _) => BreakerState::Open,
            (_, Some(_)) => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit,
    End { which: usize, verdict: Option<bool> },
    Advance(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let verdict = prop_oneof![4 => Just(Some(false)), 5 => Just(Some(true)), 1 => Just(None)];
    let op = prop_oneof![
        5 => Just(Op::Admit),
        4 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Op::End { which, verdict }),
        2 => (0u64..70).prop_map(Op::Advance),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(ops in ops()) {
        let (breaker, hands) = breaker(OPTIONS);
        let (mut model, mut permits) = (Model::default(), Vec::new());
        for op in ops {
            match op {
                Op::Advance(by) => {
                    hands.advance(by);
                    model.now += by;
                }
                Op::Admit => {
                    let (real, modelled) = (breaker.admit(), model.admit());
                    prop_assert_eq!(real.is_ok(), modelled.is_ok());
                    permits.extend(real.ok().zip(modelled.ok()));
                }
                Op::End { .. } if permits.is_empty() => {}
                Op::End { which, verdict } => {
                    let (real, modelled) = permits.swap_remove(which % permits.len());
                    match verdict {
                        Some(true) => real.success(),
                        Some(false) => real.failure(),
                        None => drop(real),
                    }
                    model.end(modelled, verdict);
                }
            }
            prop_assert_eq!(breaker.state(), model.state());
            prop_assert_eq!(breaker.counters().transitions, model.transitions);
        }
    }
}

const THREADS: usize = if cfg!(miri) { 3 } else { 8 };

#[test]
fn racing_threads_get_no_more_probes_than_there_are() {
    let (breaker, hands) = breaker(OPTIONS);
    fail(&breaker, 4);
    for _ in 0..if cfg!(miri) { 3 } else { 200 } {
        hands.advance(50);
        let permits = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| breaker.admit().ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(permits.len(), 2);
        permits.into_iter().for_each(Permit::failure);
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}

#[test]
fn hammered_it_counts_each_transition_once() {
    let (breaker, hands) = breaker(OPTIONS);
    thread::scope(|scope| {
        for seed in 1..=THREADS as u64 {
            let (breaker, hands) = (&breaker, &hands);
            scope.spawn(move || hammer(breaker, hands, seed, if cfg!(miri) { 60 } else { 20_000 }));
        }
    });
    let counters = breaker.counters();
    let [closed, opened, half] = counters.transitions;
    assert!(opened > 0 && half > 0 && closed <= half, "{counters:?}");
    // Each time it was half-open it had been open before.
    assert_eq!(opened - half, u64::from(counters.state == BreakerState::Open), "{counters:?}");
}

/// Calls of which a third fails, while the clock runs.
fn hammer(breaker: &Breaker<Hands>, hands: &Hands, mut random: u64, rounds: u32) {
    for _ in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        hands.advance(random >> 8 & 3);
        match (breaker.admit(), random % 3) {
            (Ok(permit), 0) => permit.failure(),
            (Ok(permit), _) => permit.success(),
            (Err(Rejected), _) => {}
        }
    }
}
