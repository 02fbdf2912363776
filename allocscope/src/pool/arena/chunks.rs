//! An arena's growth into chunks of the global allocator, of which a reset keeps the largest.

use super::{AllocError, ArenaCounters, ArenaOptions, quanta};
use std::alloc::{self, Layout};
use std::fmt;
use std::ptr::NonNull;

/// What a chunk is aligned to at least: a cache line, so that objects as large as one do not lie across two, which
/// makes each a fifth dearer.
const CHUNK_ALIGN: usize = 64;

/// Who chunks come from: the global allocator, but for tests.
///
/// # Safety
///
/// As [`alloc::GlobalAlloc`]: memory is the caller's alone until given back with the same layout.
pub unsafe trait ChunkSource: Sync {
    /// Memory of this layout, whose size is above 0.
    fn take(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// It was taken here with this layout, and nobody uses it.
    unsafe fn give_back(&self, start: NonNull<u8>, layout: Layout);
}

/// The global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Heap;

// SAFETY: the global allocator's contract.
unsafe impl ChunkSource for Heap {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the size is above 0, as the trait says.
        NonNull::new(unsafe { alloc::alloc(layout) })
    }

    unsafe fn give_back(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: taken from `alloc` with this layout.
        unsafe { alloc::dealloc(start.as_ptr(), layout) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: NonNull<u8>,
    layout: Layout,
    /// Bytes handed out, as of when it was last left.
    used: usize,
}

impl Chunk {
    fn fits(&self, layout: Layout) -> bool {
        let skipped = self.start.as_ptr().addr().wrapping_neg() & (layout.align() - 1);
        let bytes = quanta(layout.size());
        bytes <= self.layout.size() && skipped <= self.layout.size() - bytes
    }

    fn free(&self) -> usize {
        self.layout.size() - self.used
    }
}

/// Where the arena goes on.
pub(super) enum Grown {
    /// In this range.
    Range { cursor: NonNull<u8>, end: NonNull<u8> },
    /// Where it was: what was asked for is too big for a chunk and has one of its own, here.
    Apart(NonNull<u8>),
}

/// All chunks of an arena: those in use first, then those kept for later.
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
    in_use: usize,
    /// Which one the arena's cursor is in.
    current: Option<usize>,
    /// Size of the next new one.
    next_bytes: usize,
    held_bytes: usize,
    options: ArenaOptions,
}

impl Chunks {
    pub(super) fn new(options: ArenaOptions) -> Chunks {
        let next_bytes = options.first_chunk.clamp(CHUNK_ALIGN, isize::MAX as usize / 2);
        Chunks { chunks: Vec::new(), in_use: 0, current: None, next_bytes, held_bytes: 0, options }
    }

    /// Finds room for `layout`: in a chunk that was kept, else in a new one.
    pub(super) fn grow(&mut self, cursor: NonNull<u8>, layout: Layout) -> Result<Grown, AllocError> {
        self.leave(cursor);
        if let Some(kept) = self.kept_for(layout) {
            self.chunks.swap(self.in_use, kept);
            return Ok(self.enter(self.in_use));
        }
        let need = quanta(layout.size());
        let is_apart = need > self.next_bytes;
        let bytes = self.next_bytes.min(self.room()).max(need);
        // Where there is no memory for a whole chunk, there may be for the need.
        let at = self.add(bytes, layout.align()).or_else(|_| self.add(need, layout.align()))?;
        self.next_bytes = self.next_bytes.saturating_mul(2).min(self.options.max_chunk.max(self.next_bytes));
        if !is_apart {
            return Ok(self.enter(at));
        }
        self.in_use += 1;
        self.chunks[at].used = bytes;
        Ok(Grown::Apart(self.chunks[at].start))
    }

    /// The largest kept chunk of ordinary size, else the smallest one that fits, so that what was made for large
    /// objects is there for the next large one.
    fn kept_for(&self, layout: Layout) -> Option<usize> {
        let size = |at: &usize| self.chunks[*at].layout.size();
        let fitting = (self.in_use..self.chunks.len()).filter(|at| self.chunks[*at].fits(layout));
        let ordinary = fitting.clone().filter(|at| size(at) <= self.next_bytes).max_by_key(size);
        ordinary.or_else(|| fitting.min_by_key(size))
    }

