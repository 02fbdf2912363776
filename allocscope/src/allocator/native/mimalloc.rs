//! mimalloc's code into the places that only its larger objects pass.
//!
//! Objects of more than 1 KiB come from `_mi_malloc_generic`, and so do smaller ones whenever their page's free
//! list is empty, which with few objects alive is each time. Exported functions branch on the size first, and
//! end in one jump to it for larger objects and in another one for an empty list. At the former the stack is as
//! at a function's entry: it is one, with its arguments in their registers.

use std::collections::BTreeMap;

use allocscope_common::site_id::StepClass;
use iced_x86::{Code, FlowControl, Instruction, OpKind};

use super::follow::Follower;
use super::{Binary, Depth, LargePath, call_site_at, locate, plan_one};
use crate::allocator::detect::Allocator;
use crate::allocator::elf::Machine;
use crate::site::classify::{is_cheap_site, step_class};
use crate::site::decode::Function;
use crate::site::flow::depth_change;
use crate::site::{CallSite, Miss, Plan, SmallCalls};

/// It is far longer than the thunks between exported functions.
const MIN_CODE_BYTES: u64 = 128;
/// Functions with a branch of their own for larger objects, by what programs call first.
const BRANCHING: [&str; 10] = [
    "malloc",
    "mi_malloc",
    "calloc",
    "mi_calloc",
    "mi_zalloc",
    "mi_heap_malloc",
    "mi_heap_zalloc",
    "mi_heap_calloc",
    "mi_mallocn",
    "mi_heap_mallocn",
];
/// MI_SMALL_SIZE_MAX (types.h): 128 words.
const SMALL_BYTES: u64 = 1024;
/// Instructions up to the branch, and from there to the jump.
const MAX_STRAIGHT: usize = 12;

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

/// The jumps of larger objects, or with [`Depth::Filtered`] the function that all of them lead to.
pub(super) fn plan(binary: &Binary<'_>, path: &LargePath, depth: Depth) -> Plan {
    if matches!(depth, Depth::Filtered { .. }) {
        let mut plan = plan_one(binary, Allocator::Mimalloc, path);
        // With few objects alive, each small one passes it.
        plan.calls.iter_mut().for_each(|call| call.small = SmallCalls::Always);
        return plan;
    }
    let calls = large_calls(binary, path).unwrap_or_default();
    let unseen = |reason, what| {
        let detail = format!("mimalloc's {what}: --allow-small-cost probes what small objects pass as well");
        Miss { reason, detail }
    };
    if calls.is_empty() && binary.image.machine() != Machine::X86_64 {
        let what = "way of large objects is followed in the code of x86-64 only";
        return Plan::missed(unseen("allocator_path_not_found", what));
    }
    if calls.is_empty() {
        let what =
            "large objects take no way of their own in this binary, only mmap and page faults are seen";
        return Plan::missed(unseen("allocator_path_not_found", what));
    }
    let what = "calloc, realloc, aligned functions and operator new are not seen";
    Plan { calls, misses: vec![unseen("functions_not_seen", what)], ..Plan::default() }
}

fn large_calls(binary: &Binary<'_>, path: &LargePath) -> Option<Vec<CallSite>> {
    if binary.image.machine() != Machine::X86_64 {
        return None;
    }
    let (generic, found_by) = locate(binary, path)?;
    let follower = binary.follower()?;
    let mut found = BTreeMap::new();
    for name in BRANCHING {
        let Some(range) = follower.exported(name) else { continue };
        let site = follower.with_code(&range, |function| large_jump(function, generic.start)).flatten();
        let Some((offset, step, instruction)) = site else { continue };
        let address = range.start.saturating_add(offset);
        let file_offset = binary.image.file_offset_of(address)?;
        let call = call_site_at(path, name, found_by, (offset, file_offset), step, instruction);
        // Two names of one function are one.
        found.entry(address).or_insert(CallSite { small: SmallCalls::Never, ..call });
    }
    Some(found.into_values().collect())
}

