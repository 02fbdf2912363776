//! One thread's items into items that it gets and puts with plain loads and stores.
//!
//! The owner stores `busy`, loads `gate` and works only where the gate is open; a visitor (who holds the pool's lock)
//! closes the gate, executes the heavy fence of [`super::fence`] and then works only where `busy` is clear. No user
//! code runs in between, so that a section is a few instructions long, but for a section that looks for a shelf.

use super::fence::{self, Fences};
use super::shelf::{BIN, Cursor, Open};
use super::tally;
use crate::pool::sync::{self, AtomicU32, Guarded, Ordering};
use std::mem::MaybeUninit;

/// Items that a slot can hold: two more than a bin, so that who gives one and takes one then does not move a bin each time.
const DEPTH: usize = BIN + 2;

/// The same.
pub(super) const HOLDS: u32 = DEPTH as u32;

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

/// What a slot holds: a stack of `len` items, of `cap` that it may hold.
#[repr(C)]
pub(super) struct Own<T> {
    len: u64,
    cap: u64,
    /// Where its owner gives next.
    pub(super) gives: Cursor,
    /// Where its owner takes next.
    pub(super) takes: Cursor,
    items: [MaybeUninit<T>; DEPTH],
}

// SAFETY: items pass between threads, which their being Send allows; all else is guarded as the module says.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// A slot with the right to hold all it can, or with none.
    pub(super) fn new(fences: Fences, may_hold: bool) -> Self {
        let cap = if may_hold { u64::from(HOLDS) } else { 0 };
        let items = [const { MaybeUninit::uninit() }; DEPTH];
        let own = Own { len: 0, cap, gives: Cursor::default(), takes: Cursor::default(), items };
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
        self.len as u32
    }

    /// The item that was put last.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: items below the old length are there, and this one is not below the new.
        Some(unsafe { self.items.get_unchecked(self.len as usize).assume_init_read() })
    }

    /// Keeps an item, or gives it back.
    #[inline(always)]
    pub(super) fn push(&mut self, item: T) -> Option<T> {
        if self.len == self.cap {
            return Some(item);
        }
        // SAFETY: it is below `cap`, which is at most the room there is.
        unsafe { *self.items.get_unchecked_mut(self.len as usize) = MaybeUninit::new(item) };
        self.len += 1;
        None
    }

    /// Items that it may hold.
    pub(super) fn rights(&self) -> u32 {
        self.cap as u32
    }

    /// It may hold so many more; no more than it can.
    pub(super) fn raise(&mut self, more: u32) {
        self.cap += u64::from(more);
        debug_assert!(self.cap <= u64::from(HOLDS), "no more than it can");
    }

    /// It may hold no more than it does; says by how much less.
    pub(super) fn give_up(&mut self) -> u32 {
        let less = self.cap - self.len;
        self.cap = self.len;
        less as u32
    }

    /// Moves items to a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn spill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        let count = self.len.min(u64::from(most)).min(bin.room() as u64);
        self.len -= count;
        self.cap -= if ledger { count } else { 0 };
        // SAFETY: items below the old length are there, and these are not below the new.
        unsafe { bin.push_all(&self.items[self.len as usize..][..count as usize]) };
    }

    /// Moves items from a bin, at most so many, and the right to hold them where `ledger`.
    pub(super) fn refill(&mut self, bin: &mut Open<'_, T>, most: u32, ledger: bool) {
        let room = if ledger { u64::from(HOLDS) - self.cap } else { self.cap - self.len };
        let count = u64::from(most).min(room).min(bin.len() as u64);
        self.cap += if ledger { count } else { 0 };
        bin.pop_all(&mut self.items[self.len as usize..][..count as usize]);
        self.len += count;
    }
}
