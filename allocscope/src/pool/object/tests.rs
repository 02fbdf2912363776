//! The object pool against a model, counted drops, threads, limits, failures and forks.

use super::*;
use crate::pool::pressure::Release;
use proptest::prelude::*;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

mod owned;
#[cfg(not(miri))]
mod refused;

/// Slots of a ledger's pool.
const SLOTS: usize = 4;

/// Slots of a pool in which each thread of this process has one, however many tests run.
const MANY_SLOTS: usize = 256;

/// Counts of items made and dropped.
#[derive(Clone, Default)]
struct Ledger(Arc<[AtomicUsize; 2]>);

/// An item that a ledger knows; dropped twice, it panics.
struct Item {
    ledger: Ledger,
    number: usize,
    bytes: usize,
    dropped: bool,
}

impl Ledger {
    fn item(&self) -> Item {
        let number = self.0[0].fetch_add(1, SeqCst);
        Item { ledger: self.clone(), number, bytes: 10, dropped: false }
    }

    fn made(&self) -> usize {
        self.0[0].load(SeqCst)
    }

    fn dropped(&self) -> usize {
        self.0[1].load(SeqCst)
    }

    fn pool(&self) -> PoolBuilder<Item> {
        let ledger = self.clone();
        Pool::builder(move || ledger.item()).threads(SLOTS)
    }
}

