//! Items that are idle into where they wait: in threads' own slots, on shelves, in two generations.

use super::fence::Fences;
use super::lock::{Lock, Locked};
use super::roster::Told;
use super::shelf::{BIN, Cursor, IN_TURN, Set};
use super::slot::{HOLDS, LIMIT, Own, Section, Slot, VISIT};
use super::tally::Event;
use super::thread;
use crate::pool::sync::{AtomicUsize, Ordering};
use std::thread::Thread;

/// Bins of a shelf, where no limit wants more.
const WIDTH: usize = IN_TURN;
/// Bins of a shelf at most, whatever a limit wants.
const WIDEST: usize = 1 << 12;
/// Rights to hold an item that a slot takes at once where they are limited.
const LEASE: u32 = 4;

/// All idle items of a pool. Knows nothing of recipes and calls no user code.
pub(super) struct Store<T> {
    slots: Box<[Slot<T>]>,
    sets: [Set<T>; 2],
    /// Which set takes what is put; the other holds the generation before.
    primary: AtomicUsize,
    /// Rights to hold an item that nobody has; `None` where they are not limited.
    room: Option<AtomicUsize>,
    fences: Fences,
    pub(super) lock: Lock<State>,
}

/// What the lock guards, beside the right to visit slots.
#[derive(Default)]
pub(super) struct State {
    /// Threads that wait for an item, first come first served.
    pub(super) waiting: Vec<(u64, Thread)>,
    pub(super) tickets: u64,
    /// Whether gates are closed because of a limit.
    pub(super) limited: bool,
}

/// What a turn of generations did.
pub(super) enum Turn<T> {
    /// An item of the oldest generation is to be dropped, then turn again.
    Drop(T),
    /// The generations have turned; these found no place any more.
    Turned(Vec<T>),
}

impl<T> Store<T> {
    /// A store of so many slots that holds at most `max_idle` items.
    pub(super) fn new(slots: usize, max_idle: Option<usize>, min_idle: usize) -> Self {
        let fences = Fences::now();
        let wanted = max_idle.unwrap_or(slots * WIDTH * BIN).max(min_idle);
        let width = wanted.div_ceil(slots * BIN).clamp(1, WIDEST);
        Self {
            slots: (0..slots).map(|_| Slot::new(fences, max_idle.is_none())).collect(),
            sets: [Set::new(slots, width), Set::new(slots, width)],
            primary: AtomicUsize::new(0),
            room: max_idle.map(AtomicUsize::new),
            fences,
            lock: Lock::new(State::default()),
        }
    }

    /// This thread's slot.
    #[inline(always)]
    pub(super) fn slot(&self) -> Option<&Slot<T>> {
        self.slots.get(thread::number())
    }

    pub(super) fn slots(&self) -> &[Slot<T>] {
        &self.slots
    }

    /// Whether the owner of a slot must execute a fence.
    #[inline(always)]
    pub(super) fn is_fenced(&self) -> bool {
        self.fences == Fences::Full
    }

    /// This thread's shelf.
    fn home(&self) -> usize {
        let (number, shelves) = (thread::enrol(), self.slots.len());
        if number < shelves { number } else { number % shelves }
    }

