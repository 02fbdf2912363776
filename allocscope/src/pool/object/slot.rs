//! One thread's items into items that it gets and puts with plain loads and stores.
//!
//! The owner stores `busy`, loads `gate` and works only where the gate is open; a visitor (who holds the pool's lock)
//! closes the gate, executes the heavy fence of [`super::fence`] and then works only where `busy` is clear. No user
//! code runs in between, so that a section is a few instructions long, but for a section that looks for a shelf.

use super::fence::Fences;
use super::shelf::Open;
use super::tally;
use crate::pool::sync::{AtomicU32, Guarded, Ordering, yield_now};
use std::mem::MaybeUninit;

/// Items behind the first one.
pub(super) const DEPTH: usize = if cfg!(loom) { 2 } else { 16 };

/// Items that a slot can hold.
pub(super) const HOLDS: u32 = DEPTH as u32 + 1;

/// Why a gate is closed: a visitor is at work.
pub(super) const VISIT: u32 = 1;
/// Why a gate is closed: what is put must be seen by those who wait, or dropped.
pub(super) const LIMIT: u32 = 2;

/// How often a visitor looks whether the owner is gone, giving way in between.
const LOOKS: u32 = if cfg!(loom) { 2 } else { 2000 };

/// A thread's own part of a pool. Aligned to two cache lines, as processors fetch them in pairs.
#[repr(C, align(128))]
pub(super) struct Slot<T> {
    busy: AtomicU32,
    gate: AtomicU32,
    own: Guarded<Own<T>>,
    tally: tally::Own,
}

/// What a slot holds: `first`, where `full`, and the first `len` of `rest`.
#[repr(C)]
pub(super) struct Own<T> {
    full: bool,
    len: u32,
    /// Items that it may hold.
    cap: u32,
    first: MaybeUninit<T>,
    rest: [MaybeUninit<T>; DEPTH],
}

// SAFETY: items pass between threads, which their being Send allows; all else is guarded as the module says.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Makes a slot in place: items may be larger than a stack.
    ///
    /// # Safety
    ///
    /// `at` is memory for a slot, which holds none yet.
    pub(super) unsafe fn init(at: *mut Self) {
        // SAFETY: the caller gives memory for a slot; all is written but room for items, which needs no value.
        unsafe {
            (&raw mut (*at).busy).write(AtomicU32::new(0));
            (&raw mut (*at).gate).write(AtomicU32::new(0));
            (&raw mut (*at).tally).write(tally::Own::new());
            Self::init_own(&raw mut (*at).own);
        }
    }

    #[cfg(not(loom))]
    unsafe fn init_own(at: *mut Guarded<Own<T>>) {
        // SAFETY: a `Guarded` is laid out as what it guards; the caller gives memory for one.
        unsafe {
            let own = at.cast::<Own<T>>();
            (&raw mut (*own).full).write(false);
            (&raw mut (*own).len).write(0);
            (&raw mut (*own).cap).write(0);
        }
    }

    #[cfg(loom)]
    unsafe fn init_own(at: *mut Guarded<Own<T>>) {
        let rest = [const { MaybeUninit::uninit() }; DEPTH];
        let own = Own { full: false, len: 0, cap: 0, first: MaybeUninit::uninit(), rest };
        // SAFETY: the caller gives memory for one.
        unsafe { at.write(Guarded::new(own)) };
    }

    /// Begins the owner's section; `None` where a visitor is at work, or this very thread (a signal's handler).
    #[inline(always)]
    pub(super) fn enter(&self, fences: Fences) -> Option<Section<'_, T>> {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.busy.store(1, Ordering::Relaxed);
        fences.light();
        let section = Section(self);
        (self.gate.load(Ordering::Acquire) == 0).then_some(section)
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
        for _ in 0..LOOKS {
            if self.busy.load(Ordering::Acquire) == 0 {
                // SAFETY: the owner sees the gate closed before it touches what it holds.
                return Some(self.own.with_mut(|own| work(unsafe { &mut *own })));
            }
            yield_now();
        }
        None
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
    #[inline(always)]
    pub(super) fn held(&self) -> u32 {
        self.len + u32::from(self.full)
    }

    /// The item that was put last, but for the first.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.full {
            self.full = false;
            // SAFETY: it was full, and is not any more.
            return Some(unsafe { self.first.assume_init_read() });
        }
        self.pop_rest()
    }

    #[inline(always)]
    fn pop_rest(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: items below the old length are there, and this one is not below the new.
        Some(unsafe { self.rest.get_unchecked(self.len as usize).assume_init_read() })
    }

    /// Whether there is room for one more.
    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        self.held() < self.cap
    }

    /// Keeps an item; there must be [room](Self::has_room).
    #[inline(always)]
    pub(super) fn push(&mut self, item: T) {
        if !self.full {
            self.first = MaybeUninit::new(item);
            self.full = true;
            return;
        }
        debug_assert!((self.len as usize) < DEPTH, "there is room");
        // SAFETY: fewer than `cap` items are held, which is at most DEPTH + 1, and one of them is the first.
        *unsafe { self.rest.get_unchecked_mut(self.len as usize) } = MaybeUninit::new(item);
        self.len += 1;
    }

    /// Items that it may hold.
    pub(super) fn cap(&self) -> u32 {
        self.cap
    }

    /// It may hold so many more.
    pub(super) fn raise(&mut self, more: u32) {
        self.cap += more;
        debug_assert!(self.cap <= HOLDS, "no more than it can");
    }

    /// It may hold no more than it does; says by how much less.
    pub(super) fn give_up(&mut self) -> u32 {
        let less = self.cap - self.held();
        self.cap = self.held();
        less
    }

    /// Moves items to a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn spill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        for _ in 0..most {
            if !bin.has_room() {
                return;
            }
            let Some(item) = self.pop_rest().or_else(|| self.pop()) else { return };
            bin.push(item);
            self.cap -= u32::from(ledger);
        }
    }

    /// Moves items from a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn refill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        for _ in 0..most {
            let room = if ledger { self.cap < HOLDS } else { self.has_room() };
            if !room {
                return;
            }
            let Some(item) = bin.pop() else { return };
            self.cap += u32::from(ledger);
            self.push(item);
        }
    }
}