/// Runs a test in a thread that has a slot of its own in a ledger's pool: a number below 4, which many threads of other
/// tests want as well.
fn with_slot(test: fn()) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let tried = || thread::spawn(move || (super::thread::enrol() < SLOTS).then(test)).join();
    while tried().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).is_none() {
        assert!(Instant::now() < deadline, "no small number became free");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Looks at a pool while another thread, which sleeps, has had so many items and keeps them idle.
fn while_another_keeps(pool: &Pool<Item>, items: usize, look: impl FnOnce()) {
    let (keeps, kept) = mpsc::channel();
    let (awake, asleep) = mpsc::channel::<()>();
    // What ends the sleep is the drop of its sender, which also comes when `look` panics.
    thread::scope(move |scope| {
        scope.spawn(move || {
            drop((0..items).map(|_| pool.get()).collect::<Vec<_>>());
            keeps.send(()).expect("it is waited for");
            assert!(asleep.recv().is_err());
        });
        kept.recv().expect("the other thread panicked");
        look();
        drop(awake);
    });
}

impl Drop for Item {
    fn drop(&mut self) {
        assert!(!std::mem::replace(&mut self.dropped, true), "dropped twice");
        self.ledger.0[1].fetch_add(1, SeqCst);
    }
}

/// What a pool holds, by its own counts, is what was made and neither dropped nor is out.
fn check<R: Recipe<Item>>(pool: &Pool<Item, R>, ledger: &Ledger, out: usize) {
    let counters = pool.counters();
    assert_eq!(counters.gets, counters.hits.all() + counters.misses);
    assert_eq!(counters.in_use, out as u64);
    assert_eq!(counters.idle as usize, ledger.made() - ledger.dropped() - out);
}

#[test]
fn an_item_is_made_lazily_and_used_again() {
    with_slot(|| {
        let ledger = Ledger::default();
        let pool = ledger.pool().build();
        assert_eq!(ledger.made(), 0);
        for _ in 0..100 {
            assert_eq!(pool.get().number, 0);
        }
        let counters = pool.counters();
        assert_eq!(
            (counters.gets, counters.misses, counters.hits.private, counters.returns),
            (100, 1, 99, 100)
        );
        check(&pool, &ledger, 0);
        drop(pool);
        assert_eq!((ledger.made(), ledger.dropped()), (1, 1));
    });
}

#[test]
fn a_pool_of_defaults_shows_what_it_holds() {
    let pool = Pool::<Vec<u8>>::default();
    drop([pool.get(), pool.get()]);
    let text = format!("{pool:?}");
    assert!(text.starts_with("Pool { limits: Limits { max_idle: None,"), "{text}");
    assert!(text.contains("idle: 2, idle_bytes: 48 }"), "{text}");
}

#[test]
fn what_does_not_fit_a_slot_goes_to_shelves_and_comes_from_there() {
    with_slot(|| {
        let ledger = Ledger::default();
        let pool = ledger.pool().build();
        let items: Vec<_> = (0..45).map(|_| pool.get()).collect();
        check(&pool, &ledger, 45);
        drop(items);
        check(&pool, &ledger, 0);
        let items: Vec<_> = (0..45).map(|_| pool.get()).collect();
        let counters = pool.counters();
        assert_eq!((counters.misses, counters.hits.stolen, counters.hits.all()), (45, 0, 45));
        assert!((1..4).contains(&counters.hits.shared), "they come in fifteens: {counters:?}");
        drop(items);
        drop(pool);
        assert_eq!(ledger.dropped(), 45);
    });
}

#[test]
fn beyond_all_room_items_are_dropped_and_counted() {
    with_slot(|| {
        let ledger = Ledger::default();
        let pool = ledger.pool().build();
        // A slot of 17, and 4 shelves of 4 bins of 15.
        drop((0..300).map(|_| pool.get()).collect::<Vec<_>>());
        let counters = pool.counters();
        assert_eq!((counters.idle, counters.drops.full), (17 + 240, 300 - 17 - 240));
        check(&pool, &ledger, 0);
    });
}

#[test]
fn nothing_idle_survives_two_ticks() {
    let ledger = Ledger::default();
    let pool = ledger.pool().build();
    drop((0..60).map(|_| pool.get()).collect::<Vec<_>>());
    pool.tick();
    assert_eq!((pool.counters().idle, ledger.dropped()), (60, 0));
    drop(pool.get());
    assert_eq!(pool.counters().hits.victim, 1);
    pool.tick();
    assert_eq!((pool.counters().idle, pool.counters().drops.aged), (1, 59), "what was used is young again");
    pool.tick();
    check(&pool, &ledger, 0);
    assert_eq!((pool.counters().idle, ledger.dropped(), pool.counters().ticks), (0, 60, 3));
}

#[test]
fn a_tick_reaches_what_a_sleeping_thread_keeps() {
    let ledger = Ledger::default();
    let pool = ledger.pool().threads(MANY_SLOTS).build();
    while_another_keeps(&pool, 3, || {
        pool.tick();
        pool.tick();
        assert_eq!((pool.counters().idle, ledger.dropped()), (0, 3));
    });
}

#[test]
fn a_thread_that_ends_leaves_its_items_to_others() {
    let ledger = Ledger::default();
    let pool = ledger.pool().build();
    thread::scope(|scope| {
        // A join waits for the destructors of a thread's variables too; the end of a scope does not.
        scope.spawn(|| drop((0..5).map(|_| pool.get()).collect::<Vec<_>>())).join().unwrap();
    });
    let items: Vec<_> = (0..5).map(|_| pool.get()).collect();
    assert_eq!((ledger.made(), pool.counters().hits.all()), (5, 5));
    drop(items);
}

#[test]
fn threads_beyond_the_slots_share() {
    let ledger = Ledger::default();
    let pool = ledger.pool().threads(1).build();
    let barrier = Barrier::new(6);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..if cfg!(miri) { 4 } else { 500 } {
                    drop([pool.get(), pool.get()]);
                }
                barrier.wait();
            });
        }
    });
    check(&pool, &ledger, 0);
    drop(pool);
    assert_eq!(ledger.made(), ledger.dropped());
}

#[test]
fn a_pool_may_be_used_by_what_it_calls() {
    static POOL: std::sync::LazyLock<Pool<Nested>> =
        std::sync::LazyLock::new(|| Pool::builder(Nested::new).reset(Nested::reset).max_idle(3).build());
    thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
    struct Nested;
    impl Nested {
        fn deeper() {
            if DEPTH.get() < if cfg!(miri) { 1 } else { 3 } {
                DEPTH.set(DEPTH.get() + 1);
                drop([POOL.get(), POOL.get()]);
                POOL.tick();
                DEPTH.set(DEPTH.get() - 1);
            }
        }
        fn new() -> Self {
            Self::deeper();
            Self
        }
        fn reset(&mut self) -> bool {
            Self::deeper();
            true
        }
    }
    impl Drop for Nested {
        fn drop(&mut self) {
            Self::deeper();
        }
    }
    drop([POOL.get(), POOL.get(), POOL.get(), POOL.get()]);
    POOL.trim();
    let counters = POOL.counters();
    assert_eq!((counters.in_use, counters.gets), (0, counters.returns));
    assert!(counters.idle <= 3);
}

