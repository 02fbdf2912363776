//! glibc's `_int_malloc`, which no stripped libc names.

use super::follow::Follower;

/// The largest request that a thread cache serves (malloc.c, MAX_TCACHE_SIZE) unless a tunable of 2.42 and newer raises it.
pub const MAX_CACHED_BYTES: u64 = 1032;
/// `_int_malloc` is 2 to 5 KiB in every build; the other functions that both call are shorter, but for
/// `arena_get2`, which each calls once.
const MIN_CODE_BYTES: u64 = 1024;
/// `malloc` calls it for the only thread, for an arena, and again after a failure.
const MIN_CALLS: usize = 2;

/// The function that `malloc` and `calloc` both call, more often than any other of its size.
pub fn int_malloc(follower: &Follower<'_>) -> Option<u64> {
    let malloc = follower.callees_with_tails(&follower.exported("malloc")?)?;
    let calloc = follower.callees_with_tails(&follower.exported("calloc")?)?;
    let mut candidates: Vec<(usize, u64)> = malloc
        .iter()
        .filter(|(address, reached)| reached.calls >= MIN_CALLS && calloc.contains_key(address))
        .filter(|(address, _)| {
            follower.function(**address).is_some_and(|range| range.end - range.start >= MIN_CODE_BYTES)
        })
        .map(|(&address, reached)| (reached.calls, address))
        .collect();
    candidates.sort_unstable();
    let (most, address) = candidates.pop()?;
    // Two that are called as often cannot be told apart.
    candidates.last().is_none_or(|&(calls, _)| calls < most).then_some(address)
}
