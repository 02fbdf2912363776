//! Many objects of one lifetime into few pieces of memory: each takes what comes next, all are freed at once.
//!
//! An [`Arena`] bumps a pointer upwards through its current range: on the hot path one comparison. Where the range
//! ends, a cold function finds the next one: in chunks of the global allocator that double in size up to a bound,
//! or by committing more of one [`Region`]. Nothing that it hands out can outlive it or the next [`Arena::reset`],
//! which takes `&mut self`:
//!
//! ```
//! use allocscope::pool::arena::Arena;
//!
//! let mut arena = Arena::new();
//! let number = arena.alloc(1_u64);
//! *number += 1;
//! assert_eq!(*number, 2);
//! arena.reset();
//! assert_eq!(arena.counters().used, 0);
//! ```
//!
//! ```compile_fail,E0502
//! use allocscope::pool::arena::Arena;
//!
//! let mut arena = Arena::new();
//! let number = arena.alloc(1_u64);
//! arena.reset();
//! *number += 1; // freed by the reset
//! ```
//!
//! ```compile_fail,E0505
//! use allocscope::pool::arena::Arena;
//!
//! let arena = Arena::new();
//! let number = arena.alloc(1_u64);
//! drop(arena);
//! *number += 1; // freed with the arena
//! ```
//!
//! No destructor is ever run, and so a type that has one is refused at compile time; [`DropArena`] takes those.
//!
//! ```compile_fail,E0080
//! let arena = allocscope::pool::arena::Arena::new();
//! arena.alloc(String::from("a destructor that would not run"));
//! ```
//!
//! An arena can be sent to another thread, but not shared:
//!
//! ```compile_fail,E0277
//! let arena = allocscope::pool::arena::Arena::new();
//! std::thread::scope(|scope| {
//!     scope.spawn(|| arena.alloc(1));
//! });
//! ```

mod chunks;
mod counters;
mod dropping;
mod error;
mod slices;
#[cfg(test)]
mod tests;
mod within;

pub use chunks::{ChunkSource, Heap};
pub use counters::ArenaCounters;
pub use dropping::DropArena;
pub use error::AllocError;

use super::pressure::{Advice, Release};
use super::probe;
use super::region::Region;
use chunks::{Chunks, Grown};
use error::fail;
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::ptr::NonNull;
use std::sync::Mutex;
use within::Within;

/// How an arena grows and what it keeps. All sizes are in bytes.
#[derive(Clone, Copy)]
pub struct ArenaOptions {
    /// The first chunk, or the least that is committed at once; each next one is twice as large.
    pub first_chunk: usize,
    /// The largest chunk, or the most that is committed at once beyond what is needed. An object that is too large
    /// for the next chunk gets one of its own, and the current one goes on.
    pub max_chunk: usize,
    /// How much a reset keeps at most, the largest chunks first; the rest is given back.
    pub keep_bytes: usize,
    /// How much the arena may hold, in use or not.
    pub limit: usize,
    /// How a region's memory is given back.
    pub advice: Advice,
    /// Who is asked for chunks; the global allocator, but for tests.
    pub source: &'static dyn ChunkSource,
}

impl Default for ArenaOptions {
    fn default() -> ArenaOptions {
        ArenaOptions {
            first_chunk: 4 << 10,
            max_chunk: 4 << 20,
            keep_bytes: 64 << 20,
            limit: usize::MAX,
            advice: Advice::DontNeed,
            source: &Heap,
        }
    }
}

impl fmt::Debug for ArenaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ArenaOptions");
        out.field("first_chunk", &self.first_chunk).field("max_chunk", &self.max_chunk);
        out.field("keep_bytes", &self.keep_bytes).field("limit", &self.limit);
        out.field("advice", &self.advice).finish_non_exhaustive()
    }
}

/// Where an arena's memory comes from.
enum Store {
    Heap(Chunks),
    Within(Within),
}

/// What only the slow path sees.
struct Slow {
    store: Store,
    advice: Advice,
    grows: u64,
    resets: u64,
    peak_used: usize,
}

/// What the cursor is always a multiple of, so that most types need no alignment: one instruction on the hot path
/// instead of four in a row. A type smaller than this takes as much.
const QUANTUM: usize = align_of::<u64>();

/// A bump allocator for objects that are all freed at once. See the module's page.
#[repr(C)]
pub struct Arena {
    /// Where the next object goes, a multiple of `QUANTUM`. `cursor..end` is writable and nobody's.
    cursor: Cell<NonNull<u8>>,
    /// Where the current range ends; not below `cursor`.
    end: Cell<NonNull<u8>>,
    slow: RefCell<Slow>,
}

