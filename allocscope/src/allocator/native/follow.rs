//! An exported function into the functions that its code calls or jumps to.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, OpKind};

use super::super::elf::Image;
use super::super::frames::Frames;
use super::linked;
use crate::site::decode::Function;

/// Follows direct calls and tail jumps through an image.
pub struct Follower<'a> {
    pub image: &'a Image<'a>,
    pub frames: Frames,
    /// jemalloc's, once it was looked for: that goes through all of the code.
    pub jemalloc: OnceCell<Option<linked::jemalloc::Large>>,
}

/// How a function is reached, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Call instructions.
    pub calls: usize,
    /// Jumps out of the caller.
    pub jumps: usize,
}

/// Functions by address.
pub type Callees = BTreeMap<u64, Reached>;

impl<'a> Follower<'a> {
    /// `None` where the bounds of functions are not known.
    pub fn new(image: &'a Image<'a>) -> Option<Self> {
        Some(Self { image, frames: Frames::find(image)?, jemalloc: OnceCell::new() })
    }
}

impl Follower<'_> {
    /// The bounds of an exported function.
    pub fn exported(&self, name: &str) -> Option<Range<u64>> {
        self.frames.function_from(self.image.function_named(name)?.start)
    }

    /// The bounds of the function that starts at `address`.
    pub fn function(&self, address: u64) -> Option<Range<u64>> {
        self.frames.function_from(address)
    }

    /// Looks at the decoded code of a function.
    pub fn with_code<T>(&self, range: &Range<u64>, look: impl FnOnce(&Function<'_>) -> T) -> Option<T> {
        let code = self.image.code(range.start, range.end.checked_sub(range.start)?)?;
        Function::decode(&code, range.start).ok().map(|function| look(&function))
    }

    /// The functions that the one in `range` calls or jumps to: those whose first instruction is reached.
    pub fn callees(&self, range: &Range<u64>) -> Option<Callees> {
        let mut found = self.with_code(range, |function| leaving(function, range))?;
        found.retain(|&target, _| self.function(target).is_some());
        Some(found)
    }

    /// The callees of a function and of those that it ends in (its slow path, split off).
    pub fn callees_with_tails(&self, range: &Range<u64>) -> Option<Callees> {
        let mut found = self.callees(range)?;
        let tails: Vec<u64> =
            found.iter().filter(|(_, reached)| reached.jumps > 0).map(|(&address, _)| address).collect();
        for tail in tails {
            let of_tail = self.function(tail).and_then(|range| self.callees(&range));
            for (target, reached) in of_tail.unwrap_or_default() {
                let known = found.entry(target).or_default();
                known.calls += reached.calls;
                known.jumps += reached.jumps;
            }
        }
        Some(found)
    }
}

fn leaving(function: &Function<'_>, range: &Range<u64>) -> Callees {
    let mut found = Callees::new();
    for instruction in function.instructions() {
        let Some(target) = target_outside(instruction, range) else { continue };
        let reached = found.entry(target).or_default();
        match instruction.flow_control() {
            FlowControl::Call => reached.calls += 1,
            _ => reached.jumps += 1,
        }
    }
    found
}

/// Where a direct call or jump leads, if out of `range`.
fn target_outside(instruction: &Instruction, range: &Range<u64>) -> Option<u64> {
    let leaves = matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
    );
    let near = matches!(instruction.op0_kind(), OpKind::NearBranch64);
    let target = instruction.near_branch64();
    (leaves && near && !range.contains(&target)).then_some(target)
}