    fn section(&self) -> Option<Section<'_, T>> {
        let slot = self.slot()?;
        slot.enter().or_else(|| slot.enter_slowly())
    }

    /// The set that takes what is put, and the one of the generation before.
    fn generations(&self) -> (&Set<T>, &Set<T>) {
        let primary = self.primary.load(Ordering::Acquire);
        (&self.sets[primary & 1], &self.sets[(primary & 1) ^ 1])
    }

    /// An item of the shared part, with where it was.
    pub(super) fn take(&self) -> Option<(T, Event)> {
        let home = self.home();
        let (primary, victims) = self.generations();
        if let Some(found) = self.take_some(primary, home) {
            return Some(found);
        }
        // One only: what is not used must not become young again.
        let (item, _) = victims.take(home, &mut Cursor::default(), |bin| bin.pop())?;
        self.unlease(1);
        Some((item?, Event::Victim))
    }

    /// An item, and some more of the same bin into the thread's own part.
    fn take_some(&self, set: &Set<T>, home: usize) -> Option<(T, Event)> {
        let section = self.section();
        if let Some(item) = section.as_ref().and_then(|section| section.with(Own::pop)) {
            return Some((item, Event::Private));
        }
        let mut cursor = section.as_ref().map_or(Cursor::default(), |section| section.with(|own| own.takes));
        let (item, stolen) = set.take(home, &mut cursor, |bin| {
            let item = bin.pop();
            if let Some(section) = &section {
                section.with(|own| own.refill(bin, BIN as u32 - 1, self.room.is_some()));
            }
            item
        })?;
        if let Some(section) = section {
            section.with(|own| own.takes = cursor);
        }
        self.unlease(1);
        Some((item?, if stolen { Event::Stolen } else { Event::Shared }))
    }

    /// Keeps an item, or gives it back where there is no room.
    pub(super) fn keep(&self, item: T) -> Result<(), T> {
        let home = self.home();
        match self.section() {
            Some(section) => section.with(|own| self.keep_own(own, home, item)),
            None => self.keep_shared(home, item),
        }
    }

    fn keep_own(&self, own: &mut Own<T>, home: usize, item: T) -> Result<(), T> {
        if own.held() == HOLDS {
            let limited = self.room.is_some();
            let mut cursor = own.gives;
            self.generations().0.give(home, &mut cursor, |bin| own.spill(bin, BIN as u32, limited));
            own.gives = cursor;
        }
        if own.held() == own.rights() && own.rights() < HOLDS {
            own.raise(self.lease((HOLDS - own.rights()).min(LEASE)));
        }
        own.push(item).map_or(Ok(()), Err)
    }

    fn keep_shared(&self, home: usize, item: T) -> Result<(), T> {
        if self.lease(1) == 0 {
            return Err(item);
        }
        let mut item = Some(item);
        self.generations().0.give(home, &mut Cursor::default(), |bin| item.take().map(|item| bin.push(item)));
        let Some(item) = item else { return Ok(()) };
        self.unlease(1);
        Err(item)
    }

    /// Takes rights to hold an item, at most so many.
    fn lease(&self, want: u32) -> u32 {
        let Some(room) = &self.room else { return want };
        let taken = |left: usize| (want as usize).min(left);
        let update = room
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| (left > 0).then(|| left - taken(left)));
        update.map_or(0, |left| u32::try_from(taken(left)).unwrap_or(want))
    }

    fn unlease(&self, rights: usize) {
        if let Some(room) = &self.room {
            room.fetch_add(rights, Ordering::AcqRel);
        }
    }

    /// Works on each slot in its owner's stead.
    fn visit(&self, _lock: &mut Locked<'_, State>, mut work: impl FnMut(usize, &mut Own<T>)) {
        self.slots.iter().for_each(|slot| slot.close(VISIT));
        if self.fences.heavy() {
            for (number, slot) in self.slots.iter().enumerate() {
                slot.visit(|own| work(number, own));
            }
        }
        self.slots.iter().for_each(|slot| slot.open(VISIT));
    }

    /// Moves what threads have of their own to shelves.
    pub(super) fn gather(&self) {
        let primary = self.generations().0;
        self.visit(&mut self.lock.lock(), |number, own| {
            self.clear_out(primary, number, own);
        });
    }

    /// Moves a slot's items to its shelf as far as there is room, and gives back rights that it does not use.
    fn clear_out(&self, set: &Set<T>, number: usize, own: &mut Own<T>) {
        let limited = self.room.is_some();
        let mut cursor = own.gives;
        while own.held() > 0
            && set.give(number, &mut cursor, |bin| own.spill(bin, BIN as u32, limited)).is_some()
        {}
        if limited {
            self.unlease(own.give_up() as usize);
        }
    }

    /// Turns the generations by one step: as long as the oldest has items and `may_drop`, one of them; then what is
    /// idle becomes the oldest, and what was kept of the oldest the youngest.
    pub(super) fn turn(&self, may_drop: impl Fn() -> bool) -> Turn<T> {
        let mut lock = self.lock.lock();
        if may_drop()
            && let Some(item) = self.take_oldest()
        {
            return Turn::Drop(item);
        }
        let aging = self.primary.fetch_xor(1, Ordering::AcqRel) & 1;
        let mut left = Vec::new();
        self.visit(&mut lock, |number, own| {
            self.clear_out(&self.sets[aging], number, own);
            self.clear_away(own, &mut left);
        });
        Turn::Turned(left)
    }

    /// What found no place on a shelf; where there is no memory to note it, it stays for a generation more.
    fn clear_away(&self, own: &mut Own<T>, left: &mut Vec<T>) {
        while own.held() > 0 && left.try_reserve(1).is_ok() {
            left.extend(own.pop());
        }
        if self.room.is_some() {
            self.unlease(own.give_up() as usize);
        }
    }

    fn take_oldest(&self) -> Option<T> {
        let item = self.generations().1.take_any(|bin| bin.pop())??;
        self.unlease(1);
        Some(item)
    }

    /// Any item that is on a shelf, the oldest first.
    pub(super) fn take_any(&self) -> Option<T> {
        let _lock = self.lock.lock();
        self.take_oldest().or_else(|| {
            let item = self.generations().0.take_any(|bin| bin.pop())??;
            self.unlease(1);
            Some(item)
        })
    }

    /// Closes or opens the gates for the sake of a limit.
    pub(super) fn limit(&self, lock: &mut Locked<'_, State>, limited: bool) {
        if std::mem::replace(&mut lock.limited, limited) == limited {
            return;
        }
        if limited {
            self.slots.iter().for_each(|slot| slot.close(LIMIT));
            // Where this fails, who waits finds out at the end of its time.
            let _ = self.fences.heavy();
        } else {
            self.slots.iter().for_each(|slot| slot.open(LIMIT));
        }
    }
}

impl<T: Send> Told for Store<T> {
    fn leave(&self, number: usize) {
        let Some(slot) = self.slots.get(number) else { return };
        let Some(section) = slot.enter_slowly() else { return };
        section.with(|own| self.clear_out(self.generations().0, number, own));
    }

    fn before_fork(&self) {
        self.lock.take();
    }

    fn after_fork(&self, child: bool) {
        // SAFETY: `before_fork` took the lock.
        unsafe {
            let state = &mut *self.lock.value();
            if child {
                self.slots.iter().for_each(Slot::after_fork);
                state.waiting.clear();
                state.limited = false;
                self.slots.iter().for_each(|slot| slot.open(LIMIT));
            }
            self.lock.release();
        }
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let own = slot.rest();
            own.into_iter().for_each(|own| while own.pop().is_some() {});
        }
        self.sets.iter_mut().for_each(Set::clear);
    }
}
