//! Random programs and readings against the policy's promises.

use super::super::{Band, Level, MemoryShare};
use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::sync::Mutex;

const CASES: u32 = if cfg!(miri) { 4 } else { 512 };

/// Memory in items of one size, which are given back whole.
struct Items {
    idle: Cell<usize>,
    item: usize,
    asked: RefCell<Vec<(usize, Advice)>>,
}

impl Items {
    fn new(idle: usize, item: usize) -> Self {
        Self { idle: Cell::new(idle / item * item), item, asked: RefCell::default() }
    }
}

impl Release for Items {
    fn idle_bytes(&self) -> usize {
        self.idle.get()
    }

    fn release(&self, bytes: usize) -> usize {
        let bytes = bytes.next_multiple_of(self.item).min(self.idle.get());
        self.idle.set(self.idle.get() - bytes);
        bytes
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        self.asked.borrow_mut().push((bytes, advice));
        self.release(bytes)
    }
}

/// Says what it was made with.
struct Says(Keep, Advice);

impl Signal for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn look(&mut self, _now: Duration) {}

    fn keep(&mut self, _asked: &Asked) -> Keep {
        self.0
    }

    fn advice(&self) -> Advice {
        self.1
    }
}

fn pressure(signals: &[(Keep, Advice)], least_bytes: usize) -> Pressure {
    let says = |builder: PressureBuilder, &(keep, advice): &_| builder.signal(Says(keep, advice));
    signals.iter().fold(Pressure::builder().least_bytes(least_bytes), says).build()
}

fn keeps() -> impl Strategy<Value = Keep> {
    prop_oneof![Just(Keep::All), Just(Keep::Unknown("unknown")), (0usize..10_000).prop_map(Keep::Bytes)]
}

#[test]
fn the_signal_that_lets_least_stay_decides_and_its_pages_go_for_sure() {
    let (free, dont_need) = (Advice::Free, Advice::DontNeed);
    let advice_of = |signals: &[(Keep, Advice)]| {
        let items = Items::new(1000, 1);
        let step = pressure(signals, 1).step(Duration::ZERO, &[&items]);
        (step.keep_bytes, items.idle_bytes(), items.asked.take().first().map(|asked| asked.1))
    };
    let (all, bytes) = (Keep::All, Keep::Bytes);
    assert_eq!(advice_of(&[(bytes(700), free), (all, dont_need)]), (700, 700, Some(free)));
    assert_eq!(advice_of(&[(bytes(700), free), (bytes(900), dont_need)]), (700, 700, Some(dont_need)));
    assert_eq!(advice_of(&[(bytes(700), free), (bytes(1000), dont_need)]), (700, 700, Some(free)));
    assert_eq!(advice_of(&[(Keep::Unknown("x"), dont_need)]), (1000, 1000, None));
    assert_eq!(advice_of(&[]), (1000, 1000, None));
}

#[test]
fn the_advice_can_be_fixed() {
    let items = Items::new(10, 1);
    let builder = Pressure::builder().signal(Says(Keep::Bytes(0), Advice::DontNeed)).least_bytes(1);
    builder.advice(Advice::Free).build().step(Duration::ZERO, &[&items]);
    assert_eq!(items.asked.take(), [(10, Advice::Free)]);
}

#[test]
fn two_releases_are_apart_in_time() {
    let items = Items::new(1000, 1);
    let mut pressure = pressure(&[(Keep::Bytes(0), Advice::Free)], 1);
    let mut at = |millis| {
        items.idle.set(1000);
        pressure.step(Duration::from_millis(millis), &[&items]).released_bytes
    };
    assert_eq!([5000, 5999, 4000, 6000, 6001].map(&mut at), [1000, 0, 0, 1000, 0]);
}

/// An object pool, a buffer pool and an arena, asked in proportion to what they hold: what may stay does.
#[test]
#[cfg(not(loom))]
fn real_holders_give_back_together() {
    use crate::pool::arena::ArenaOptions;
    use crate::pool::{Arena, BufferPool, Pool};
    const KIB: usize = 1024;
    let items = Pool::builder(|| vec![0u8; 4 * KIB]).size_of(Vec::capacity).build();
    let buffers = BufferPool::builder().build();
    drop((
        (0..8).map(|_| items.get()).collect::<Vec<_>>(),
        (0..8).map(|_| buffers.get(8 * KIB)).collect::<Vec<_>>(),
    ));
    let mut arena = Arena::with_options(ArenaOptions { first_chunk: 64 * KIB, ..ArenaOptions::default() });
    arena.alloc_zeroed(16 * KIB, 8);
    arena.alloc_zeroed(100 * KIB, 8);
    arena.reset();
    let holders: [&dyn Release; 3] = [&items, &buffers, &arena];
    let idle = || holders.map(Release::idle_bytes);
    let [of_items, of_buffers, of_arena] = idle();
    assert!(of_items == 32 * KIB && of_buffers == 64 * KIB && of_arena > 0, "{:?}", idle());

    let before: usize = idle().iter().sum();
    let step = pressure(&[(Keep::Bytes(before / 2), Advice::DontNeed)], 1).step(Duration::ZERO, &holders);
    let after: usize = idle().iter().sum();
    assert_eq!(step.released_bytes, before - after);
    assert!(after <= before / 2, "{after} of {before}");
    assert!(idle()[0] < of_items && idle()[1] < of_buffers, "{:?}", idle());

    pressure(&[(Keep::Bytes(0), Advice::DontNeed)], 1).step(Duration::ZERO, &holders);
    assert_eq!(idle(), [0; 3]);
}