#[test]
fn what_must_not_be_kept_is_dropped_and_counted() {
    let ledger = Ledger::default();
    let pool =
        ledger.pool().reset(|item| item.number != 1).size_of(|item| item.bytes).max_item_bytes(100).build();
    let mut items = [pool.get(), pool.get(), pool.get()];
    items[2].bytes = 101;
    drop(items);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _held = pool.get();
        panic!("while it is held");
    }));
    assert!(panicked.is_err());
    let drops = pool.counters().drops;
    assert_eq!((drops.rejected, drops.oversized, drops.poisoned, drops.all()), (1, 1, 1, 3));
    check(&pool, &ledger, 0);
    assert_eq!(ledger.dropped(), 3);
}

#[test]
fn a_reset_that_panics_poisons() {
    let ledger = Ledger::default();
    let pool = ledger.pool().reset(|_| panic!("cannot")).build();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.get()))).is_err());
    assert_eq!(pool.counters().drops.poisoned, 1);
    check(&pool, &ledger, 0);
    assert_eq!(ledger.dropped(), 1);
}

#[test]
fn a_factory_that_fails_leaves_no_trace_but_its_count() {
    static FAILS: AtomicBool = AtomicBool::new(true);
    let make = || if FAILS.load(SeqCst) { Err(PoolError::Memory(7)) } else { Ok(1u8) };
    let pool = Pool::builder(|| if FAILS.load(SeqCst) { panic!("no memory") } else { 1u8 });
    let pool = pool.try_make(make).max_total(1).build();
    assert_eq!(pool.try_get().err(), Some(PoolError::Memory(7)));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.get()))).is_err());
    let counters = pool.counters();
    assert_eq!((counters.failures, counters.gets, counters.in_use), (2, 0, 0));
    FAILS.store(false, SeqCst);
    assert_eq!(pool.try_get().map(|item| *item), Ok(1), "the limit of one is not used up");
}

#[test]
fn idle_items_are_limited_by_number_and_bytes() {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_idle(3).build();
    drop((0..40).map(|_| pool.get()).collect::<Vec<_>>());
    assert_eq!((pool.counters().idle, pool.counters().drops.full), (3, 37));
    let pool = ledger.pool().size_of(|item| item.bytes).max_idle_bytes(35).build();
    drop((0..40).map(|_| pool.get()).collect::<Vec<_>>());
    assert_eq!((pool.counters().idle, pool.counters().idle_bytes), (3, 30));
    drop(pool.get());
    assert_eq!((pool.release(11), pool.idle_bytes()), (20, 10));
    let pool = ledger.pool().max_idle_bytes(3 * size_of::<Item>() + 1).build();
    drop((0..40).map(|_| pool.get()).collect::<Vec<_>>());
    assert_eq!((pool.counters().idle, pool.idle_bytes()), (3, 3 * size_of::<Item>()));
}

#[test]
fn rights_come_back_from_each_place() {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_idle(30).build();
    for round in 0..if cfg!(miri) { 4 } else { 20 } {
        drop((0..40).map(|_| pool.get()).collect::<Vec<_>>());
        assert_eq!(pool.counters().idle, 30, "round {round}");
        match round % 3 {
            0 => pool.tick(),
            1 => assert!(pool.release(1) > 0),
            _ => thread::scope(|scope| scope.spawn(|| drop(pool.get().take())).join().unwrap()),
        }
    }
    check(&pool, &ledger, 0);
}

#[test]
fn min_idle_stays_through_ticks_and_trims() {
    let ledger = Ledger::default();
    let pool = ledger.pool().min_idle(5).build();
    drop((0..60).map(|_| pool.get()).collect::<Vec<_>>());
    (0..5).for_each(|_| pool.tick());
    assert_eq!(pool.counters().idle, 5);
    pool.trim();
    assert_eq!(pool.counters().idle, 5);
    drop((0..60).map(|_| pool.get()).collect::<Vec<_>>());
    pool.trim();
    assert_eq!(pool.counters().idle, 5);
    check(&pool, &ledger, 0);
}