/// The jump to `generic` that only sizes above a limit reach: behind a first straight line that ends in
/// `cmp size, limit; ja`, and nothing else leads there.
fn large_jump(function: &Function<'_>, generic: u64) -> Option<(u64, StepClass, String)> {
    let instructions = function.instructions();
    let branch = straight_line(instructions, 0)?;
    let compares = instructions.get(branch.checked_sub(1)?)?;
    let is_limit = matches!(compares.code(), Code::Cmp_rm64_imm32 | Code::Cmp_RAX_imm32)
        && compares.op0_kind() == OpKind::Register
        && compares.immediate(1) >= SMALL_BYTES;
    let jump = instructions.get(branch)?;
    if !is_limit || !matches!(jump.code(), Code::Ja_rel8_64 | Code::Ja_rel32_64) {
        return None;
    }
    let first = function.index_of(jump.near_branch64())?;
    let last = straight_line(instructions, first)?;
    let leaves = instructions.get(last)?;
    let leads_to_generic =
        leaves.flow_control() == FlowControl::UnconditionalBranch && leaves.near_branch64() == generic;
    let encoding = function.encoding(last);
    let ok = leads_to_generic && is_cheap_site(encoding) && is_entered_once(instructions, first, last);
    ok.then(|| Some((function.offset(last)?, step_class(encoding), function.text(last))))?
}

/// The end of the straight line from `from` on, along which the stack pointer stays: its first branch.
fn straight_line(instructions: &[Instruction], from: usize) -> Option<usize> {
    for (index, instruction) in instructions.iter().enumerate().skip(from).take(MAX_STRAIGHT) {
        match instruction.flow_control() {
            FlowControl::Next
                if depth_change(instruction) == Some(0) && !instruction.is_stack_instruction() => {}
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => return Some(index),
            _ => return None,
        }
    }
    None
}

/// Whether one branch leads to `first`, none behind it up to `last`, and no code runs into it from above.
fn is_entered_once(instructions: &[Instruction], first: usize, last: usize) -> bool {
    let (Some(start), Some(end)) = (instructions.get(first), instructions.get(last)) else { return false };
    let inside = start.ip()..=end.ip();
    let entries = instructions
        .iter()
        .filter(|i| matches!(i.op0_kind(), OpKind::NearBranch64) && inside.contains(&i.near_branch64()))
        .count();
    let runs_in = first.checked_sub(1).and_then(|before| instructions.get(before)).is_some_and(|before| {
        matches!(
            before.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Call
        )
    });
    // Padding in front is never run: it lies behind a return.
    let padded = instructions.get(..first).is_some_and(|above| {
        let mut above = above.iter().rev().skip_while(|i| i.mnemonic() == iced_x86::Mnemonic::Nop);
        above.next().is_some_and(|i| {
            matches!(i.flow_control(), FlowControl::Return | FlowControl::UnconditionalBranch)
        })
    });
    entries == 1 && (!runs_in || padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1000;

    /// `mov rsi,rdi; cmp rsi,0x400; ja large; ret; <gap>; large: xor ecx,ecx; jmp +0x20`
    fn code(gap: &[u8]) -> Vec<u8> {
        let mut code = vec![0x48, 0x89, 0xfe, 0x48, 0x81, 0xfe, 0, 4, 0, 0, 0x77, 1 + gap.len() as u8, 0xc3];
        code.extend(gap);
        code.extend([0x31, 0xc9, 0xe9, 0x20, 0, 0, 0]);
        code
    }

    fn jump(code: &[u8]) -> Option<u64> {
        let generic = START + code.len() as u64 + 0x20;
        large_jump(&Function::decode(code, START).unwrap(), generic).map(|(offset, ..)| offset)
    }

    #[test]
    fn a_jump_of_larger_objects_is_found() {
        let plain = code(&[]);
        assert_eq!(jump(&plain), Some(plain.len() as u64 - 5));
        let padded = code(&[0x90, 0x90]);
        assert_eq!(jump(&padded), Some(padded.len() as u64 - 5));
    }

    #[test]
    fn a_jump_that_smaller_objects_take_too_is_not() {
        // jmp to the `xor`, or to the `jmp`
        assert_eq!(jump(&code(&[0xeb, 0x00])), None);
        assert_eq!(jump(&code(&[0xeb, 0x02])), None);
        // test eax,eax runs into it
        assert_eq!(jump(&code(&[0x85, 0xc0])), None);
    }

    #[test]
    fn a_jump_elsewhere_or_without_a_limit_is_not() {
        let mut elsewhere = code(&[]);
        let at = elsewhere.len() - 4;
        elsewhere[at] = 0x30;
        assert_eq!(jump(&elsewhere), None);
        let mut low = code(&[]);
        low[7] = 0;
        assert_eq!(jump(&low), None);
    }
}