/// A signal on a reading that the test sets.
fn share_of(used: Arc<Mutex<u64>>, band: Band, limit_bytes: u64) -> impl Signal {
    MemoryShare::new(band, move || Ok(vec![Level { used_bytes: *used.lock().unwrap(), limit_bytes }]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_signals_keep_stays_and_less_than_the_least_does_not_go(
        keeps in prop::collection::vec(keeps(), 0..4),
        idle in prop::collection::vec((0usize..5000, 1usize..9), 0..5),
        least in 0usize..3000,
    ) {
        let signals: Vec<_> = keeps.iter().map(|&keep| (keep, Advice::Free)).collect();
        let items: Vec<Items> = idle.iter().map(|&(idle, item)| Items::new(idle, item)).collect();
        let holders: Vec<&dyn Release> = items.iter().map(|items| items as &dyn Release).collect();
        let before: usize = items.iter().map(Release::idle_bytes).sum();
        let step = pressure(&signals, least).step(Duration::ZERO, &holders);
        let after: usize = items.iter().map(Release::idle_bytes).sum();

        let limits = keeps.iter().filter_map(|keep| if let Keep::Bytes(bytes) = keep { Some(*bytes) } else { None });
        let keep = limits.min().unwrap_or(before).min(before);
        prop_assert_eq!(step.keep_bytes, keep);
        prop_assert_eq!(step.released_bytes, before - after);
        if before - keep < least.max(1) {
            prop_assert_eq!(after, before);
        } else {
            prop_assert_eq!(step.asked_bytes, before - keep);
            prop_assert!(after <= keep, "{} of {} stayed, {} might", after, before, keep);
            // Whole items: each holder may give less than one item too much.
            let too_much: usize = items.iter().map(|items| items.item - 1).sum();
            prop_assert!(after + too_much >= keep, "{} of {} stayed, {} should", after, before, keep);
        }
    }

    /// A machine whose other users come and go: a release begins at the high mark only, then goes on at every step down
    /// to the low mark (or as far as there is something worth it), and never begins in between.
    #[test]
    fn once_begun_it_goes_to_the_low_mark_and_does_not_flap(
        others in prop::collection::vec(0u64..1000, 1..60),
        idle in 0usize..1000,
        per_step in 1usize..400,
        low in 1u64..90,
        width in 1u64..10,
        least in 0usize..100,
    ) {
        const LIMIT: u64 = 1000;
        let (low, high) = (low as f64 / 100.0, (low + width) as f64 / 100.0);
        let used = Arc::new(Mutex::new(0));
        let signal = share_of(Arc::clone(&used), Band::new(high, low).unwrap(), LIMIT);
        let mut pressure = Pressure::builder().signal(signal).least_bytes(least).every(Duration::ZERO).build();
        let items = Items::new(idle, 1);
        let mut begun = false;
        for other in others {
            // What a pool takes in between.
            items.idle.set((items.idle_bytes() + per_step).min(idle));
            let before = other + items.idle_bytes() as u64;
            *used.lock().unwrap() = before;
            pressure.look(Duration::ZERO);
            let step = pressure.step(Duration::ZERO, &[&items]);
            let share = before as f64 / LIMIT as f64;
            let above = before.saturating_sub((low * LIMIT as f64) as u64);
            let worth = above > 0 && above >= least as u64;
            begun = worth && (share >= high || begun && share > low);
            prop_assert_eq!(step.keep_bytes < step.idle_bytes, begun && step.idle_bytes > 0);
            if step.asked_bytes > 0 {
                prop_assert!(begun);
                let left = other + items.idle_bytes() as u64;
                prop_assert!(left == before - above || items.idle_bytes() == 0);
                prop_assert!(step.asked_bytes >= least);
            }
        }
    }
}