#[test]
fn age_ticks_by_the_clock() {
    with_slot(|| {
        thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });
        let ledger = Ledger::default();
        let clock = || Duration::from_secs(NOW.get());
        let pool = ledger.pool().clock(clock).max_age(Duration::from_secs(10)).build();
        drop(pool.get());
        let mut idle = Vec::new();
        for now in [4, 5, 9, 10] {
            NOW.set(now);
            pool.age();
            idle.push(pool.counters().idle);
        }
        assert_eq!((idle, pool.counters().ticks), (vec![1, 1, 1, 0], 2));
        drop(pool.get());
        NOW.set(40);
        drop(pool.get());
        pool.age();
        assert_eq!(pool.counters().idle, 0, "nobody looked for so long that all may be too old");
        assert_eq!((ledger.made(), ledger.dropped()), (2, 2));
    });
}

#[test]
fn max_total_fails_or_goes_beyond() {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_total(2).build();
    let two = [pool.try_get().unwrap(), pool.try_get().unwrap()];
    assert_eq!(pool.try_get().err(), Some(PoolError::Exhausted));
    let third = pool.get();
    assert_eq!(pool.counters().beyond_limit, 1);
    drop(two);
    check(&pool, &ledger, 1);
    assert_eq!((pool.counters().drops.beyond_limit, pool.counters().idle), (1, 1));
    drop(third);
    assert_eq!((pool.counters().idle, ledger.dropped()), (2, 1));
    pool.put(ledger.item());
    assert_eq!((pool.counters().idle, pool.counters().drops.beyond_limit), (2, 2));
    drop(pool.get().take());
    pool.put(ledger.item());
    assert_eq!(pool.counters().idle, 2);
}

#[test]
fn at_the_limit_an_item_that_another_thread_keeps_is_had() {
    let ledger = Ledger::default();
    let pool = ledger.pool().threads(MANY_SLOTS).max_total(1).build();
    while_another_keeps(&pool, 1, || {
        assert_eq!(pool.try_get().map(|item| item.number), Ok(0));
        assert_eq!(pool.counters().hits.stolen, 1);
    });
}

#[test]
fn who_waits_gets_what_comes_back_or_runs_out_of_time() {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_total(1).max_wait(Duration::from_millis(20)).build();
    let held = pool.get();
    let start = Instant::now();
    assert_eq!(pool.try_get().err(), Some(PoolError::Exhausted));
    assert!(start.elapsed() >= Duration::from_millis(20));
    drop(held);
    let pool = ledger.pool().max_total(1).max_wait(Duration::from_secs(30)).build();
    let held = pool.get();
    thread::scope(|scope| {
        let waits: Vec<_> = (0..3).map(|_| scope.spawn(|| pool.try_get().map(|item| item.number))).collect();
        while pool.counters().waits < 3 {
            thread::yield_now();
        }
        let number = held.number;
        drop(held);
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Ok(number));
        }
    });
    assert_eq!((pool.counters().timeouts, pool.counters().misses), (0, 1));
    let held = pool.get();
    thread::scope(|scope| {
        let wait = scope.spawn(|| pool.try_get().map(|item| item.number));
        while pool.counters().waits < 4 {
            thread::yield_now();
        }
        drop(held.take());
        assert!(wait.join().unwrap().is_ok(), "one taken out makes room for a new one");
    });
}

/// What a random program does.
#[derive(Clone, Debug)]
enum Step {
    Get,
    TryGet,
    GetOwned,
    Drop(usize),
    Take(usize),
    Put,
    Tick,
    Trim(usize),
    Elsewhere(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Get),
        1 => Just(Step::TryGet),
        3 => Just(Step::GetOwned),
        6 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Take),
        1 => Just(Step::Put),
        1 => Just(Step::Tick),
        1 => (0..100usize).prop_map(Step::Trim),
        1 => (1..20usize).prop_map(Step::Elsewhere),
    ]
}

/// An item that is out, by either guard.
enum Out<'p> {
    Borrowed(Pooled<'p, Item>),
    Owned(OwnedPooled<Item>),
}

