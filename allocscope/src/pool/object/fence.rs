//! A fence of two sides into one that is paid by the side that comes seldom.
//!
//! Owner and visitor of a slot each store a word and then load the other's: at least one of the two must see the
//! other. Where the kernel has `membarrier` the owner keeps only the compiler from reordering, and the visitor makes
//! every processor that runs a thread of this process execute a full fence. Where it has not, or a sandbox refuses it,
//! both execute one: get and put are then 7.6 ns instead of 2.65 (`xtask bench pool`'s object of 4 KiB, under seccomp).
//!
//! Where a sandbox that refuses it is closed around a pool that uses `membarrier` already, its slots are visited no
//! more: what a thread keeps of its own, items and under `max_idle` the rights to hold them, stays until that thread comes
//! by. Nothing is lost, but of a few rights all may be where nobody gets. Who builds a pool after closing the sandbox, or
//! has it allow `membarrier`, avoids that.

use crate::pool::sync::{self, Ordering};

/// How both sides keep their order; decided once per pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fences {
    /// Owner: compiler only. Visitor: `membarrier`.
    Asymmetric,
    /// A full fence on both sides.
    Full,
}

impl Fences {
    /// Asks the kernel, which may answer otherwise than before: this process may have given up rights since.
    pub(super) fn now() -> Self {
        if membarrier::register() { Self::Asymmetric } else { Self::Full }
    }

    /// Between the visitor's stores and its loads; `false` where the kernel refused, and nothing may be visited.
    #[must_use]
    pub(super) fn heavy(self) -> bool {
        sync::fence(Ordering::SeqCst);
        self == Self::Full || membarrier::run()
    }
}

/// Between the owner's store and its load, where fences are [`Fences::Asymmetric`].
#[inline(always)]
pub(super) fn light() {
    #[cfg(not(any(miri, loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(any(miri, loom))]
    sync::fence(Ordering::SeqCst);
}

#[cfg(not(any(miri, loom)))]
mod membarrier {
    /// This process wants to use [`run`]. Inherited over fork, lost by exec; costs a system call where it was said before.
    pub(super) fn register() -> bool {
        call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    /// A full fence on each processor that runs a thread of this process.
    pub(super) fn run() -> bool {
        call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
            || (register() && call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED))
    }

    fn call(command: libc::c_int) -> bool {
        // SAFETY: the system call takes three numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

/// Miri and loom have no `membarrier`: there the light fence is a full one too.
#[cfg(any(miri, loom))]
mod membarrier {
    pub(super) fn register() -> bool {
        true
    }

    pub(super) fn run() -> bool {
        true
    }
}
