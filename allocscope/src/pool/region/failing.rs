//! A kernel that refuses a chosen call from a chosen time on, and counts what it maps.

use super::{Advised, Errno, Extent, Kernel, System};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

/// The calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Map,
    Open,
    Close,
    Advise(Advised),
    Bind,
}

/// Refuses `call` with `errno` once it has been let pass `passes` times.
pub(crate) struct Failing {
    call: Call,
    errno: Errno,
    passes: AtomicIsize,
    /// Mappings that are not unmapped yet.
    pub(crate) mapped: AtomicIsize,
    /// NUMA nodes that it claims to have.
    nodes: u32,
    has_explicit: bool,
}

impl Failing {
    pub(crate) const fn new(call: Call, errno: Errno, passes: isize) -> Failing {
        let (passes, mapped) = (AtomicIsize::new(passes), AtomicIsize::new(0));
        Failing { call, errno, passes, mapped, nodes: 1, has_explicit: true }
    }

    pub(crate) const fn with_nodes(mut self, nodes: u32) -> Failing {
        self.nodes = nodes;
        self
    }

    /// Refuses explicit huge pages.
    pub(crate) const fn without_explicit(mut self) -> Failing {
        self.has_explicit = false;
        self
    }

    /// Lets the call pass `passes` times more.
    pub(crate) fn let_pass(&self, passes: isize) {
        self.passes.store(passes, Relaxed);
    }

    fn check(&self, call: Call) -> Result<(), Errno> {
        let is_refused = call == self.call && self.passes.fetch_sub(1, Relaxed) <= 0;
        if is_refused { Err(self.errno) } else { Ok(()) }
    }
}

// SAFETY: what it does is the kernel's, whose contract this is.
unsafe impl System for Failing {
    fn page_bytes(&self) -> usize {
        Kernel.page_bytes()
    }

    fn map(&self, extent: Extent, explicit: bool) -> Result<NonNull<u8>, Errno> {
        self.check(Call::Map)?;
        if explicit && !self.has_explicit {
            return Err(self.errno);
        }
        Kernel.map(extent, explicit).inspect(|_| {
            self.mapped.fetch_add(1, Relaxed);
        })
    }

    unsafe fn unmap(&self, mapping: NonNull<u8>, extent: Extent) -> Result<(), Errno> {
        self.mapped.fetch_sub(1, Relaxed);
        // SAFETY: the caller's.
        unsafe { Kernel.unmap(mapping, extent) }
    }

    unsafe fn protect(&self, start: NonNull<u8>, bytes: usize, accessible: bool) -> Result<(), Errno> {
        self.check(if accessible { Call::Open } else { Call::Close })?;
        // SAFETY: the caller's.
        unsafe { Kernel.protect(start, bytes, accessible) }
    }

    unsafe fn advise(&self, start: NonNull<u8>, bytes: usize, advised: Advised) -> Result<(), Errno> {
        self.check(Call::Advise(advised))?;
        // SAFETY: the caller's.
        unsafe { Kernel.advise(start, bytes, advised) }
    }

    unsafe fn bind(&self, start: NonNull<u8>, bytes: usize, node: u32) -> Result<(), Errno> {
        self.check(Call::Bind)?;
        // SAFETY: the caller's.
        unsafe { Kernel.bind(start, bytes, node) }
    }

    fn nodes(&self) -> Vec<u32> {
        (0..self.nodes).collect()
    }

    fn grants_transparent(&self) -> bool {
        Kernel.grants_transparent()
    }
}
