//! Destructors: each runs once, the last placed first, whatever panics.

use super::*;
use proptest::prelude::*;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

type Log = Arc<Mutex<Vec<u32>>>;

/// Notes its number when it is dropped, and panics then if told.
struct Noted {
    number: u32,
    log: Log,
    panics: bool,
}

impl Noted {
    fn new(number: u32, log: &Log) -> Noted {
        Noted { number, log: Arc::clone(log), panics: false }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(self.number);
        assert!(!self.panics, "told to");
    }
}

fn noted(log: &Log) -> Vec<u32> {
    log.lock().unwrap().clone()
}

#[test]
fn destructors_run_once_in_reverse() {
    let log = Log::default();
    let mut arena = DropArena::new();
    (0..3).for_each(|number| _ = arena.alloc(Noted::new(number, &log)));
    arena.alloc_slice_fill_with(2, |at| Noted::new(10 + at as u32, &log));
    arena.alloc(7_u64);
    assert!(noted(&log).is_empty());
    arena.reset();
    assert_eq!(noted(&log), [10, 11, 2, 1, 0]);
    arena.reset();
    arena.alloc(Noted::new(5, &log)).number = 6;
    drop(arena);
    assert_eq!(noted(&log), [10, 11, 2, 1, 0, 6]);
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn others_run_where_one_panics() {
    let log = Log::default();
    let mut arena = DropArena::new();
    (0..5).for_each(|number| arena.alloc(Noted::new(number, &log)).panics = number == 3);
    let result = panic::catch_unwind(AssertUnwindSafe(|| arena.reset()));
    assert!(result.is_err());
    assert_eq!(noted(&log), [4, 3, 2, 1, 0]);
    // The arena goes on.
    arena.alloc(Noted::new(9, &log));
    arena.reset();
    assert_eq!((noted(&log).len(), arena.counters().used), (6, 0));
}

#[test]
fn a_slice_that_cannot_be_made_leaves_nothing() {
    let log = Log::default();
    let mut arena = DropArena::new();
    let make = |at| {
        assert!(at < 3, "no more");
        Noted::new(at as u32, &log)
    };
    let result = panic::catch_unwind(AssertUnwindSafe(|| arena.alloc_slice_fill_with(5, make).len()));
    assert!(result.is_err());
    assert_eq!(noted(&log), [0, 1, 2]);
    arena.reset();
    assert_eq!(noted(&log).len(), 3);
}

#[test]
fn where_there_is_no_memory_the_value_is_dropped() {
    let log = Log::default();
    let arena = DropArena::over(Arena::with_options(ArenaOptions { limit: 0, ..Default::default() }));
    assert_eq!(arena.try_alloc(Noted::new(1, &log)).map(|_| ()), Err(AllocError::Exhausted(32)));
    let never = arena.try_alloc_slice_fill_with(1, |_| -> Noted { panic!("not called") });
    assert!(never.is_err());
    drop(arena);
    assert_eq!(noted(&log), [1]);
}

#[test]
fn what_needs_no_destructor_takes_no_more_than_itself() {
    let arena = DropArena::new();
    arena.alloc([1_u64; 8]);
    assert_eq!(arena.counters().used, 64);
    assert_eq!(arena.plain().alloc_str("12345678").len(), 8);
    arena.alloc(vec![1]);
    assert_eq!(arena.counters().used, 64 + 8 + 4 * 8 + 3 * 8);
}

#[test]
fn values_of_no_size_are_dropped_too() {
    struct Nothing;
    thread_local!(static DROPS: Cell<usize> = const { Cell::new(0) });
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let arena = DropArena::new();
    arena.alloc(Nothing);
    arena.alloc_slice_fill_with(1000, |_| Nothing);
    drop(arena);
    assert_eq!(DROPS.get(), 1001);
}

#[test]
fn destructors_run_where_the_arena_is() {
    let log = Log::default();
    let arena = DropArena::new();
    arena.alloc(Noted::new(1, &log));
    std::thread::spawn(move || drop(arena)).join().unwrap();
    assert_eq!(noted(&log), [1]);
}

#[test]
fn values_live_in_a_region_too() {
    let log = Log::default();
    let mut arena = DropArena::over(Arena::in_region(region(1 << 16)));
    let count = std::iter::from_fn(|| arena.try_alloc(Noted::new(0, &log)).ok()).count();
    // One that did not fit was dropped at once.
    assert_eq!(noted(&log).len(), 1);
    arena.reset();
    assert_eq!((noted(&log).len(), count), (count + 1, (1 << 16) / (32 + size_of::<Noted>())));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 100 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Slices of noted values, with resets between; of each round, one value may panic when it is dropped.
    #[test]
    fn each_is_dropped_exactly_once(rounds in prop::collection::vec(round(), 0..4)) {
        let log = Log::default();
        let mut arena = DropArena::over(Arena::with_options(small_chunks()));
        let mut next = 0;
        for (lens, panicking) in &rounds {
            let before = noted(&log).len();
            let mut slices: Vec<Vec<u32>> = Vec::new();
            for len in lens {
                let first = next;
                next += *len as u32;
                let values = arena.alloc_slice_fill_with(*len, |at| Noted::new(first + at as u32, &log));
                values.iter_mut().for_each(|value| value.panics = value.number == panicking + first);
                slices.push((first..next).collect());
                if slices.last().is_some_and(|slice| slice.len() > *panicking as usize) {
                    break;
                }
            }
            let panics = slices.last().is_some_and(|slice| slice.len() > *panicking as usize);
            let result = panic::catch_unwind(AssertUnwindSafe(|| arena.reset()));
            prop_assert_eq!(result.is_err(), panics);
            let order: Vec<u32> = slices.into_iter().rev().flatten().collect();
            prop_assert_eq!(&noted(&log)[before..], &order);
        }
        drop(arena);
        prop_assert_eq!((noted(&log).len(), Arc::strong_count(&log)), (next as usize, 1));
        prop_assert_eq!(Flaky::held_bytes(), 0);
    }
}

/// How long slices are, and which value of the first that is long enough panics: it is the last one of its round.
fn round() -> impl Strategy<Value = (Vec<usize>, u32)> {
    (prop::collection::vec(0_usize..4, 0..20), 0_u32..12)
}
