//! jemalloc's `large_palloc`, which no stripped library names.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Code, FlowControl, Register};

use super::follow::Follower;

/// `large_malloc` is `return large_palloc(tsdn, arena, usize, CACHELINE, zero)`: three instructions.
const MAX_THUNK_BYTES: u64 = 32;
/// CACHELINE (jemalloc_internal_types.h).
const CACHE_LINE: u32 = 64;
/// Exported functions with a path to large objects; their slow paths are inlined into each.
const EXPORTED: [&str; 4] = ["malloc", "calloc", "mallocx", "realloc"];
/// At least so many of them have to agree.
const MIN_AGREEING: usize = 2;

/// Where `large_malloc` ends in, by what the exported functions call.
pub fn large_palloc(follower: &Follower<'_>) -> Option<u64> {
    let mut targets = BTreeSet::new();
    let mut agreeing = 0;
    for name in EXPORTED {
        let Some(range) = follower.exported(name) else { continue };
        let callees = follower.callees_with_tails(&range).unwrap_or_default();
        let of_this: BTreeSet<u64> = callees
            .keys()
            .filter_map(|&address| end_of_thunk(follower, &follower.function(address)?))
            .collect();
        agreeing += usize::from(!of_this.is_empty());
        targets.extend(of_this);
    }
    let only = *targets.first()?;
    (targets.len() == 1 && agreeing >= MIN_AGREEING && follower.function(only).is_some()).then_some(only)
}

/// Where a function of the form `... ; mov ecx, 64; ... ; jmp target` leads, which does nothing else than set
/// arguments.
fn end_of_thunk(follower: &Follower<'_>, range: &Range<u64>) -> Option<u64> {
    if range.end - range.start > MAX_THUNK_BYTES {
        return None;
    }
    let function = follower.decode(range)?;
    let (last, arguments) = function.instructions().split_last()?;
    let sets_alignment = |code: Code, register, value| {
        code == Code::Mov_r32_imm32 && register == Register::ECX && value == CACHE_LINE
    };
    let aligned = arguments.iter().any(|i| sets_alignment(i.code(), i.op0_register(), i.immediate32()));
    let straight = arguments.iter().all(|i| i.flow_control() == FlowControl::Next);
    let jumps =
        last.flow_control() == FlowControl::UnconditionalBranch && !range.contains(&last.near_branch64());
    (aligned && straight && jumps).then(|| last.near_branch64())
}
