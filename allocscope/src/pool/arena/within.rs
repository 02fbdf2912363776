//! An arena's growth into commits of one region.

use super::chunks::Grown;
use super::{AllocError, ArenaCounters, ArenaOptions, quanta};
use crate::pool::pressure::Advice;
use crate::pool::region::Region;
use std::alloc::Layout;
use std::ptr::NonNull;

/// A region that an arena fills from its beginning.
#[derive(Debug)]
pub(super) struct Within {
    region: Region,
    options: ArenaOptions,
}

impl Within {
    pub(super) fn new(region: Region, options: ArenaOptions) -> Within {
        Within { region, options }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        // SAFETY: a region never begins at 0: its lower guard is before it.
        unsafe { NonNull::new_unchecked(self.region.as_ptr()) }
    }

    pub(super) fn end(&self) -> NonNull<u8> {
        // SAFETY: within the region.
        unsafe { self.start().add(self.region.open_bytes()) }
    }

    fn used(&self, cursor: NonNull<u8>) -> usize {
        cursor.as_ptr().addr() - self.region.as_ptr().addr()
    }

    /// Commits at least what `layout` needs, and up to as much again as is in use.
    pub(super) fn grow(&mut self, cursor: NonNull<u8>, layout: Layout) -> Result<Grown, AllocError> {
        let skipped = cursor.as_ptr().addr().wrapping_neg() & (layout.align() - 1);
        let exhausted = AllocError::Exhausted(layout.size());
        let need =
            self.used(cursor).checked_add(skipped).and_then(|need| need.checked_add(quanta(layout.size())));
        let most = self.region.counters().reserved.min(self.options.limit);
        let need = need.filter(|need| *need <= most).ok_or(exhausted)?;
        let step = self
            .region
            .open_bytes()
            .clamp(self.options.first_chunk, self.options.max_chunk.max(self.options.first_chunk));
        let wish = need.max(self.region.open_bytes().saturating_add(step)).min(most);
        // Where there is no room for the wish, there may be for the need.
        self.region.commit(wish).or_else(|_| self.region.commit(need)).map_err(AllocError::Region)?;
        Ok(Grown::Range { cursor, end: self.end() })
    }

    /// Nothing is in use any more: gives back what is past `keep_bytes` and poisons the rest.
    ///
    /// A kernel that refuses costs memory or a check, nothing else.
    pub(super) fn reset(&mut self) {
        let _ = self.region.decommit(self.options.keep_bytes, self.options.advice);
        let _ = self.region.poison();
    }

    /// Gives back `bytes`, rounded up to whole pages, of what is committed but not in use.
    pub(super) fn release(&mut self, cursor: NonNull<u8>, bytes: usize, advice: Advice) -> usize {
        let kept = self.region.counters().committed.saturating_sub(bytes);
        let keep = (kept & !(self.region.granule() - 1)).max(self.used(cursor));
        self.region.decommit(keep, advice).unwrap_or(0)
    }

    pub(super) fn idle_bytes(&self, cursor: NonNull<u8>) -> usize {
        let page_up = self.used(cursor).next_multiple_of(self.region.granule());
        self.region.counters().committed.saturating_sub(page_up)
    }

    pub(super) fn count(&self, cursor: NonNull<u8>) -> ArenaCounters {
        let region = self.region.counters();
        ArenaCounters {
            used: self.used(cursor),
            reserved: region.reserved,
            committed: region.committed,
            idle: self.idle_bytes(cursor),
            ..Default::default()
        }
    }

    pub(super) fn into_region(self) -> Region {
        self.region
    }
}
