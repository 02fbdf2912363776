//! mimalloc's `_mi_malloc_generic`, which no stripped library names.

use super::follow::Follower;

/// It is far longer than the thunks between exported functions.
const MIN_CODE_BYTES: u64 = 128;

/// Where both `malloc` and `calloc` end when the free list cannot serve them: the only tail that they share.
pub fn malloc_generic(follower: &Follower<'_>) -> Option<u64> {
    let malloc = follower.callees(&follower.exported("malloc")?)?;
    let calloc = follower.callees(&follower.exported("calloc")?)?;
    let mut shared = malloc.keys().filter(|&address| {
        calloc.contains_key(address)
            && follower.function(*address).is_some_and(|range| range.end - range.start >= MIN_CODE_BYTES)
    });
    let only = *shared.next()?;
    shared.next().is_none().then_some(only)
}
