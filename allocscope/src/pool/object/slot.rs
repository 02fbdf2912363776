//! One thread's items into items that it gets and puts with plain loads and stores.
//!
//! The owner stores `busy`, loads `gate` and works only where the gate is open; a visitor (who holds the pool's lock)
//! closes the gate, executes the heavy fence of [`super::fence`] and then works only where `busy` is clear. No user
//! code runs in between, so that a section is a few instructions long, but for a section that looks for a shelf.

use super::fence::{self, Fences};
use super::shelf::{Cursor, Open};
use super::tally;
use crate::pool::sync::{self, AtomicU32, Guarded, Ordering};
use std::mem::MaybeUninit;

/// Items behind the first one.
pub(super) const DEPTH: usize = if cfg!(loom) { 2 } else { 16 };

/// Items that a slot can hold.
pub(super) const HOLDS: u32 = DEPTH as u32 + 1;

/// Why a gate is closed: a visitor is at work.
pub(super) const VISIT: u32 = 1;
/// Why a gate is closed: what is put must be seen by those who wait, or dropped.
pub(super) const LIMIT: u32 = 2;
/// Why a gate is closed, for good: the owner must execute a full fence, which only its slow path does.
const FULL_FENCE: u32 = 4;

/// How often a visitor looks whether the owner is gone: 50 times at once, 50 giving way, 50 every 100 us.
const LOOKS: u32 = if cfg!(loom) { 2 } else { 150 };

/// The owner was at work when its process forked, and is not of this process: nobody touches the slot any more.
const LOST: u32 = 2;

/// A thread's own part of a pool. Aligned to two cache lines, as processors fetch them in pairs.
#[repr(C, align(128))]
pub(super) struct Slot<T> {
    busy: AtomicU32,
    gate: AtomicU32,
    own: Guarded<Own<T>>,
    tally: tally::Own,
}

/// What a slot holds: the first item, and `len` more of `rest`.
///
/// The right to hold an item may be limited: `place` knows that for the first, `cap` is the number of those for more.
#[repr(C)]
pub(super) struct Own<T> {
    place: Place,
    /// Where its owner gives next.
    pub(super) gives: Cursor,
    /// Where its owner takes next.
    pub(super) takes: Cursor,
    len: u32,
    cap: u32,
    first: MaybeUninit<T>,
    rest: [MaybeUninit<T>; DEPTH],
}

/// The place of the first item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Full,
    /// Free, and without the right to hold an item.
    Denied,
}

// SAFETY: items pass between threads, which their being Send allows; all else is guarded as the module says.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// A slot with the right to hold all it can, or with none.
    pub(super) fn new(fences: Fences, may_hold: bool) -> Self {
        let (place, cap) = if may_hold { (Place::Free, DEPTH as u32) } else { (Place::Denied, 0) };
        let rest = [const { MaybeUninit::uninit() }; DEPTH];
        let (gives, takes) = (Cursor::default(), Cursor::default());
        let own = Own { place, gives, takes, len: 0, cap, first: MaybeUninit::uninit(), rest };
        Self {
            busy: AtomicU32::new(0),
            gate: AtomicU32::new(if fences == Fences::Full { FULL_FENCE } else { 0 }),
            own: Guarded::new(own),
            tally: tally::Own::new(),
        }
    }

    /// Begins the owner's section; `None` where the gate is closed for any reason, or where this very thread is at
    /// work already (in what a signal's handler has interrupted).
    #[inline(always)]
    pub(super) fn enter(&self) -> Option<Section<'_, T>> {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        fence::light();
        let section = Section(self);
        (self.gate.load(Ordering::Acquire) == 0).then_some(section)
    }

    /// Begins the owner's section, with a full fence where that is wanted.
    pub(super) fn enter_slowly(&self) -> Option<Section<'_, T>> {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        sync::fence(Ordering::SeqCst);
        let section = Section(self);
        (self.gate.load(Ordering::Acquire) & !FULL_FENCE == 0).then_some(section)
    }

    /// Begins the owner's section where a full fence is all that [`enter`](Self::enter) lacks.
    pub(super) fn enter_fenced(&self) -> Option<Section<'_, T>> {
        if self.gate.load(Ordering::Relaxed) == FULL_FENCE { self.enter_slowly() } else { None }
    }

    /// Counts of its owner.
    #[inline(always)]
    pub(super) fn tally(&self) -> &tally::Own {
        &self.tally
    }

    /// Closes the gate for a reason. Under the pool's lock; a heavy fence must follow.
    pub(super) fn close(&self, reason: u32) {
        self.gate.store(self.gate.load(Ordering::Relaxed) | reason, Ordering::Relaxed);
    }

    /// Opens the gate as far as this reason goes. Under the pool's lock.
    pub(super) fn open(&self, reason: u32) {
        self.gate.store(self.gate.load(Ordering::Relaxed) & !reason, Ordering::Release);
    }

    /// Works on what it holds, in its owner's stead; `None` where the owner does not leave its section (it was
    /// stopped there, or did not survive a fork). Under the pool's lock, with the gate closed and the fence behind.
    pub(super) fn visit<O>(&self, work: impl FnOnce(&mut Own<T>) -> O) -> Option<O> {
        for look in 0..LOOKS {
            match self.busy.load(Ordering::Acquire) {
                // SAFETY: the owner sees the gate closed before it touches what it holds.
                0 => return Some(self.own.with_mut(|own| work(unsafe { &mut *own }))),
                LOST => return None,
                _ => sync::give_way(look / 50),
            }
        }
        None
    }

    /// In a child, which has only the thread that forked, and that is not at work here.
    pub(super) fn after_fork(&self) {
        if self.busy.load(Ordering::Relaxed) != 0 {
            self.busy.store(LOST, Ordering::Relaxed);
        }
    }

    /// What it holds, once nobody else uses the pool; `None` where a section never ended.
    pub(super) fn rest(&mut self) -> Option<&mut Own<T>> {
        let idle = self.busy.load(Ordering::Relaxed) == 0;
        // SAFETY: the slot is borrowed for writing.
        idle.then(|| self.own.with_mut(|own| unsafe { &mut *own }))
    }
}