// SAFETY: the arena owns its memory. What it handed out borrows it, so that nothing is borrowed when it is sent;
// and as nothing is dropped with it, no value of another thread is ever touched.
unsafe impl Send for Arena {}

#[allow(clippy::mut_from_ref, reason = "each call returns memory that no other call has returned")]
impl Arena {
    /// An arena of the global allocator, which holds nothing yet.
    pub fn new() -> Arena {
        Arena::with_options(ArenaOptions::default())
    }

    /// An arena of the global allocator, which holds nothing yet.
    pub fn with_options(options: ArenaOptions) -> Arena {
        Arena::over(Store::Heap(Chunks::new(options)), options.advice, nowhere(), nowhere())
    }

    /// An arena of the global allocator with a chunk of `bytes`.
    ///
    /// # Panics
    ///
    /// There is no such memory.
    #[track_caller]
    pub fn with_capacity(bytes: usize) -> Arena {
        Arena::try_with_capacity(bytes).unwrap_or_else(|error| fail(error))
    }

    /// An arena of the global allocator with a chunk of `bytes`.
    ///
    /// # Errors
    ///
    /// There is no such memory.
    pub fn try_with_capacity(bytes: usize) -> Result<Arena, AllocError> {
        let mut chunks = Chunks::new(ArenaOptions::default());
        if bytes > 0 {
            chunks.prepare(bytes)?;
        }
        Ok(Arena::over(Store::Heap(chunks), Advice::default(), nowhere(), nowhere()))
    }

    /// An arena that fills a region, committing it as it grows, and never takes memory from elsewhere.
    pub fn in_region(region: Region) -> Arena {
        Arena::in_region_with(region, ArenaOptions::default())
    }

    /// An arena that fills a region.
    pub fn in_region_with(region: Region, options: ArenaOptions) -> Arena {
        let within = Within::new(region, options);
        let (start, end) = (within.start(), within.end());
        Arena::over(Store::Within(within), options.advice, start, end)
    }

    fn over(store: Store, advice: Advice, cursor: NonNull<u8>, end: NonNull<u8>) -> Arena {
        let slow = RefCell::new(Slow { store, advice, grows: 0, resets: 0, peak_used: 0 });
        Arena { cursor: Cell::new(cursor), end: Cell::new(end), slow }
    }

    /// The region back, poisoned in a debug build; `None` of an arena of the global allocator.
    pub fn into_region(mut self) -> Option<Region> {
        self.reset();
        match self.slow.into_inner().store {
            Store::Heap(_) => None,
            Store::Within(within) => Some(within.into_region()),
        }
    }

    /// Places a value.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[inline(always)]
    #[track_caller]
    pub fn alloc<T>(&self, value: T) -> &mut T {
        self.alloc_with(|| value)
    }

    /// Places a value.
    ///
    /// # Errors
    ///
    /// There is no memory.
    #[inline(always)]
    pub fn try_alloc<T>(&self, value: T) -> Result<&mut T, AllocError> {
        self.try_alloc_with(|| value)
    }

    /// Places what `make` returns, without a copy where the compiler can do that.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[inline(always)]
    #[track_caller]
    pub fn alloc_with<T>(&self, make: impl FnOnce() -> T) -> &mut T {
        match self.try_alloc_with(make) {
            Ok(value) => value,
            Err(error) => fail(error),
        }
    }

    /// Places what `make` returns, which is not called where there is no memory.
    ///
    /// # Errors
    ///
    /// There is no memory.
    #[inline(always)]
    pub fn try_alloc_with<T>(&self, make: impl FnOnce() -> T) -> Result<&mut T, AllocError> {
        const { assert!(!mem::needs_drop::<T>(), "an arena runs no destructors: use a DropArena") };
        let place = self.place(Layout::new::<T>())?.cast::<T>();
        // SAFETY: room for a `T`, aligned, and nobody else's until the arena is reset, which this borrow of it
        // prevents.
        unsafe {
            place.write(make());
            Ok(&mut *place.as_ptr())
        }
    }

