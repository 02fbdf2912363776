//! Items that are expensive to make into items that are used again: an object pool.
//!
//! ```text
//!  get ->  own slot  ->  own shelf  ->  other shelves  ->  victims  ->  factory
//!            |  ^  spill    ^ steal          ^                 ^ tick (and the victims of before are dropped)
//!  put ------+  +-----------+---- shelves: the youngest generation
//! ```
//!
//! Each thread has a slot of its own in each pool, which it uses with plain loads and stores (`slot`); what does not
//! fit goes to shelves in fifteens, from which others take fifteens (`shelf`). [`Pool::tick`] makes what is idle the
//! victims, and drops the victims of before: what nobody wants for two ticks is gone, also that of a thread that
//! sleeps.
//!
//! After a fork the child has a copy of each idle item and may use it. An item that another thread of the parent was
//! just putting or getting is leaked in the child; the part of that thread is used by nobody there.

mod builder;
mod fence;
mod generation;
mod guard;
mod limit;
mod lock;
mod recipe;
mod roster;
mod shelf;
mod slot;
mod store;
mod tally;
mod thread;

#[cfg(all(test, loom))]
#[path = "loom.rs"]
mod explored;
#[cfg(all(test, not(loom)))]
mod tests;

pub use builder::{Limits, PoolBuilder};
pub use guard::{Guard, OwnedPooled, Pooled};
pub use recipe::{Hooks, PoolError, Recipe};

use super::counters::PoolCounters;
use super::probe;
use limit::Total;
use slot::Slot;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use store::Store;
use tally::Event;

/// A pool of items that any number of threads share.
pub struct Pool<T, R: Recipe<T> = Hooks<T>> {
    /// Those of the store, a step nearer.
    slots: NonNull<[Slot<T>]>,
    store: Arc<Store<T>>,
    recipe: R,
    limits: Limits,
    tally: tally::Common,
    total: Total,
    /// Bytes that may be held more, where that is limited and items differ in size.
    byte_room: Option<limit::Bytes>,
    /// When the last tick for the sake of age was, in nanoseconds of the clock.
    ticked: AtomicU64,
}

impl<T: Send> Pool<T> {
    /// A builder of a pool whose items `make` makes when one is wanted and none is idle.
    pub fn builder(make: impl Fn() -> T + Send + Sync + 'static) -> PoolBuilder<T> {
        PoolBuilder::new(make)
    }
}

impl<T: Send, R: Recipe<T>> Pool<T, R> {
    /// A pool of a recipe of its own type: no indirect call on its way.
    pub fn with_recipe(recipe: R, limits: Limits) -> Self {
        let byte_room = limits.max_idle_bytes.filter(|_| recipe.weighs()).map(limit::Bytes::new);
        let max_idle = limit::max_idle(&limits, &recipe);
        let store = Arc::new(Store::new(limits.threads.max(1), max_idle, limits.min_idle));
        // SAFETY: the store stays where it is in its Arc, until this pool, which strikes it, is dropped.
        unsafe { roster::enter(&*store) };
        let (tally, total) = (tally::Common::new(), Total::new(limits.max_total));
        let ticked = AtomicU64::new(generation::nanoseconds((limits.clock)()));
        let slots = NonNull::from(store.slots());
        Self { slots, store, recipe, limits, tally, total, byte_room, ticked }
    }
}

// SAFETY: a pool is its store and its recipe, and the pointer is into the store.
unsafe impl<T: Send, R: Recipe<T>> Send for Pool<T, R> {}
// SAFETY: as above.
unsafe impl<T: Send, R: Recipe<T>> Sync for Pool<T, R> {}