/// The owner at work.
pub(super) struct Section<'s, T>(&'s Slot<T>);

impl<T> Section<'_, T> {
    /// Works on what the slot holds. `work` must not call user code.
    #[inline(always)]
    pub(super) fn with<O>(&self, work: impl FnOnce(&mut Own<T>) -> O) -> O {
        // SAFETY: `busy` is set and the gate was open: no visitor is at work, and none begins before this ends.
        self.0.own.with_mut(|own| work(unsafe { &mut *own }))
    }
}

impl<T> Drop for Section<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.busy.store(0, Ordering::Release);
    }
}

impl<T> Own<T> {
    /// Items in it.
    pub(super) fn held(&self) -> u32 {
        self.len + u32::from(self.place == Place::Full)
    }

    /// An item, one put of late.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.place == Place::Full { Some(self.take_first(Place::Free)) } else { self.pop_rest() }
    }

    /// The first item; it must be there.
    #[inline(always)]
    fn take_first(&mut self, then: Place) -> T {
        debug_assert!(self.place == Place::Full, "there is a first item");
        self.place = then;
        // SAFETY: the place was full, and is not any more.
        unsafe { self.first.assume_init_read() }
    }

    #[inline(always)]
    fn pop_rest(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: items below the old length are there, and this one is not below the new.
        Some(unsafe { self.rest.get_unchecked(self.len as usize).assume_init_read() })
    }

    /// Keeps an item, or gives it back.
    #[inline(always)]
    pub(super) fn push(&mut self, item: T) -> Option<T> {
        if self.place != Place::Free {
            return self.push_rest(item);
        }
        self.first = MaybeUninit::new(item);
        self.place = Place::Full;
        None
    }

    #[inline(always)]
    fn push_rest(&mut self, item: T) -> Option<T> {
        if self.len == self.cap {
            return Some(item);
        }
        // SAFETY: it is below `cap`, which is at most the room there is.
        unsafe { *self.rest.get_unchecked_mut(self.len as usize) = MaybeUninit::new(item) };
        self.len += 1;
        None
    }

    /// Items that it may hold.
    pub(super) fn rights(&self) -> u32 {
        self.cap + u32::from(self.place != Place::Denied)
    }

    /// It may hold so many more; no more than it can.
    pub(super) fn raise(&mut self, more: u32) {
        let first = more > 0 && self.place == Place::Denied;
        if first {
            self.place = Place::Free;
        }
        self.cap += more - u32::from(first);
        debug_assert!(self.cap as usize <= DEPTH, "no more than it can");
    }

    /// It may hold no more than it does; says by how much less.
    pub(super) fn give_up(&mut self) -> u32 {
        let less = self.rights() - self.held();
        if self.place == Place::Free {
            self.place = Place::Denied;
        }
        self.cap = self.len;
        less
    }

    /// Moves items to a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn spill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        let count = self.len.min(most).min(bin.room() as u32);
        self.len -= count;
        self.cap -= if ledger { count } else { 0 };
        // SAFETY: items below the old length are there, and these are not below the new.
        unsafe { bin.push_all(&self.rest[self.len as usize..][..count as usize]) };
        if self.place == Place::Full && count < most && bin.room() > 0 {
            bin.push(self.take_first(if ledger { Place::Denied } else { Place::Free }));
        }
    }

    /// Moves items from a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn refill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        let room = if ledger { DEPTH as u32 - self.cap } else { self.cap - self.len };
        let count = most.min(room).min(bin.len() as u32);
        self.cap += if ledger { count } else { 0 };
        bin.pop_all(&mut self.rest[self.len as usize..][..count as usize]);
        self.len += count;
    }
}