impl Out<'_> {
    fn number(&self) -> usize {
        match self {
            Self::Borrowed(item) => item.number,
            Self::Owned(item) => item.number,
        }
    }

    fn take(self) -> Item {
        match self {
            Self::Borrowed(item) => item.take(),
            Self::Owned(item) => item.take(),
        }
    }
}

/// The simple model of a pool: which items are out, and in which generation the others were put, if they still are.
struct Model<'p> {
    pool: &'p Arc<Pool<Item>>,
    ledger: Ledger,
    out: Vec<Out<'p>>,
    /// By an item's number: ticks when it came back; `None` while it is out.
    put: std::collections::HashMap<usize, Option<u64>>,
    ticks: u64,
    /// Whether some are kept whatever their age.
    keeps: bool,
}

impl<'p> Model<'p> {
    fn got(&mut self, item: Out<'p>) {
        if let Some(put) = self.put.insert(item.number(), None) {
            let put = put.expect("an item is out once only");
            assert!(self.ticks - put < 2 || self.keeps, "it was idle for two generations");
        }
        self.out.push(item);
    }

    fn step(&mut self, step: &Step, max_total: Option<usize>) {
        match *step {
            Step::Get => self.got(Out::Borrowed(self.pool.get())),
            Step::GetOwned => self.got(Out::Owned(self.pool.get_owned())),
            Step::TryGet => {
                let live = self.ledger.made() - self.ledger.dropped();
                let idle = live - self.out.len();
                match self.pool.try_get() {
                    Ok(item) => self.got(Out::Borrowed(item)),
                    Err(error) => {
                        assert_eq!(error, PoolError::Exhausted);
                        assert!(idle == 0 && max_total.is_some_and(|most| live >= most));
                    }
                }
            }
            Step::Drop(at) if !self.out.is_empty() => {
                let item = self.out.swap_remove(at % self.out.len());
                self.put.insert(item.number(), Some(self.ticks));
            }
            Step::Take(at) if !self.out.is_empty() => {
                drop(self.out.swap_remove(at % self.out.len()).take());
            }
            Step::Put => {
                let item = self.ledger.item();
                self.put.insert(item.number, Some(self.ticks));
                self.pool.put(item);
            }
            Step::Tick => {
                self.pool.tick();
                self.ticks += 1;
            }
            Step::Trim(bytes) => {
                let before = self.pool.idle_bytes();
                let freed = self.pool.release(bytes);
                assert_eq!(self.pool.idle_bytes(), before - freed);
            }
            Step::Elsewhere(items) => self.elsewhere(items),
            Step::Drop(_) | Step::Take(_) => {}
        }
    }

    /// Another thread holds some at once and ends.
    fn elsewhere(&mut self, items: usize) {
        let (pool, ticks) = (self.pool, self.ticks);
        let numbers = thread::scope(|scope| {
            let worker =
                || (0..items).map(|_| pool.get()).collect::<Vec<_>>().iter().map(|i| i.number).collect();
            scope.spawn(worker).join().unwrap_or_else(|_| Vec::new())
        });
        assert_eq!(numbers.len(), items);
        self.put.extend(numbers.into_iter().map(|number| (number, Some(ticks))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_program_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 30 } else { 200 }),
        max_idle in prop::option::of(0..30usize),
        max_total in prop::option::of(1..30usize),
        min_idle in 0..3usize,
        weighs in any::<bool>(),
    ) {
        let ledger = Ledger::default();
        let mut builder = ledger.pool().min_idle(min_idle);
        builder.limits.max_idle = max_idle;
        builder.limits.max_total = max_total;
        let builder = if weighs { builder.size_of(|item| item.bytes) } else { builder };
        let pool = Arc::new(builder.build());
        let (ledger_of_model, keeps) = (ledger.clone(), min_idle > 0);
        let mut model =
            Model { pool: &pool, ledger: ledger_of_model, out: vec![], put: Default::default(), ticks: 0, keeps };
        for step in &steps {
            model.step(step, max_total);
            check(&pool, &ledger, model.out.len());
            let counters = pool.counters();
            prop_assert!(max_idle.is_none_or(|most| counters.idle <= most as u64));
            let owned = model.out.iter().filter(|out| matches!(out, Out::Owned(_))).count();
            prop_assert_eq!(Arc::strong_count(&pool), 1 + owned);
            if weighs {
                prop_assert_eq!(counters.idle_bytes, counters.idle * 10);
            }
        }
        drop(model);
        pool.tick();
        pool.tick();
        let idle = pool.counters().idle;
        prop_assert!(idle <= min_idle as u64, "{} idle after two ticks", idle);
        check(&pool, &ledger, 0);
        drop(pool);
        prop_assert_eq!(ledger.made(), ledger.dropped());
    }
}

