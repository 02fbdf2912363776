//! What loom explores: each order of the steps of two or three threads, with at most three preemptions.
//!
//! Modelled are the slot (its owner against a visitor, as `tick` and the taking at a limit are, with full fences for
//! both sides, where the kernel's `membarrier` is a full fence on the owner's processor) and the set of shelves (who
//! puts against who takes, with marks). Not modelled: threads' numbers, the pool's lock and the queue of those who
//! wait, which are of the standard library.

use super::fence::Fences;
use super::shelf::{Cursor, Set};
use super::slot::{Slot, VISIT};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// What a visitor takes of a slot.
fn empty(slot: &Slot<Box<u32>>) -> Vec<u32> {
    slot.close(VISIT);
    assert!(Fences::Full.heavy());
    let mut found = Vec::new();
    slot.visit(|own| {
        while let Some(item) = own.pop() {
            found.push(*item);
        }
    });
    slot.open(VISIT);
    found
}

fn put(slot: &Slot<Box<u32>>, item: u32) -> bool {
    slot.enter()
        .or_else(|| slot.enter_fenced())
        .is_some_and(|section| section.with(|own| own.push(Box::new(item))).is_none())
}

fn get(slot: &Slot<Box<u32>>) -> Option<u32> {
    slot.enter()
        .or_else(|| slot.enter_fenced())
        .and_then(|section| section.with(|own| own.pop()))
        .map(|item| *item)
}

#[test]
fn an_item_of_a_slot_goes_to_its_owner_or_to_a_visitor() {
    goes_to_owner_or_visitor(Fences::Asymmetric);
}

#[test]
fn an_item_of_a_fenced_slot_goes_to_its_owner_or_to_a_visitor() {
    goes_to_owner_or_visitor(Fences::Full);
}

fn goes_to_owner_or_visitor(fences: Fences) {
    explore(move || {
        let slot = Arc::new(Slot::new(fences, true));
        let visited = Arc::clone(&slot);
        let visitor = thread::spawn(move || empty(&visited));
        let kept: Vec<u32> = (0..2).filter(|item| put(&slot, *item)).collect();
        let mut found: Vec<u32> = get(&slot).into_iter().collect();
        found.extend(visitor.join().unwrap());
        found.extend(empty(&slot));
        found.sort_unstable();
        assert_eq!(found, kept);
    });
}

#[test]
fn what_a_visitor_leaves_behind_is_seen_by_the_owner() {
    explore(|| {
        let slot = Arc::new(Slot::new(Fences::Asymmetric, false));
        let visited = Arc::clone(&slot);
        let visitor = thread::spawn(move || {
            visited.close(VISIT);
            assert!(Fences::Full.heavy());
            let raised = visited.visit(|own| own.raise(2)).is_some();
            visited.open(VISIT);
            raised
        });
        let kept = put(&slot, 1);
        let raised = visitor.join().unwrap();
        assert!(!kept || raised, "an item is held without a right");
        assert_eq!(empty(&slot), if kept { vec![1] } else { vec![] });
    });
}

#[test]
fn an_item_of_a_shelf_goes_to_one_taker_and_is_not_forgotten() {
    explore(|| {
        let set = Arc::new(Set::new(2, 2));
        let taken = Arc::new(AtomicUsize::new(0));
        set.give(0, &mut Cursor::default(), |bin| bin.push(Box::new(1usize)));
        let takers: Vec<_> = (0..2)
            .map(|home| {
                let (set, taken) = (Arc::clone(&set), Arc::clone(&taken));
                thread::spawn(move || {
                    if let Some((Some(item), _)) = set.take(home, &mut Cursor::default(), |bin| bin.pop()) {
                        taken.fetch_add(*item, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        set.give(1, &mut Cursor::default(), |bin| bin.push(Box::new(10usize)));
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        // All is at rest: what was not taken is found by its mark.
        while let Some((item, _)) = set.take(0, &mut Cursor::default(), |bin| bin.pop()) {
            taken.fetch_add(*item.unwrap(), Ordering::Relaxed);
        }
        assert_eq!(taken.load(Ordering::Relaxed), 11);
        assert!(set.take_any(|_| ()).is_none());
    });
}
