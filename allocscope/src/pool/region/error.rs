//! A failed system call into an error that says what failed, why, and what to do about it.

use std::{error, fmt, io};

/// What a region was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Rounding the size asked for: it is zero or does not fit the address space.
    Size,
    /// Reserving addresses (`mmap`).
    Reserve,
    /// Making reserved addresses usable (`mprotect`), or more of them than are reserved.
    Commit,
    /// Taking the page faults in advance (`madvise(MADV_POPULATE_WRITE)`).
    Prefault,
    /// Giving memory back (`madvise`, `mprotect`).
    Decommit,
    /// Making freed memory inaccessible (`mprotect`).
    Poison,
    /// Binding to a NUMA node (`mbind`).
    Bind,
}

/// A region's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionError {
    step: Step,
    errno: i32,
    bytes: usize,
}

impl RegionError {
    pub(super) fn new(step: Step, errno: i32, bytes: usize) -> RegionError {
        RegionError { step, errno, bytes }
    }

    /// What failed.
    pub fn step(&self) -> Step {
        self.step
    }

    /// The kernel's reason as in `errno(3)`.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// How many bytes it was about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What can be done about it.
    pub fn advice(&self) -> &'static str {
        match (self.step, self.errno) {
            (Step::Size, _) => "ask for at least one byte and less than the address space",
            (Step::Reserve, libc::ENOMEM) => "raise RLIMIT_AS or vm.max_map_count, or reserve less",
            (Step::Commit, libc::EINVAL) => "reserve more: a region cannot grow past its reservation",
            (Step::Commit | Step::Poison, libc::ENOMEM) => {
                "raise vm.max_map_count, RLIMIT_DATA or the memory limit, or commit less"
            }
            (Step::Prefault, libc::ENOMEM | libc::EFAULT) => {
                "raise the memory limit or vm.nr_hugepages, or commit without prefault"
            }
            (Step::Prefault, libc::EHWPOISON) => "the machine has broken memory: look at its log",
            (Step::Decommit, libc::EINVAL) => "the kernel cannot advise such pages: drop the region instead",
            (Step::Bind, libc::EINVAL) => "name a node of /sys/devices/system/node/online",
            (Step::Bind, libc::EPERM | libc::ENOSYS) => "allow mbind in the seccomp filter, or do not bind",
            _ => "retry, or do without the region",
        }
    }
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Size => "round up",
            Step::Reserve => "reserve",
            Step::Commit => "commit",
            Step::Prefault => "prefault",
            Step::Decommit => "decommit",
            Step::Poison => "poison",
            Step::Bind => "bind",
        };
        let reason = io::Error::from_raw_os_error(self.errno);
        write!(f, "cannot {what} {} bytes: {reason}: {}", self.bytes, self.advice())
    }
}

impl error::Error for RegionError {}