#[test]
fn a_long_run_of_threads_loses_nothing() {
    let rounds = if cfg!(miri) { 8 } else { 20_000 };
    let ledger = Ledger::default();
    for limits in [Limits::default(), Limits { max_idle: Some(9), max_total: Some(12), ..Limits::default() }]
    {
        let mut builder = ledger.pool().max_wait(Duration::from_millis(1));
        builder.limits.max_idle = limits.max_idle;
        builder.limits.max_total = limits.max_total;
        let pool = builder.build();
        thread::scope(|scope| {
            for seed in 0..4usize {
                let pool = &pool;
                scope.spawn(move || wander(pool, seed, rounds));
            }
            (0..rounds / 20).for_each(|_| pool.tick());
        });
        check(&pool, &ledger, 0);
        assert!(limits.max_idle.is_none_or(|most| pool.counters().idle <= most as u64));
        drop(pool);
        assert_eq!(ledger.made(), ledger.dropped());
    }
}

fn wander(pool: &Pool<Item>, seed: usize, rounds: usize) {
    let mut random = seed as u64 * 2 + 1;
    let mut held = std::collections::VecDeque::new();
    for _ in 0..rounds {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        match random >> 60 {
            0..7 => held.extend(pool.try_get().ok()),
            7..13 => drop(held.pop_front()),
            13 => held.clear(),
            14 => drop(held.pop_back().map(Pooled::take)),
            _ => drop(pool.release(1)),
        }
        if held.len() > 24 {
            held.clear();
        }
    }
}

/// What a child finds is its own copy: it may use and drop it, and never waits for a thread that it does not have.
#[test]
#[cfg(not(miri))]
fn a_child_uses_its_own_copy() {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_total(50).max_wait(Duration::from_millis(1)).build();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    wander(pool, seed, 100);
                    pool.tick();
                }
            });
        }
        let _stops = Stops(&stop);
        for _ in 0..20 {
            // SAFETY: the child runs only the code of the pool, and ends by `_exit`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let fine = catch_unwind(AssertUnwindSafe(|| live_as_child(&pool))).is_ok();
                // SAFETY: nothing of this process is to be cleaned up twice.
                unsafe { libc::_exit(if fine { 0 } else { 1 }) };
            }
            assert_eq!(ends(child), Some(0), "the child neither waits nor fails");
        }
    });
    check(&pool, &ledger, 0);
}

/// Ends the threads of a test, also of one that fails.
#[cfg(not(miri))]
struct Stops<'s>(&'s AtomicBool);

#[cfg(not(miri))]
impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[cfg(not(miri))]
fn live_as_child(pool: &Pool<Item>) {
    drop([pool.get(), pool.get()]);
    pool.tick();
    pool.tick();
    thread::scope(|scope| scope.spawn(|| wander(pool, 7, 100)).join().map_err(|_| ()).ok());
    let mut held: Vec<usize> = Vec::new();
    let items: Vec<_> = (0..30).filter_map(|_| pool.try_get().ok()).collect();
    held.extend(items.iter().map(|item| item.number));
    held.sort_unstable();
    held.dedup();
    assert_eq!(held.len(), items.len(), "no item twice");
}

/// A process's exit code; `None` where it does not end within ten seconds.
#[cfg(not(miri))]
fn ends(process: libc::pid_t) -> Option<i32> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut status = 0;
    while Instant::now() < end {
        // SAFETY: the status is written to a number of ours.
        if unsafe { libc::waitpid(process, &raw mut status, libc::WNOHANG) } == process {
            return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the process is a child of this one that was not waited for.
    unsafe { libc::kill(process, libc::SIGKILL) };
    None
}
