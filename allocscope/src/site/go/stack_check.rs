//! The beginning of a Go function into its stack check, and what that leaves of its ways.

use iced_x86::{FlowControl, Mnemonic, OpKind, Register};

use super::Refusal;
use crate::site::decode::Function;
use crate::site::flow::{Flow, StackDepth, is_stack_slot};

/// `runtime.g.stackguard0` and `stackguard1`, which the stack checks of goroutines and of functions for a thread's own
/// stack compare with: the same in all known versions.
const STACK_GUARD_OFFSETS: [u64; 2] = [0x10, 0x18];
/// The check is among the first instructions: `lea r12, [rsp-n]; cmp r12, [r14+16]; jbe`.
const MAX_CHECK_INSTRUCTIONS: usize = 6;
/// What `morestack` needs around it: spills of up to 9 integer and 15 floating point arguments,
/// twice, the call, the jump back, and alignment nops.
const MAX_RETRY_INSTRUCTIONS: usize = 64;

/// The prologue `cmp rsp, [r14+16]; jbe retry` and the code that grows the stack and starts over.
pub(super) struct StackCheck {
    branch: usize,
    pub(super) body: usize,
    retry: Vec<bool>,
}

impl StackCheck {
    pub(super) fn find(function: &Function<'_>, flow: &Flow) -> Option<Self> {
        let instructions = function.instructions();
        let branch =
            instructions.iter().take(MAX_CHECK_INSTRUCTIONS).position(|i| i.mnemonic() == Mnemonic::Jbe)?;
        let compare = instructions.get(branch.checked_sub(1)?)?;
        let reads_guard = compare.mnemonic() == Mnemonic::Cmp
            && compare.op0_kind() == OpKind::Register
            && compare.op1_kind() == OpKind::Memory
            && compare.memory_base() == Register::R14
            && compare.memory_index() == Register::None
            && STACK_GUARD_OFFSETS.contains(&compare.memory_displacement64());
        let compares_stack = compare.op0_register() == Register::RSP
            || (compare.op0_register() == Register::R12 && loads_stack_limit(function, branch));
        let target = function.index_of(instructions.get(branch)?.near_branch64())?;
        let retry = retry_region(function, flow, target)?;
        (reads_guard && compares_stack).then_some(Self { branch, body: branch + 1, retry })
    }
}

/// Whether what comes before the comparison is `lea r12, [rsp-n]` alone.
fn loads_stack_limit(function: &Function<'_>, branch: usize) -> bool {
    let first = function.instructions().first();
    branch == 2
        && first.is_some_and(|i| {
            i.mnemonic() == Mnemonic::Lea && i.op0_register() == Register::R12 && is_stack_slot(i)
        })
}

/// The straight line from `target` over one call (`morestack`) to the jump back to the start.
fn retry_region(function: &Function<'_>, flow: &Flow, target: usize) -> Option<Vec<bool>> {
    let mut region = vec![false; function.instructions().len()];
    let mut calls = 0;
    let mut index = target;
    for _ in 0..MAX_RETRY_INSTRUCTIONS {
        *region.get_mut(index)? = true;
        match function.instructions().get(index)?.flow_control() {
            FlowControl::Next => index += 1,
            FlowControl::Call => {
                calls += 1;
                index += 1;
            }
            FlowControl::UnconditionalBranch => {
                return (calls == 1 && flow.successors(index) == [0]).then_some(region);
            }
            _ => return None,
        }
    }
    None
}

/// Computes stack depths, and removes the ways that a call which never returns seems to open into
/// the retry code. Without that every function would look like one big loop.
///
/// The retry code goes back to the start, where the frame must be gone, so a way into it on which
/// the frame is still there cannot be taken. A way without that excuse refuses the function.
pub(super) fn settle_depths(
    function: &Function<'_>,
    flow: &mut Flow,
    check: &StackCheck,
) -> Result<StackDepth, Refusal> {
    let in_retry = |index: usize| check.retry.get(index) == Some(&true);
    let is_stray = |from: usize, to: usize| in_retry(to) && !in_retry(from) && from != check.branch;
    let strays: Vec<_> = (0..function.instructions().len())
        .flat_map(|from| flow.successors(from).iter().map(move |&to| (from, to)))
        .filter(|&(from, to)| is_stray(from, to))
        .collect();
    flow.cut(is_stray);
    let depth = StackDepth::compute(function, flow).map_err(|_| Refusal::StackDepth)?;
    let may_be_taken = |&(from, to): &(usize, usize)| {
        depth.after(function, from).is_some_and(|after| depth.at(to).is_none_or(|expected| expected == after))
    };
    if strays.iter().any(may_be_taken) { Err(Refusal::EntryInLoop) } else { Ok(depth) }
}