    /// Bytes that the limit leaves.
    fn room(&self) -> usize {
        self.options.limit.saturating_sub(self.held_bytes)
    }

    /// Makes a chunk ready before anybody needs it.
    pub(super) fn prepare(&mut self, bytes: usize) -> Result<(), AllocError> {
        self.add(bytes, CHUNK_ALIGN).map(|_| ())
    }

    /// Notes how far the cursor came.
    fn leave(&mut self, cursor: NonNull<u8>) {
        if let Some(current) = self.current {
            let chunk = &mut self.chunks[current];
            chunk.used = cursor.as_ptr().addr() - chunk.start.as_ptr().addr();
        }
    }

    /// Makes the first chunk not in use the current one.
    fn enter(&mut self, at: usize) -> Grown {
        self.in_use += 1;
        self.current = Some(at);
        let Chunk { start, layout, .. } = self.chunks[at];
        // SAFETY: one past the end of the chunk.
        Grown::Range { cursor: start, end: unsafe { start.add(layout.size()) } }
    }

    /// A new chunk, the first of those not in use.
    fn add(&mut self, bytes: usize, align: usize) -> Result<usize, AllocError> {
        let layout =
            Layout::from_size_align(bytes, align.max(CHUNK_ALIGN)).map_err(|_| AllocError::Impossible)?;
        if bytes > self.room() {
            return Err(AllocError::Exhausted(bytes));
        }
        self.chunks.try_reserve(1).map_err(|_| AllocError::OutOfMemory(bytes))?;
        let start = self.options.source.take(layout).ok_or(AllocError::OutOfMemory(bytes))?;
        self.held_bytes += bytes;
        self.chunks.push(Chunk { start, layout, used: 0 });
        let last = self.chunks.len() - 1;
        self.chunks.swap(self.in_use, last);
        Ok(self.in_use)
    }

    /// Nothing is in use any more; keeps the largest chunks that fit in `keep_bytes` together.
    pub(super) fn reset(&mut self) {
        (self.in_use, self.current) = (0, None);
        self.chunks.sort_unstable_by_key(|chunk| std::cmp::Reverse(chunk.layout.size()));
        let mut kept = 0;
        let keep_bytes = self.options.keep_bytes;
        self.give_back_if(|chunk| {
            chunk.used = 0;
            let is_kept = chunk.layout.size() <= keep_bytes - kept;
            kept += if is_kept { chunk.layout.size() } else { 0 };
            !is_kept
        });
    }

    /// Gives back chunks not in use until `bytes` are given or none is left.
    pub(super) fn release(&mut self, bytes: usize) -> usize {
        let mut given = 0;
        self.give_back_if(|chunk| {
            let is_given = given < bytes;
            given += if is_given { chunk.layout.size() } else { 0 };
            is_given
        });
        given
    }

    /// Gives back those chunks not in use for which `is_given`.
    fn give_back_if(&mut self, mut is_given: impl FnMut(&mut Chunk) -> bool) {
        let (mut at, source) = (0, self.options.source);
        let (in_use, held_bytes) = (self.in_use, &mut self.held_bytes);
        self.chunks.retain_mut(|chunk| {
            at += 1;
            if at <= in_use || !is_given(chunk) {
                return true;
            }
            *held_bytes -= chunk.layout.size();
            // SAFETY: taken from this source with this layout; not in use.
            unsafe { source.give_back(chunk.start, chunk.layout) };
            false
        });
    }

    pub(super) fn idle_bytes(&self) -> usize {
        self.chunks[self.in_use..].iter().map(|chunk| chunk.layout.size()).sum()
    }

    pub(super) fn count(&self, cursor: NonNull<u8>) -> ArenaCounters {
        let mut counters = ArenaCounters { idle: self.idle_bytes(), ..Default::default() };
        (counters.reserved, counters.committed) = (self.held_bytes, self.held_bytes);
        for (at, chunk) in self.chunks[..self.in_use].iter().enumerate() {
            if self.current == Some(at) {
                counters.used += cursor.as_ptr().addr() - chunk.start.as_ptr().addr();
            } else {
                counters.used += chunk.used;
                counters.wasted += chunk.free();
            }
        }
        counters
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.in_use = 0;
        self.give_back_if(|_| true);
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.chunks).finish()
    }
}
