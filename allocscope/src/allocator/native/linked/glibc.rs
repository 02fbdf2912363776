//! glibc's `_int_malloc`, by what it says of damage that only it finds.

use super::super::follow::Follower;
use super::{around, only, texts};
use crate::allocator::wording::{text, turned};

/// Messages of `_int_malloc` (malloc.c, glibc 2.26 and newer).
const TEXTS: [&[u8]; 7] = [
    &turned(*b"malloc(): memory corruption (fast)\0"),
    &turned(*b"malloc(): smallbin double linked list corrupted\0"),
    &turned(*b"malloc(): invalid size (unsorted)\0"),
    &turned(*b"malloc(): invalid next size (unsorted)\0"),
    &turned(*b"malloc(): mismatching next->prev_size (unsorted)\0"),
    &turned(*b"malloc(): corrupted unsorted chunks\0"),
    &turned(*b"malloc(): corrupted top size\0"),
];
/// At least so many of them have to agree.
const MIN_TEXTS: usize = 5;
/// malloc, calloc, `_int_realloc` and `_int_memalign` call it.
const MIN_CALLERS: usize = 3;

/// The only function that takes the addresses of its messages.
pub fn int_malloc(follower: &Follower<'_>) -> Option<u64> {
    let (function, taken) = only(texts::takers(follower, &TEXTS.map(text))?.into_iter())?;
    let callers = follower.branching_to(function, &around(follower, function, function)?)?;
    (taken >= MIN_TEXTS && callers.len() >= MIN_CALLERS).then_some(function)
}