    /// Memory for `layout` that is nobody else's until the next reset.
    #[inline(always)]
    pub(crate) fn place(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(NonNull::without_provenance(nonzero_align(layout)));
        }
        match self.bump(layout) {
            Some(place) => Ok(place),
            None => self.grow(layout),
        }
    }

    /// The hot path: the next bytes of the current range.
    #[inline(always)]
    fn bump(&self, layout: Layout) -> Option<NonNull<u8>> {
        let (cursor, end) = (self.cursor.get(), self.end.get());
        let is_aligned = layout.align() <= QUANTUM;
        let skipped =
            if is_aligned { 0 } else { cursor.as_ptr().addr().wrapping_neg() & (layout.align() - 1) };
        // Neither exceeds `isize::MAX`.
        let taken = skipped + quanta(layout.size());
        if taken > end.as_ptr().addr() - cursor.as_ptr().addr() {
            return None;
        }
        // SAFETY: both are within `cursor..end`, which is of one allocation.
        let (place, next) = unsafe { (cursor.add(skipped), cursor.add(taken)) };
        self.cursor.set(next);
        Some(place)
    }

    /// The cold path: another range, or memory apart for what is too large.
    #[cold]
    #[inline(never)]
    fn grow(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let began = probe::arena_grow::begin();
        let mut slow = self.slow.borrow_mut();
        let grown = match &mut slow.store {
            Store::Heap(chunks) => chunks.grow(self.cursor.get(), layout),
            Store::Within(within) => within.grow(self.cursor.get(), layout),
        }?;
        slow.grows += 1;
        let place = match grown {
            Grown::Apart(place) => place,
            Grown::Range { cursor, end } => {
                self.cursor.set(cursor);
                self.end.set(end);
                self.bump(layout).ok_or(AllocError::Exhausted(layout.size()))?
            }
        };
        probe::arena_grow::end(began, layout.size(), place.as_ptr().addr());
        Ok(place)
    }

    /// Frees all that was placed, and keeps the memory for what comes next: of the largest chunks as many as fit in
    /// [`ArenaOptions::keep_bytes`] together, or so much of the region. The rest is given back. In a debug build a
    /// region's memory is inaccessible until it is placed again.
    pub fn reset(&mut self) {
        let used = self.counters().used;
        let slow = self.slow.get_mut();
        slow.resets += 1;
        slow.peak_used = slow.peak_used.max(used);
        let (cursor, end) = match &mut slow.store {
            Store::Heap(chunks) => {
                chunks.reset();
                (nowhere(), nowhere())
            }
            Store::Within(within) => {
                within.reset();
                (within.start(), within.end())
            }
        };
        self.cursor.set(cursor);
        self.end.set(end);
    }

    /// Sizes of now.
    pub fn counters(&self) -> ArenaCounters {
        let slow = self.slow.borrow();
        let mut counters = match &slow.store {
            Store::Heap(chunks) => chunks.count(self.cursor.get()),
            Store::Within(within) => within.count(self.cursor.get()),
        };
        counters.peak_used = slow.peak_used.max(counters.used);
        (counters.grows, counters.resets) = (slow.grows, slow.resets);
        counters
    }
}

/// What was placed stays; only memory that is in no use is given back.
impl Release for Arena {
    fn idle_bytes(&self) -> usize {
        match &self.slow.borrow().store {
            Store::Heap(chunks) => chunks.idle_bytes(),
            Store::Within(within) => within.idle_bytes(self.cursor.get()),
        }
    }

    fn release(&self, bytes: usize) -> usize {
        let advice = self.slow.borrow().advice;
        self.release_with(bytes, advice)
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        match &mut self.slow.borrow_mut().store {
            Store::Heap(chunks) => chunks.release(bytes),
            Store::Within(within) => {
                let given = within.release(self.cursor.get(), bytes, advice);
                self.end.set(within.end());
                given
            }
        }
    }
}

/// An arena that threads take turns with; one that is in use gives back nothing.
impl Release for Mutex<Arena> {
    fn idle_bytes(&self) -> usize {
        self.try_lock().map_or(0, |arena| arena.idle_bytes())
    }

    fn release(&self, bytes: usize) -> usize {
        self.try_lock().map_or(0, |arena| arena.release(bytes))
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        self.try_lock().map_or(0, |arena| arena.release_with(bytes, advice))
    }
}

/// A size rounded up to whole quanta.
#[inline(always)]
fn quanta(bytes: usize) -> usize {
    (bytes + (QUANTUM - 1)) & !(QUANTUM - 1)
}

/// Where an arena begins that has no memory: `QUANTUM` as an address.
const fn nowhere() -> NonNull<u8> {
    NonNull::<u64>::dangling().cast()
}

/// An address that is aligned as asked and not 0.
fn nonzero_align(layout: Layout) -> std::num::NonZero<usize> {
    std::num::NonZero::new(layout.align()).unwrap_or(std::num::NonZero::<usize>::MIN)
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("counters", &self.counters()).finish_non_exhaustive()
    }
}
