//! mimalloc's `_mi_malloc_generic`, by the message that only it has.

use iced_x86::{Instruction, Mnemonic};

use super::super::follow::Follower;
use super::{around, only, texts};
use crate::allocator::wording::{text, turned};
use crate::site::decode::Function;

/// What it says when the system has no memory left (page.c, since mimalloc 1.6).
const TEXT: &[u8] = &turned(*b"unable to allocate memory (%zu bytes)\n\0");
/// MI_SMALL_SIZE_MAX (types.h), which its callers ask about first.
const SMALL_BYTES: u64 = 1024;
/// At least so many do; the others were given no size, or one that they know to be larger.
const MIN_CALLERS: usize = 2;

/// The only function that takes the message's address, if it is called behind comparisons with the largest small
/// size.
pub fn malloc_generic(follower: &Follower<'_>) -> Option<u64> {
    let generic = only(texts::takers(follower, &[text(TEXT)])?.into_keys())?;
    let callers = follower.branching_to(generic, &around(follower, generic, generic)?)?;
    let asks = |&caller: &u64| {
        let range = follower.function(caller);
        range.and_then(|range| follower.with_code(&range, asks_about_small)).unwrap_or_default()
    };
    (callers.into_iter().filter(asks).count() >= MIN_CALLERS).then_some(generic)
}

fn asks_about_small(code: &Function<'_>) -> bool {
    let asks = |i: &Instruction| {
        i.mnemonic() == Mnemonic::Cmp && i.try_immediate(1).is_ok_and(|limit| limit == SMALL_BYTES)
    };
    code.instructions().iter().any(asks)
}