impl<T, R: Recipe<T>> Pool<T, R> {
    /// An item. Beyond `max_total`, after `max_wait`, one that is dropped when it comes back.
    ///
    /// # Panics
    ///
    /// Where the factory does.
    #[inline(always)]
    pub fn get(&self) -> Pooled<'_, T, R> {
        Pooled::new(self, self.get_bare(0))
    }

    /// An item without its guard, to be [given back](Self::give_back); counts bytes that were asked for.
    #[inline(always)]
    pub(super) fn get_bare(&self, asked: usize) -> T {
        match self.own_item(asked) {
            Some(item) => item,
            None => self.fetch(asked),
        }
    }

    /// The same, or why there is none.
    #[inline(always)]
    pub(super) fn try_get_bare(&self, asked: usize) -> Result<T, PoolError> {
        match self.own_item(asked) {
            Some(item) => Ok(item),
            None => self.try_fetch(asked),
        }
    }

    /// An item, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] at `max_total` after `max_wait`; what the factory says.
    #[inline(always)]
    pub fn try_get(&self) -> Result<Pooled<'_, T, R>, PoolError> {
        Ok(Pooled::new(self, self.try_get_bare(0)?))
    }

    /// An item that goes where it likes: its guard shares the pool instead of borrowing it. Else as [`get`](Self::get).
    ///
    /// Each costs two locked instructions on the pool's count of references (1.1 ns more than the 2.78 of
    /// [`get`](Self::get), by `xtask bench pool`), which processors that do so at once take from each other. A get that
    /// waits (`max_wait`) blocks its thread; asynchronous code leaves `max_wait` at zero and uses
    /// [`try_get_owned`](Self::try_get_owned).
    ///
    /// ```
    /// use allocscope::pool::{OwnedPooled, Pool};
    /// use std::sync::{Arc, mpsc};
    /// use std::thread;
    ///
    /// struct Frame {
    ///     number: u32,
    ///     pixels: OwnedPooled<Vec<u8>>,
    /// }
    ///
    /// let pool = Arc::new(Pool::builder(|| vec![0_u8; 1 << 20]).build());
    /// let (sender, receiver) = mpsc::channel::<Frame>();
    /// let shows = thread::spawn(move || receiver.iter().map(|frame| frame.pixels[0]).collect::<Vec<_>>());
    /// for number in 0..3_u32 {
    ///     let mut frame = Frame { number, pixels: pool.get_owned() };
    ///     frame.pixels[0] = frame.number as u8;
    ///     sender.send(frame)?;
    /// }
    /// drop(sender);
    /// assert_eq!(shows.join().unwrap(), [0, 1, 2]);
    ///
    /// // Each frame came back where it was dropped: in the other thread.
    /// let counters = pool.counters();
    /// assert_eq!((counters.returns, counters.in_use), (3, 0));
    /// # Ok::<(), mpsc::SendError<Frame>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Where the factory does.
    #[inline]
    pub fn get_owned(self: &Arc<Self>) -> OwnedPooled<T, R> {
        let item = self.get_bare(0);
        Guard::new(Arc::clone(self), item)
    }

    /// The same, or why there is none.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`] at `max_total` after `max_wait`; what the factory says.
    #[inline]
    pub fn try_get_owned(self: &Arc<Self>) -> Result<OwnedPooled<T, R>, PoolError> {
        let item = self.try_get_bare(0)?;
        Ok(Guard::new(Arc::clone(self), item))
    }

    /// Gives the pool an item, made by anybody. It is not reset.
    pub fn put(&self, item: T) {
        if !self.joins() {
            self.tally.add(Event::Put, 1);
            return self.let_go(item, Event::DroppedBeyondLimit);
        }
        self.keep(item, Event::Put);
    }

    /// What it did and holds.
    pub fn counters(&self) -> PoolCounters {
        let mut counters = tally::sum(&self.tally, self.store.slots().iter().map(Slot::tally));
        if !self.recipe.weighs() {
            counters.idle_bytes = counters.idle.saturating_mul(self.recipe.usual_bytes() as u64);
        }
        counters
    }

    /// Bytes asked for in all gets.
    pub(super) fn asked(&self) -> u64 {
        let own = self.store.slots().iter().map(|slot| slot.tally().read(Event::Asked));
        own.fold(self.tally.read(Event::Asked), u64::wrapping_add)
    }

    /// Its recipe.
    pub fn recipe(&self) -> &R {
        &self.recipe
    }

    /// This thread's own part.
    #[inline(always)]
    fn slot(&self) -> Option<&Slot<T>> {
        // SAFETY: the slots are those of the store, which this pool holds.
        unsafe { self.slots.as_ref() }.get(thread::number())
    }

    /// An item of this thread's own part.
    #[inline(always)]
    fn own_item(&self, asked: usize) -> Option<T> {
        let slot = self.slot()?;
        self.pop_own(slot, slot.enter()?, asked)
    }

    /// The same where its owner must execute a fence.
    #[inline(always)]
    fn own_item_fenced(&self, asked: usize) -> Option<T> {
        let slot = if self.store.is_fenced() { self.slot()? } else { return None };
        self.pop_own(slot, slot.enter_fenced()?, asked)
    }

    #[inline(always)]
    fn pop_own(&self, slot: &Slot<T>, section: slot::Section<'_, T>, asked: usize) -> Option<T> {
        let item = section.with(slot::Own::pop)?;
        slot.tally().add(Event::Private, 1);
        if asked > 0 {
            slot.tally().add(Event::Asked, asked as u64);
        }
        drop(section);
        self.weigh_out(&item);
        Some(item)
    }

    #[cold]
    #[inline(never)]
    fn fetch(&self, asked: usize) -> T {
        if let Some(item) = self.own_item_fenced(asked) {
            return item;
        }
        self.count(Event::Asked, asked as u64);
        self.find().unwrap_or_else(|| match self.admit() {
            Ok(Some(item)) => item,
            Ok(None) => self.make(),
            Err(_) => {
                self.go_beyond();
                self.make()
            }
        })
    }

    #[cold]
    #[inline(never)]
    fn try_fetch(&self, asked: usize) -> Result<T, PoolError> {
        if let Some(item) = self.own_item_fenced(asked) {
            return Ok(item);
        }
        let item = self.try_find_or_make()?;
        self.count(Event::Asked, asked as u64);
        Ok(item)
    }

    fn try_find_or_make(&self) -> Result<T, PoolError> {
        if let Some(item) = self.find() {
            return Ok(item);
        }
        if let Some(item) = self.admit()? {
            return Ok(item);
        }
        let unmade = Unmade(self);
        let began = probe::pool_miss::begin();
        let item = self.recipe.try_make()?;
        self.made(unmade, began);
        Ok(item)
    }

    fn make(&self) -> T {
        let unmade = Unmade(self);
        let began = probe::pool_miss::begin();
        let item = self.recipe.make();
        self.made(unmade, began);
        item
    }

    fn made(&self, unmade: Unmade<'_, T, R>, began: u64) {
        std::mem::forget(unmade);
        self.tally.add(Event::Missed, 1);
        probe::pool_miss::end(began, self.recipe.usual_bytes(), std::ptr::from_ref(self).addr());
    }

    /// An item of the shared part.
    fn find(&self) -> Option<T> {
        self.age();
        let began = probe::pool_steal::begin();
        let (item, event) = self.store.take()?;
        self.count(event, 1);
        self.weigh_out(&item);
        if matches!(event, Event::Stolen) {
            probe::pool_steal::end(began, self.recipe.usual_bytes(), std::ptr::from_ref(self).addr());
        }
        Some(item)
    }

    /// So many more of what a thread counts by itself where it can: what all count takes a cache line from the others.
    fn count(&self, event: Event, count: u64) {
        let own = self.slot().and_then(|slot| Some((slot, slot.enter().or_else(|| slot.enter_fenced())?)));
        match own {
            _ if count == 0 => {}
            Some((slot, _section)) => slot.tally().add(event, count),
            None => self.tally.add(event, count),
        }
    }

    /// An item comes back from its guard. All that is not usual is one call in one place, so that the rest is short enough
    /// to be inlined where guards are dropped.
    ///
    /// # Safety
    ///
    /// The item is not used any more, nor dropped.
    #[inline(always)]
    pub(super) unsafe fn give_back(&self, item: &mut ManuallyDrop<T>) {
        let back = match (R::CALLED, self.recipe.is_plain()) {
            (true, true) if std::thread::panicking() => Back::Poisoned,
            (true, true) => Back::Clean,
            (true, false) => Back::Unseen,
            (false, _) => self.look_at(item),
        };
        // SAFETY: the caller gives the item away.
        let item = unsafe { ManuallyDrop::take(item) };
        let is_usual = matches!(back, Back::Clean) && (R::CALLED || !self.recipe.weighs());
        let item = if is_usual { self.keep_own(item, Event::Returned) } else { Some(item) };
        if let Some(item) = item {
            self.take_back(item, back);
        }
    }

    /// Resets an item that comes back.
    #[inline(always)]
    fn look_at(&self, item: &mut T) -> Back {
        if std::thread::panicking() {
            return Back::Poisoned;
        }
        let resetting = Resetting { pool: self, item };
        let clean = self.recipe.reset(resetting.item);
        std::mem::forget(resetting);
        if clean { Back::Clean } else { Back::Rejected }
    }

    #[inline(never)]
    pub(super) fn take_back(&self, item: T, back: Back) {
        let mut item = ManuallyDrop::new(item);
        let back = if matches!(back, Back::Unseen) { self.look_at(&mut item) } else { back };
        let item = ManuallyDrop::into_inner(item);
        match back {
            Back::Unseen => unreachable!("it was looked at"),
            Back::Clean => self.keep(item, Event::Returned),
            Back::Rejected => self.refuse(item, Event::Rejected),
            Back::Poisoned => self.refuse(item, Event::Poisoned),
        }
    }

    /// Keeps an item in this thread's own part, or gives it back.
    #[inline(always)]
    fn keep_own(&self, item: T, event: Event) -> Option<T> {
        let Some(slot) = self.slot() else { return Some(item) };
        let Some(section) = slot.enter() else { return Some(item) };
        self.push_own(slot, section, item, event)
    }

    /// The same, also where its owner must execute a fence.
    fn keep_own_fenced(&self, item: T, event: Event) -> Option<T> {
        let Some(slot) = self.slot() else { return Some(item) };
        let Some(section) = slot.enter().or_else(|| slot.enter_fenced()) else { return Some(item) };
        self.push_own(slot, section, item, event)
    }

    #[inline(always)]
    fn push_own(&self, slot: &Slot<T>, section: slot::Section<'_, T>, item: T, event: Event) -> Option<T> {
        let back = section.with(|own| own.push(item));
        if back.is_none() {
            slot.tally().add(event, 1);
        }
        back
    }

    /// Keeps an item.
    fn keep(&self, item: T, event: Event) {
        if self.recipe.weighs() {
            self.keep_weighed(item, event);
        } else if let Some(item) = self.keep_own_fenced(item, event) {
            self.keep_shared(item, event);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep_shared(&self, item: T, event: Event) {
        self.count(event, 1);
        if self.leaves_beyond() {
            self.weigh_out(&item);
            return self.let_go(item, Event::DroppedBeyondLimit);
        }
        if let Err(item) = self.store.keep(item) {
            self.weigh_out(&item);
            return self.discard(item, Event::Full);
        }
        self.notify();
        self.age();
    }

    /// Keeps an item of a pool whose items differ in size.
    fn keep_weighed(&self, item: T, event: Event) {
        if let Err(reason) = self.weigh_in(&item) {
            self.tally.add(event, 1);
            return self.discard(item, reason);
        }
        if let Some(item) = self.keep_own_fenced(item, event) {
            self.keep_shared(item, event);
        }
    }

    /// Counts an item's bytes as idle, or says why it cannot be.
    fn weigh_in(&self, item: &T) -> Result<(), Event> {
        let bytes = self.recipe.bytes(item);
        if self.limits.max_item_bytes.is_some_and(|most| bytes > most) {
            return Err(Event::Oversized);
        }
        if !self.byte_room.as_ref().is_none_or(|room| room.take(bytes)) {
            return Err(Event::Full);
        }
        self.count_bytes(Event::BytesIn, bytes);
        Ok(())
    }

    /// Counts an item's bytes as not idle any more.
    #[inline(always)]
    fn weigh_out(&self, item: &T) {
        if self.recipe.weighs() {
            let bytes = self.recipe.bytes(item);
            self.byte_room.iter().for_each(|room| room.give(bytes));
            self.count_bytes(Event::BytesOut, bytes);
        }
    }

    #[inline(always)]
    fn count_bytes(&self, event: Event, bytes: usize) {
        match self.slot() {
            Some(slot) => slot.tally().add(event, bytes as u64),
            None => self.tally.add(event, bytes as u64),
        }
    }

    /// An item comes back and is not kept.
    #[cold]
    #[inline(never)]
    fn refuse(&self, item: T, reason: Event) {
        self.tally.add(Event::Returned, 1);
        self.discard(item, reason);
    }

    /// Drops an item of those that `max_total` counts.
    fn discard(&self, item: T, reason: Event) {
        self.leaves();
        self.let_go(item, reason);
    }

    fn let_go(&self, item: T, reason: Event) {
        self.tally.add(reason, 1);
        drop(item);
    }

    /// An item was taken out for good.
    pub(super) fn took(&self) {
        match self.slot() {
            Some(slot) => slot.tally().add(Event::Taken, 1),
            None => self.tally.add(Event::Taken, 1),
        }
        self.leaves();
    }
}

impl<T, R: Recipe<T>> fmt::Debug for Pool<T, R> {
    /// Limits and counters; no item.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Pool");
        out.field("limits", &self.limits).field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl<T, R: Recipe<T>> Drop for Pool<T, R> {
    fn drop(&mut self) {
        roster::strike(&*self.store);
    }
}

/// How an item comes back.
pub(super) enum Back {
    /// Nobody looked yet.
    Unseen,
    Clean,
    Rejected,
    Poisoned,
}

/// An item that is being made: where that fails, nothing has come of it.
struct Unmade<'p, T, R: Recipe<T>>(&'p Pool<T, R>);

impl<T, R: Recipe<T>> Drop for Unmade<'_, T, R> {
    fn drop(&mut self) {
        self.0.tally.add(Event::Failed, 1);
        self.0.leaves();
    }
}

/// An item that is being reset: where that panics, it is dropped as poisoned.
struct Resetting<'p, T, R: Recipe<T>> {
    pool: &'p Pool<T, R>,
    item: &'p mut T,
}

impl<T, R: Recipe<T>> Drop for Resetting<'_, T, R> {
    fn drop(&mut self) {
        // SAFETY: its owner, who was to take it, unwinds and does not use it again.
        let item = unsafe { std::ptr::from_mut(self.item).read() };
        self.pool.refuse(item, Event::Poisoned);
    }
}
