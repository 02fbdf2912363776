//! Items that threads share into bins that are tried, never waited for.
//!
//! A set has one shelf of bins per slot. Each bin is a small stack under a lock of one word: who finds it taken goes
//! on to the next, so that a thread that was stopped in the middle holds up nobody.

use crate::pool::sync::{self, AtomicU32, AtomicU64, Guarded, Ordering};
use std::mem::MaybeUninit;

/// Items in a bin; as many move at once. With its state they are two cache lines where an item is a pointer.
pub(super) const BIN: usize = if cfg!(loom) { 2 } else { 15 };

/// Bins of a shelf that are filled and emptied in turn. The others take what these have no room for, so that a wide
/// shelf with few items stays small.
pub(super) const IN_TURN: usize = 4;

const TAKEN: u32 = u32::MAX;

/// A small stack; its state is its length, or `TAKEN`.
#[repr(C, align(128))]
struct Bin<T> {
    state: AtomicU32,
    items: Guarded<[MaybeUninit<T>; BIN]>,
}

/// Shelves of one generation.
pub(super) struct Set<T> {
    /// Bit `n`: a shelf whose number is `n` modulo 64 may have items.
    marks: Marks,
    bins: Box<[Bin<T>]>,
    /// Bins of a shelf.
    width: usize,
}

#[repr(align(128))]
struct Marks(AtomicU64);

/// The bin of a shelf that a thread looks at first: the one after that of last time. So who gives knows it before it is
/// needed, and has it fetched ahead; and who gives and who takes do not meet at the same bin.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor(u8);

/// A bin that this thread has taken.
pub(super) struct Open<'b, T> {
    bin: &'b Bin<T>,
    len: usize,
}

// SAFETY: items pass between threads, which their being Send allows; a bin is touched by who took it.
unsafe impl<T: Send> Sync for Bin<T> {}

impl<T> Set<T> {
    pub(super) fn new(shelves: usize, width: usize) -> Self {
        let mut bins = Box::<[Bin<T>]>::new_uninit_slice(shelves * width);
        for bin in &mut bins {
            // SAFETY: memory for a bin is written, but for room for items, which needs no value.
            unsafe { Bin::init(bin.as_mut_ptr()) };
        }
        // SAFETY: each bin was written.
        let bins = unsafe { bins.assume_init() };
        Self { marks: Marks(AtomicU64::new(0)), bins, width }
    }

