//! A size into a range of memory whose addresses are reserved and whose pages are committed apart.
//!
//! ```text
//! | guard | committed: usable, maybe prefaulted | reserved: addresses only | guard |
//! ```
//!
//! Whatever is not committed is inaccessible, and so are the guards: a write past either end is a fault, not a
//! corruption. What is committed is always the first part of the region, which is all that a bump allocator needs.
//!
//! Under Miri the kernel's place is taken by `stand_in`, which allocates.

mod error;
mod extent;
#[cfg(test)]
pub(super) mod failing;
#[cfg(not(miri))]
mod kernel;
#[cfg(miri)]
#[path = "stand_in.rs"]
mod kernel;
mod nodes;
#[cfg(test)]
#[cfg(not(miri))]
pub(super) mod observed;
mod system;
#[cfg(test)]
mod tests;

pub use error::{RegionError, Step};
pub use extent::{Extent, HUGE_PAGE_BYTES};
pub use kernel::Kernel;
pub use system::{Advised, Errno, System};

use super::pressure::Advice;
use super::probe;
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Which pages a region asks for. What it got is [`Region::backing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The smallest pages only.
    #[default]
    Never,
    /// Transparent huge pages of 2 MiB (`MADV_HUGEPAGE`), else small ones.
    Transparent,
    /// Explicit huge pages of 2 MiB (`MAP_HUGETLB`, set aside when the region is reserved), else transparent ones.
    Explicit,
}

/// Which pages a region may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backing {
    /// The smallest pages only.
    Small,
    /// Huge ones where the kernel finds them when a page is touched.
    Transparent,
    /// Huge ones, set aside.
    Explicit,
}

/// What came of binding to a NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The machine has only this node: nothing was done, and nothing need be.
    OnlyNode,
    /// Pages not touched yet will come from this node and from no other.
    Bound,
}

/// How a region is made.
#[derive(Clone, Copy)]
pub struct RegionOptions {
    /// Which pages to ask for. Huge ones make all sizes multiples of [`HUGE_PAGE_BYTES`].
    pub huge: HugePages,
    /// Whether `commit` takes all page faults in advance.
    pub prefault: bool,
    /// Who is asked for memory; the kernel, but for tests.
    pub system: &'static dyn System,
}

impl Default for RegionOptions {
    fn default() -> RegionOptions {
        RegionOptions { huge: HugePages::Never, prefault: false, system: &Kernel }
    }
}

impl fmt::Debug for RegionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RegionOptions");
        out.field("huge", &self.huge).field("prefault", &self.prefault).finish_non_exhaustive()
    }
}

/// A region's sizes in bytes, without guards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionCounters {
    /// Addresses held.
    pub reserved: usize,
    /// Of these, in use: what the kernel has been asked to back.
    pub committed: usize,
    /// The most that was committed at once.
    pub peak_committed: usize,
}

/// A range of memory with guards at both ends; unmapped on drop.
///
/// A forked child has a copy of its own, as of all private memory. Where that copy needs explicit huge pages of which
/// the machine has none left, the kernel ends the child (SIGBUS).
pub struct Region {
    /// Where the lower guard begins.
    mapping: NonNull<u8>,
    extent: Extent,
    /// Bytes that are accessible now: `committed`, less what is poisoned.
    open: usize,
    committed: usize,
    peak_committed: usize,
    backing: Backing,
    prefault: bool,
    /// How long reserving took where a tracer listened, else 0.
    mapping_ns: u64,
    /// Whether the probe of this region has been passed.
    is_told: bool,
    system: &'static dyn System,
}

// SAFETY: the region owns its mapping, which knows no threads; whatever changes it takes `&mut`.
unsafe impl Send for Region {}
// SAFETY: as above; through `&` only numbers are read.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves addresses for `bytes`, rounded up to whole pages; none of it is usable before [`Region::commit`].
    ///
    /// # Errors
    ///
    /// The size is 0 or too large, or the kernel refuses.
    pub fn reserve(bytes: usize, options: RegionOptions) -> Result<Region, RegionError> {
        let began = probe::region_map::begin();
        let system = options.system;
        let granule = if options.huge == HugePages::Never { system.page_bytes() } else { HUGE_PAGE_BYTES };
        let extent = Extent::new(bytes, granule).ok_or(RegionError::new(Step::Size, libc::EINVAL, bytes))?;
        let mut region = Region::map(extent, options)?;
        if began > 0 {
            region.mapping_ns = probe::region_map::begin().saturating_sub(began);
        }
        Ok(region)
    }

    /// Maps the strongest pages that the kernel grants.
    fn map(extent: Extent, options: RegionOptions) -> Result<Region, RegionError> {
        let system = options.system;
        let explicit = (options.huge == HugePages::Explicit).then(|| system.map(extent, true).ok()).flatten();
        let mapping = explicit.map_or_else(|| system.map(extent, false), Ok);
        let mapping = mapping.map_err(|errno| RegionError::new(Step::Reserve, errno, extent.reserved()))?;
        let mut region = Region {
            mapping,
            extent,
            open: 0,
            committed: 0,
            peak_committed: 0,
            backing: Backing::Explicit,
            prefault: options.prefault,
            mapping_ns: 0,
            is_told: false,
            system,
        };
        if explicit.is_none() {
            region.backing = region.advise_pages(options.huge);
        }
        Ok(region)
    }

    fn advise_pages(&self, huge: HugePages) -> Backing {
        let (advised, granted) = match huge {
            HugePages::Never => (Advised::NoHuge, Backing::Small),
            HugePages::Transparent | HugePages::Explicit => (Advised::Huge, Backing::Transparent),
        };
        // SAFETY: the whole region; its contents are not concerned.
        let advice = unsafe { self.system.advise(self.base(), self.extent.reserved(), advised) };
        if advice.is_ok() && self.system.grants_transparent() { granted } else { Backing::Small }
    }

    /// Makes the first `bytes`, rounded up to whole pages, usable. What was usable stays so and keeps its contents.
    ///
    /// # Errors
    ///
    /// There are fewer bytes in the region, or the kernel refuses; the region is as before then.
    pub fn commit(&mut self, bytes: usize) -> Result<(), RegionError> {
        let end = self.extent.round(bytes).ok_or(RegionError::new(Step::Commit, libc::EINVAL, bytes))?;
        if end <= self.open {
            return Ok(());
        }
        let began = probe::region_map::begin();
        self.protect(self.open, end, true, Step::Commit)?;
        if self.prefault && end > self.committed {
            self.populate(end)?;
        }
        self.open = end;
        self.committed = self.committed.max(end);
        self.peak_committed = self.peak_committed.max(end);
        self.tell(began);
        Ok(())
    }

    /// The probe of a region that has become usable, which takes as long as reserving and the first commit.
    fn tell(&mut self, began: u64) {
        if !self.is_told {
            self.is_told = true;
            let began = began.saturating_sub(self.mapping_ns);
            probe::region_map::end(began, self.extent.reserved(), self.as_ptr().addr());
        }
    }

    /// Takes the faults of what is newly committed, or undoes the commit.
    fn populate(&mut self, end: usize) -> Result<(), RegionError> {
        let Err(error) = self.prefault(end) else {
            return Ok(());
        };
        // The first error is the one to tell.
        let _ = self.advise(self.committed, end, Advised::DontNeed, Step::Prefault);
        let _ = self.protect(self.open, end, false, Step::Prefault);
        Err(error)
    }

    fn prefault(&mut self, end: usize) -> Result<(), RegionError> {
        let asked = self.advise(self.committed, end, Advised::PopulateWrite, Step::Prefault);
        // Linux before 5.14 does not know it.
        if asked.is_err_and(|error| error.errno() == libc::EINVAL) {
            self.touch(end);
            return Ok(());
        }
        asked
    }

    /// Writes to each page that is newly committed.
    fn touch(&mut self, end: usize) {
        for at in (self.committed..end).step_by(self.system.page_bytes()) {
            // SAFETY: accessible since just now, and without contents that anybody counts on.
            unsafe { self.base().add(at).write_volatile(0) };
        }
    }

    /// Gives back all but the first `keep` bytes, rounded up to whole pages; the rest becomes inaccessible and
    /// loses its contents. Returns how many bytes that were. Explicit huge pages know only [`Advice::DontNeed`],
    /// which is taken for them.
    ///
    /// # Errors
    ///
    /// The kernel refuses; what was committed counts as committed still.
    pub fn decommit(&mut self, keep: usize, advice: Advice) -> Result<usize, RegionError> {
        let keep = self.extent.round(keep).map_or(self.committed, |keep| keep.min(self.committed));
        let (given, end) = (self.committed - keep, self.committed);
        if given == 0 {
            return Ok(0);
        }
        let is_lazy = advice == Advice::Free && self.backing != Backing::Explicit;
        let advised = if is_lazy { Advised::Free } else { Advised::DontNeed };
        self.advise(keep, end, advised, Step::Decommit)?;
        self.protect(keep, end, false, Step::Decommit)?;
        self.committed = keep;
        self.open = self.open.min(keep);
        Ok(given)
    }

    /// In a debug build, makes all of the region inaccessible until it is committed again, so that whoever still
    /// uses it is found out; the pages stay. Returns whether it did.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn poison(&mut self) -> Result<bool, RegionError> {
        if !cfg!(debug_assertions) {
            return Ok(false);
        }
        if self.open > 0 {
            self.protect(0, self.open, false, Step::Poison)?;
            self.open = 0;
        }
        Ok(true)
    }

    /// Lets pages that are not touched yet come from NUMA node `node` only.
    ///
    /// # Errors
    ///
    /// There is no such node, or the kernel refuses.
    pub fn bind(&mut self, node: u32) -> Result<Binding, RegionError> {
        let bytes = self.extent.reserved();
        let nodes = self.system.nodes();
        if !nodes.contains(&node) {
            return Err(RegionError::new(Step::Bind, libc::EINVAL, bytes));
        }
        if nodes.len() == 1 {
            return Ok(Binding::OnlyNode);
        }
        // SAFETY: the whole region.
        let bound = unsafe { self.system.bind(self.base(), bytes, node) };
        bound.map(|()| Binding::Bound).map_err(|errno| RegionError::new(Step::Bind, errno, bytes))
    }

    /// Which pages the region may get.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The region's first byte, right after the lower guard; aligned to a page of the kind asked for.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base().as_ptr()
    }

    /// All that is usable now. What it holds is of no meaning: it was zero once, and pages that were given back
    /// by [`Advice::Free`] may become zero until they are written.
    pub fn bytes_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the first `open` bytes are accessible, and this borrow of the region is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr().cast(), self.open) }
    }

    /// Bytes usable now: what is committed, less what is poisoned.
    pub fn open_bytes(&self) -> usize {
        self.open
    }

    /// What sizes are rounded up to, in bytes: a page of the kind asked for.
    pub fn granule(&self) -> usize {
        self.extent.granule()
    }

    /// Sizes of now.
    pub fn counters(&self) -> RegionCounters {
        RegionCounters {
            reserved: self.extent.reserved(),
            committed: self.committed,
            peak_committed: self.peak_committed,
        }
    }

    fn base(&self) -> NonNull<u8> {
        // SAFETY: the lower guard is within the mapping.
        unsafe { self.mapping.add(self.extent.granule()) }
    }

    fn protect(&mut self, from: usize, end: usize, accessible: bool, step: Step) -> Result<(), RegionError> {
        // SAFETY: of whole pages within the region, which is borrowed by nobody else.
        let result = unsafe { self.system.protect(self.base().add(from), end - from, accessible) };
        result.map_err(|errno| RegionError::new(step, errno, end - from))
    }

    fn advise(&mut self, from: usize, end: usize, advised: Advised, step: Step) -> Result<(), RegionError> {
        // SAFETY: of whole pages within the region, which is borrowed by nobody else.
        let result = unsafe { self.system.advise(self.base().add(from), end - from, advised) };
        result.map_err(|errno| RegionError::new(step, errno, end - from))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let began = probe::region_release::begin();
        let (pointer, bytes) = (self.as_ptr().addr(), self.extent.reserved());
        // SAFETY: mapped with this extent; whoever borrowed it is gone. A range that cannot be unmapped is lost,
        // which harms nobody.
        let _ = unsafe { self.system.unmap(self.mapping, self.extent) };
        if self.is_told {
            probe::region_release::end(began, bytes, pointer);
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Region");
        out.field("start", &self.as_ptr()).field("counters", &self.counters());
        out.field("backing", &self.backing).finish_non_exhaustive()
    }
}
