//! A function into the places behind its calls, in all of its callers: where its returns are seen without return
//! probes.
//!
//! Behind a call the stack pointer is as the return left it and the result is still in its register, for as long
//! as nothing writes it. A function that ends in a jump to the probed one hands its own return address on, so its
//! callers count as well. Calls through pointers are not found; a call that came that way never ends, and is
//! counted as such.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{FlowControl, OpKind, Register};

use super::super::elf::Machine;
use super::follow::Follower;
use crate::site::Exit;
use crate::site::classify::{is_cheap_site, step_class};
use crate::site::decode::Function;
use crate::site::flow::depth_change;
use crate::site::result::writes_register;

/// More code than this is not searched: an allocator's library has some hundred kilobytes, the C library 1.5 MiB.
const MAX_CODE_BYTES: u64 = 32 << 20;
/// Real ones have some ten.
const MAX_EXITS: usize = 512;
/// Functions that end in a jump to the probed one, or to one of these.
const MAX_TAILS: usize = 16;
/// How far behind a call its exit may lie.
const MAX_BEHIND: usize = 6;

/// The exits of the function at `target`; `None` where its callers cannot be searched, or are too many.
pub fn find(follower: &Follower<'_>, target: u64) -> Option<Vec<Exit>> {
    let code: Vec<Range<u64>> = follower.image.executable_ranges().collect();
    let bytes =
        code.iter().fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
    let is_searched = follower.image.machine() == Machine::X86_64 && bytes <= MAX_CODE_BYTES;
    is_searched.then(|| Search { follower, code }.exits(target))?
}

struct Search<'a> {
    follower: &'a Follower<'a>,
    code: Vec<Range<u64>>,
}

impl Search<'_> {
    fn exits(&self, target: u64) -> Option<Vec<Exit>> {
        let (mut work, mut seen, mut exits) = (vec![target], BTreeSet::from([target]), Vec::new());
        while let Some(target) = work.pop() {
            for function in self.branching_to(target)? {
                let (found, is_tail) = self.in_function(function, target)?;
                exits.extend(found);
                if is_tail && seen.insert(function) {
                    work.push(function);
                }
            }
            if exits.len() > MAX_EXITS || seen.len() > MAX_TAILS {
                return None;
            }
        }
        Some(exits)
    }

    fn branching_to(&self, target: u64) -> Option<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for range in &self.code {
            found.append(&mut self.follower.branching_to(target, range)?);
        }
        Some(found)
    }

    /// The exits in one function, and whether it ends in a jump to `target`.
    fn in_function(&self, function: u64, target: u64) -> Option<(Vec<Exit>, bool)> {
        let range = self.follower.function(function)?;
        self.follower.with_code(&range, |code| {
            let mut exits = Vec::new();
            let mut is_tail = false;
            for (index, instruction) in code.instructions().iter().enumerate() {
                let leads_there = matches!(instruction.op0_kind(), OpKind::NearBranch64)
                    && instruction.near_branch64() == target;
                match instruction.flow_control() {
                    FlowControl::Call if leads_there => exits.push(self.behind(code, index)?),
                    FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch if leads_there => {
                        is_tail = true;
                    }
                    _ => {}
                }
            }
            Some((exits, is_tail))
        })?
    }

    /// The first cheap instruction behind a call while its result and the stack pointer are as it left them; else
    /// the very next one, at the price of a step.
    fn behind(&self, code: &Function<'_>, call: usize) -> Option<Exit> {
        let cheap = (call + 1..code.instructions().len())
            .take(MAX_BEHIND)
            .take_while(|&index| index == call + 1 || leaves_result(code, index - 1))
            .find(|&index| is_cheap_site(code.encoding(index)));
        let index = cheap.unwrap_or(call + 1);
        let address = code.instructions().get(index)?.ip();
        let file_offset = self.follower.image.file_offset_of(address)?;
        Some(Exit { file_offset, step: step_class(code.encoding(index)) })
    }
}

/// Whether the next instruction runs after this one, with the same result register and stack pointer.
fn leaves_result(code: &Function<'_>, index: usize) -> bool {
    let Some(instruction) = code.instructions().get(index) else { return false };
    instruction.flow_control() == FlowControl::Next
        && depth_change(instruction) == Some(0)
        && !instruction.is_stack_instruction()
        && !writes_register(instruction, Register::RAX)
}
