//! jemalloc's `large_palloc` and `large_dalloc`, by a constant that all of its code asks about.
//!
//! No size class is larger than 7 * 2^60, and every way to an allocation compares with that. Of the functions that
//! do, several call one that is nothing but `return large_palloc(tsdn, arena, usize, CACHELINE, zero)`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::super::follow::Follower;
use super::super::jemalloc::{loads_bits, looks_up_arena, masks_arena, sets_alignment, straight};
use super::{MAX_GAP_BYTES, around, only};
use crate::site::decode::Function;

/// SC_LARGE_MAXCLASS (sc.h): the same in every build for 64 bits since jemalloc 4. As the last 8 bytes of an
/// instruction, and the same reckoned from 0.
const LARGEST: [[u8; 8]; 2] =
    [0x7000_0000_0000_0000_u64.to_le_bytes(), 0x6fff_ffff_ffff_ffff_u64.to_le_bytes()];
/// Functions that hold it: 38 to 45 in builds of jemalloc 5.3 by -O2 and -O3, 5 by -Os, which shifts 7 instead.
const MIN_HOLDERS: usize = 4;
/// With a gap on both sides: all of jemalloc's code has 200 to 400 KiB.
const MAX_CODE_BYTES: u64 = 2 << 20;
/// `large_malloc` is 3 instructions, or 6 where a call is not made a jump (-O1). That of a debug build, which asserts
/// a lot, is not recognised.
const MAX_WRAPPER_BYTES: u64 = 48;
/// `arena_get_from_edata` where it is not inlined: 4 instructions.
const MAX_GETTER_BYTES: u64 = 32;
/// `mov ecx, CACHELINE`.
const SETS_ALIGNMENT: [u8; 5] = [0xb9, 64, 0, 0, 0];
/// At least so many functions have to call the wrapper: malloc, calloc, mallocx, realloc and others do.
const MIN_CALLERS: usize = 4;
/// And so many of them hold the constant.
const MIN_HOLDING: usize = 2;
/// At least so many functions have to call both ends: realloc, arena_ralloc and large_ralloc do.
const MIN_BOTH: usize = 2;

/// What was recognised.
pub struct Large {
    palloc: u64,
    /// The functions that call it, or the wrapper before it.
    callers: BTreeSet<u64>,
}

/// Where large objects come from.
pub fn large_palloc(follower: &Follower<'_>) -> Option<u64> {
    Some(recognised(follower)?.palloc)
}

/// Where they are given back: of the functions that several callers of the other end call, the only one that begins
/// with a look-up of its second argument's arena.
pub fn large_dalloc(follower: &Follower<'_>) -> Option<u64> {
    let mut callers_of = BTreeMap::<u64, usize>::new();
    for caller in &recognised(follower)?.callers {
        let callees = follower.function(*caller).and_then(|range| follower.callees(&range));
        callees
            .unwrap_or_default()
            .into_keys()
            .for_each(|callee| *callers_of.entry(callee).or_default() += 1);
    }
    let shared = callers_of.into_iter().filter(|&(_, callers)| callers >= MIN_BOTH).map(|(callee, _)| callee);
    only(shared.filter(|&callee| begins_with_arena(follower, callee)))
}

/// Whether a function begins with a look-up of its second argument's arena, or asks another one for that (-Os).
fn begins_with_arena(follower: &Follower<'_>, address: u64) -> bool {
    let begins = |function: &Function<'_>| {
        looks_up_arena(function) || arena_getter(function).is_some_and(|getter| gets_arena(follower, getter))
    };
    follower.function(address).and_then(|range| follower.with_code(&range, begins)).unwrap_or_default()
}

/// What a function calls first, with the bits of its second argument.
fn arena_getter(function: &Function<'_>) -> Option<u64> {
    let call = function.instructions().get(straight(function).count())?;
    let mut loads = straight(function).filter_map(loads_bits);
    let passes_bits = call.is_call_near() && loads.any(|register| register == Register::RDI);
    passes_bits.then(|| call.near_branch64())
}

fn gets_arena(follower: &Follower<'_>, address: u64) -> bool {
    let masks = |function: &Function<'_>| straight(function).any(|i| masks_arena(i, Register::RDI));
    let short = follower.function(address).filter(|range| range.end - range.start <= MAX_GETTER_BYTES);
    short.and_then(|range| follower.with_code(&range, masks)).unwrap_or_default()
}

fn recognised<'f>(follower: &'f Follower<'_>) -> Option<&'f Large> {
    follower.jemalloc.get_or_init(|| recognise(follower)).as_ref()
}

fn recognise(follower: &Follower<'_>) -> Option<Large> {
    let (holders, code) = holders(follower)?;
    let mut places = Vec::new();
    follower.places_in(&code, &[&SETS_ALIGNMENT], &mut places)?;
    let ends = follower.functions_of(&places).into_iter().filter_map(|wrapper| {
        let end = end_of_wrapper(follower, &follower.function(wrapper)?)?;
        let callers = follower.branching_to(wrapper, &code)?;
        let agree = callers.len() >= MIN_CALLERS && callers.intersection(&holders).count() >= MIN_HOLDING;
        (agree && holders.contains(&end)).then_some((wrapper, end))
    });
    let (wrapper, palloc) = only(ends)?;
    let mut callers = follower.branching_to(wrapper, &code)?;
    callers.extend(follower.branching_to(palloc, &code)?);
    Some(Large { palloc, callers })
}

/// The functions that hold the constant, and the code that they are in.
fn holders(follower: &Follower<'_>) -> Option<(BTreeSet<u64>, Range<u64>)> {
    let patterns = LARGEST.each_ref().map(<[u8; 8]>::as_slice);
    let places = follower.places(&patterns)?;
    let groups = places.chunk_by(|&one, &next| next - one <= MAX_GAP_BYTES);
    let of_groups = groups.map(|group| follower.functions_of(group)).filter(|of| of.len() >= MIN_HOLDERS);
    let holders = only(of_groups)?;
    let code = around(follower, *holders.first()?, *holders.last()?)?;
    (code.end.saturating_sub(code.start) <= MAX_CODE_BYTES).then_some((holders, code))
}

/// Where a function leads that sets arguments, the alignment among them, and calls or ends in another one.
fn end_of_wrapper(follower: &Follower<'_>, range: &Range<u64>) -> Option<u64> {
    if range.end.saturating_sub(range.start) > MAX_WRAPPER_BYTES {
        return None;
    }
    follower.with_code(range, |function| end_of_only_branch(function, range))?
}

/// `movzx r8d, cl`: what is to be zero is the fourth argument here, and the fifth there.
fn passes_zero(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Movzx)
        && instruction.op0_register().full_register() == Register::R8
        && instruction.op1_register().full_register() == Register::RCX
}

fn end_of_only_branch(function: &Function<'_>, range: &Range<u64>) -> Option<u64> {
    let instructions = function.instructions();
    let branches = |i: &Instruction| !matches!(i.flow_control(), FlowControl::Next | FlowControl::Return);
    let branch = only(instructions.iter().enumerate().filter(|(_, i)| branches(i)))?;
    let leaves = matches!(branch.1.flow_control(), FlowControl::Call | FlowControl::UnconditionalBranch)
        && matches!(branch.1.op0_kind(), OpKind::NearBranch64)
        && !range.contains(&branch.1.near_branch64());
    let mut arguments = instructions.iter().take(branch.0).skip_while(|i| !passes_zero(i));
    (leaves && arguments.any(sets_alignment)).then(|| branch.1.near_branch64())
}
