//! jemalloc's `large_palloc` and `large_dalloc`, which no stripped library names.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::follow::Follower;
use crate::site::decode::Function;

/// `large_malloc` is `return large_palloc(tsdn, arena, usize, CACHELINE, zero)`: three instructions.
const MAX_THUNK_BYTES: u64 = 32;
/// CACHELINE (jemalloc_internal_types.h).
const CACHE_LINE: u32 = 64;
/// Exported functions with a path to large objects; their slow paths are inlined into each.
const EXPORTED: [&str; 4] = ["malloc", "calloc", "mallocx", "realloc"];
/// At least so many of them have to agree.
const MIN_AGREEING: usize = 2;

/// Exported functions that end in `large_dalloc`, by way of their slow paths.
const RELEASING: [&str; 3] = ["free", "dallocx", "sdallocx"];
/// MALLOCX_ARENA_LIMIT - 1 (jemalloc_internal_types.h): the bits of an extent that number its arena.
const ARENA_MASK: u32 = 0xfff;

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
    follower.with_code(range, |function| end_of_arguments(function, range))?
}

fn end_of_arguments(function: &Function<'_>, range: &Range<u64>) -> Option<u64> {
    let (last, arguments) = function.instructions().split_last()?;
    let aligned = arguments.iter().any(sets_alignment);
    let straight = arguments.iter().all(|i| i.flow_control() == FlowControl::Next);
    let jumps =
        last.flow_control() == FlowControl::UnconditionalBranch && !range.contains(&last.near_branch64());
    (aligned && straight && jumps).then(|| last.near_branch64())
}

/// `mov ecx, 64`: the fourth argument.
pub fn sets_alignment(instruction: &Instruction) -> bool {
    instruction.code() == Code::Mov_r32_imm32
        && instruction.op0_register() == Register::ECX
        && instruction.immediate32() == CACHE_LINE
}

/// The only function that the releasing ones share which begins with a look-up of its second argument's arena.
pub fn large_dalloc(follower: &Follower<'_>) -> Option<u64> {
    let begins_so = |address: &u64| {
        let range = follower.function(*address);
        range.and_then(|range| follower.with_code(&range, looks_up_arena)).unwrap_or_default()
    };
    let called = RELEASING
        .iter()
        .filter_map(|name| follower.callees_with_tails(&follower.exported(name)?))
        .map(|callees| callees.into_keys().filter(begins_so).collect::<BTreeSet<u64>>());
    let called: Vec<BTreeSet<u64>> = called.filter(|found| !found.is_empty()).collect();
    let only = *called.first()?.first()?;
    let agree = called.iter().all(|found| found.len() == 1 && found.contains(&only));
    (agree && called.len() >= MIN_AGREEING).then_some(only)
}

/// `arenas[edata->e_bits & 0xfff]` before anything else is called or decided, where the second argument is an
/// `edata_t *`: `mov r, [rsi]` and then `and r, 0xfff`.
pub fn looks_up_arena(function: &Function<'_>) -> bool {
    let mut bits = Register::None;
    for instruction in straight(function) {
        if let Some(register) = loads_bits(instruction) {
            bits = register;
        } else if bits != Register::None && masks_arena(instruction, bits) {
            return true;
        }
    }
    false
}

/// The instructions before a function's first branch.
pub fn straight<'f>(function: &'f Function<'_>) -> impl Iterator<Item = &'f Instruction> {
    function.instructions().iter().take_while(|i| i.flow_control() == FlowControl::Next)
}

/// The register that gets the first word of what the second argument points to.
pub fn loads_bits(instruction: &Instruction) -> Option<Register> {
    let loads = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_base() == Register::RSI
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0;
    loads.then(|| instruction.op0_register().full_register())
}

/// Whether what is left of `bits` is an arena's number.
pub fn masks_arena(instruction: &Instruction, bits: Register) -> bool {
    instruction.mnemonic() == Mnemonic::And
        && instruction.op1_kind() != OpKind::Memory
        && instruction.op0_register().full_register() == bits
        && instruction.try_immediate(1).is_ok_and(|mask| mask == u64::from(ARENA_MASK))
}
