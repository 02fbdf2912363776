//! The code of an allocator that is linked into a stripped executable into its large path, by what only this code
//! holds.
//!
//! No name leads there, so several properties that do not depend on each other have to agree on one function.

pub mod glibc;
pub mod jemalloc;
pub mod mimalloc;
mod texts;

use std::ops::Range;

use super::follow::Follower;

/// An allocator's functions lie together, this far from each other at most.
const MAX_GAP_BYTES: u64 = 256 << 10;

/// The code from `first` to `last` and that around it, which an allocator's functions are in.
fn around(follower: &Follower<'_>, first: u64, last: u64) -> Option<Range<u64>> {
    let segment = follower.image.executable_ranges().find(|segment| segment.contains(&first))?;
    let start = first.saturating_sub(MAX_GAP_BYTES).max(segment.start);
    Some(start..last.saturating_add(MAX_GAP_BYTES).min(segment.end))
}

/// What is found, if it is the only one.
fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    found.next().filter(|_| found.next().is_none())
}
