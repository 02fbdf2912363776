//! Why an arena has no memory to give.

use crate::pool::region::RegionError;
use std::{error, fmt};

/// Why an allocation failed. The arena is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// The size overflows, or the alignment is not a power of two: no such memory can be.
    Impossible,
    /// More than the arena's limit or its region leaves; how many bytes were asked for.
    Exhausted(usize),
    /// The allocator has no memory; how many bytes it was asked for.
    OutOfMemory(usize),
    /// The region could not be extended.
    Region(RegionError),
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::Impossible => write!(f, "no memory can have this size and alignment"),
            AllocError::Exhausted(bytes) => write!(f, "the arena's limit leaves no {bytes} bytes"),
            AllocError::OutOfMemory(bytes) => write!(f, "the allocator has no {bytes} bytes"),
            AllocError::Region(error) => error.fmt(f),
        }
    }
}

impl error::Error for AllocError {}

/// For those who asked for no `Result`.
#[cold]
#[inline(never)]
#[track_caller]
pub(super) fn fail(error: AllocError) -> ! {
    panic!("arena: {error}")
}