    /// Gives work a bin that has room, of the shelf `home` or the next that has one; `None` where all are full.
    pub(super) fn give<O>(
        &self,
        home: usize,
        cursor: &mut Cursor,
        work: impl FnOnce(&mut Open<'_, T>) -> O,
    ) -> Option<O> {
        let (shelf, mut bin) = self.around(home).find_map(|shelf| {
            let bin = self.bin_of(shelf, cursor, |len| len < BIN)?;
            Some((shelf, bin))
        })?;
        self.mark(shelf);
        let out = work(&mut bin);
        drop(bin);
        // The next one, which takers have left for the longest time. They do not fetch ahead: where there are few items, it
        // would be the bin that is filled just then.
        self.fetch(shelf, *cursor);
        Some(out)
    }

    /// Marks a shelf of which this thread has taken a bin to put items into. One that is marked stays as it is: the line
    /// it lies on is every taker's. The fence is for who takes the mark away at that moment, and looks after: it sees
    /// the bin taken. Before the items are written, so that it does not wait for their lines.
    fn mark(&self, shelf: usize) {
        sync::fence_after_swap();
        if self.marks.0.load(Ordering::Relaxed) & mark(shelf) == 0 {
            self.marks.0.fetch_or(mark(shelf), Ordering::SeqCst);
        }
    }

    /// Gives work a bin that has items, of the shelf `home` or the next that has some, with whether it was another's.
    pub(super) fn take<O>(
        &self,
        home: usize,
        cursor: &mut Cursor,
        work: impl FnOnce(&mut Open<'_, T>) -> O,
    ) -> Option<(O, bool)> {
        let mut marks = self.marks.0.load(Ordering::SeqCst).rotate_right(home as u32 % 64);
        while marks != 0 {
            let group = (marks.trailing_zeros() as usize + home) % 64;
            marks &= marks - 1;
            if let Some((shelf, mut bin)) = self.stocked(group, cursor) {
                let out = work(&mut bin);
                drop(bin);
                return Some((out, shelf != home));
            }
        }
        None
    }

    /// A bin with items, whatever the marks say.
    pub(super) fn take_any<O>(&self, work: impl FnOnce(&mut Open<'_, T>) -> O) -> Option<O> {
        let mut bin = self.bins.iter().find_map(|bin| bin.take(|len| len > 0))?;
        Some(work(&mut bin))
    }

    /// A bin with items of the shelves that share a mark, with its shelf. Takes the mark away where all bins are empty,
    /// and looks again: who puts an item marks its shelf after, so that either the mark stays or the second look finds
    /// the item.
    fn stocked(&self, group: usize, cursor: &mut Cursor) -> Option<(usize, Open<'_, T>)> {
        let found = self.shelves_of(group).find_map(|shelf| {
            self.fetch(shelf, *cursor);
            let bin = self.bin_of(shelf, cursor, |len| len > 0)?;
            Some((shelf, bin))
        });
        if found.is_none() && self.is_empty(group) {
            self.marks.0.fetch_and(!mark(group), Ordering::SeqCst);
            sync::fence(Ordering::SeqCst);
            if !self.is_empty(group) {
                self.marks.0.fetch_or(mark(group), Ordering::SeqCst);
            }
        }
        found
    }

    /// A bin of a shelf whose length is wanted, looked for from the cursor on.
    fn bin_of(
        &self,
        shelf: usize,
        cursor: &mut Cursor,
        wanted: impl Fn(usize) -> bool,
    ) -> Option<Open<'_, T>> {
        let bins = self.shelf(shelf);
        let in_turn = bins.len().min(IN_TURN);
        let first = usize::from(cursor.0).min(in_turn);
        for at in (first..in_turn).chain(0..first).chain(in_turn..bins.len()) {
            if let Some(bin) = bins[at].take(&wanted) {
                if at < in_turn {
                    cursor.0 = ((at + 1) % in_turn) as u8;
                }
                return Some(bin);
            }
        }
        None
    }

    /// Has the processor fetch the bin at the cursor, which is most likely the next one wanted.
    fn fetch(&self, shelf: usize, cursor: Cursor) {
        if let Some(bin) = self.shelf(shelf).get(usize::from(cursor.0)) {
            fetch(bin);
        }
    }

    /// Whether all bins of shelves that share a mark are empty; one that is taken is not.
    fn is_empty(&self, group: usize) -> bool {
        let mut bins = self.shelves_of(group).flat_map(|shelf| self.shelf(shelf));
        bins.all(|bin| bin.state.load(Ordering::Acquire) == 0)
    }

    fn shelf(&self, shelf: usize) -> &[Bin<T>] {
        &self.bins[shelf * self.width..][..self.width]
    }

    /// All shelves that share a mark.
    fn shelves_of(&self, group: usize) -> impl Iterator<Item = usize> + use<T> {
        (group..self.shelves()).step_by(64)
    }

    fn shelves(&self) -> usize {
        self.bins.len() / self.width
    }

    fn around(&self, home: usize) -> impl Iterator<Item = usize> + use<T> {
        let shelves = self.shelves();
        (home..shelves).chain(0..home)
    }

    /// Drops all items, once nobody else uses the set.
    pub(super) fn clear(&mut self) {
        for bin in &mut self.bins {
            // A bin that is taken now was in the middle of something when its process forked: it stays as it is.
            while let Some(item) = bin.take(|len| len > 0).and_then(|mut bin| bin.pop()) {
                drop(item);
            }
        }
    }
}

/// Has the processor fetch a bin's first two cache lines, both at once and to be written: who reads a line first must ask
/// for it again to write it. Processors without this instruction do nothing at it.
fn fetch<T>(bin: &Bin<T>) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads and writes nothing as far as the program goes; a bin is two lines at least.
    unsafe {
        std::arch::asm!(
            "prefetchw byte ptr [{bin}]",
            "prefetchw byte ptr [{bin} + 64]",
            bin = in(reg) bin,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bin;
}

fn mark(shelf: usize) -> u64 {
    1 << (shelf % 64)
}

impl<T> Bin<T> {
    unsafe fn init(at: *mut Self) {
        // SAFETY: the caller gives memory for a bin; room for items needs no value.
        unsafe {
            (&raw mut (*at).state).write(AtomicU32::new(0));
            #[cfg(loom)]
            (&raw mut (*at).items).write(Guarded::new([const { MaybeUninit::uninit() }; BIN]));
        }
    }

    /// Takes the bin where its length is wanted.
    fn take(&self, wanted: impl Fn(usize) -> bool) -> Option<Open<'_, T>> {
        let state = self.state.load(Ordering::Relaxed);
        if state == TAKEN || !wanted(state as usize) {
            return None;
        }
        self.state.compare_exchange(state, TAKEN, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Open { bin: self, len: state as usize })
    }
}

impl<T> Open<'_, T> {
    /// Items that there is room for.
    pub(super) fn room(&self) -> usize {
        BIN - self.len
    }

    /// Adds an item; there must be [room](Self::room).
    pub(super) fn push(&mut self, item: T) {
        let at = self.len;
        assert!(at < BIN, "a bin is not filled beyond its size");
        // SAFETY: this thread has taken the bin.
        self.bin.items.with_mut(|items| unsafe { (*items)[at] = MaybeUninit::new(item) });
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let at = self.len.checked_sub(1)?;
        self.len = at;
        // SAFETY: this thread has taken the bin; items below the old length are there.
        Some(self.bin.items.with_mut(|items| unsafe { (*items)[at].assume_init_read() }))
    }

    /// Moves items into the bin; there must be [room](Self::room).
    ///
    /// # Safety
    ///
    /// They are all there, and not used by the caller any more.
    pub(super) unsafe fn push_all(&mut self, from: &[MaybeUninit<T>]) {
        let at = self.len;
        self.bin.items.with_mut(|items| {
            // SAFETY: this thread has taken the bin.
            let items = unsafe { &mut *items };
            move_to(&mut items[at..][..from.len()], from);
        });
        self.len += from.len();
    }

    /// Moves items out of the bin, which must be there.
    pub(super) fn pop_all(&mut self, to: &mut [MaybeUninit<T>]) {
        let at = self.len - to.len();
        self.bin.items.with_mut(|items| {
            // SAFETY: this thread has taken the bin.
            let items = unsafe { &*items };
            move_to(to, &items[at..][..to.len()]);
        });
        self.len = at;
    }

    /// Items in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Moves what is there.
#[inline(always)]
fn move_to<T>(to: &mut [MaybeUninit<T>], from: &[MaybeUninit<T>]) {
    assert_eq!(to.len(), from.len());
    // SAFETY: both are valid for so many, and a slice that is borrowed for writing overlaps no other.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), from.len()) };
}

impl<T> Drop for Open<'_, T> {
    fn drop(&mut self) {
        self.bin.state.store(u32::try_from(self.len).unwrap_or(0), Ordering::Release);
    }
}
