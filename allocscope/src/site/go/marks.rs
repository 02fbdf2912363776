//! The code of a function of Go's runtime into the places where it tells what the runtime does.
//!
//! Each place is an instruction that the kernel emulates, and each runs exactly as often as what it stands for
//! happens: a place that cannot be shown to is refused.

use allocscope_common::site_id::{ResultPlace, Role, jump_argument};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::analysis::Analysis;
use super::{Code, Refusal};
use crate::site::Site;
use crate::site::classify::is_cheap_site;
use crate::site::decode::Function;
use crate::site::result::writes_register;

/// How far behind a place its first cheap instruction may be.
const MAX_STRAIGHT: usize = 24;
/// Bytes that a call takes from the stack.
const RETURN_ADDRESS_BYTES: i64 = 8;

/// A function whose places are looked for.
pub struct Marks<'a>(Analysis<'a>);

impl<'a> Marks<'a> {
    /// `throw` is the address of the function that ends the program: no way goes on behind its calls.
    ///
    /// # Errors
    /// Why the function is not understood.
    pub fn of(code: Code<'a>, throw: u64) -> Result<Self, Refusal> {
        let mut analysis = Analysis::of(code)?;
        let throws: Vec<_> = analysis.calls_of(throw).collect();
        analysis.flow.cut(|from, _| throws.contains(&from));
        Ok(Self(analysis))
    }

    /// Where the function begins, with `kept` registers still as they were: once a call.
    ///
    /// # Errors
    /// Where no cheap instruction comes straight behind the stack check.
    pub fn beginning(&self, role: Role, argument: u16, kept: &[Register]) -> Result<Site, Refusal> {
        let Self(code) = self;
        let index = self.straight_from(code.body(), kept).ok_or(Refusal::NoSuchPlace)?;
        Ok(code.site(index, role, ResultPlace::Unknown, 0, argument))
    }

    /// The same with the bytes from the stack pointer there to the one at the function's entry, and `above` more.
    ///
    /// # Errors
    /// As [`Self::beginning`].
    pub fn beginning_below(&self, role: Role, above: i64) -> Result<Site, Refusal> {
        let Self(code) = self;
        let index = self.straight_from(code.body(), &[]).ok_or(Refusal::NoSuchPlace)?;
        let frame_bytes =
            code.depth.at(index).and_then(|depth| u16::try_from(depth.checked_add(above)?).ok());
        let frame_bytes = frame_bytes.ok_or(Refusal::StackDepth)?;
        Ok(code.site(index, role, ResultPlace::Unknown, frame_bytes, 0))
    }

    /// The one call of `callee`, which may be in a loop, and the first cheap instruction behind it.
    ///
    /// # Errors
    /// Where it is not called at one place, or nothing cheap is behind.
    pub fn around_call(&self, callee: u64, roles: [Role; 2], argument: u16) -> Result<[Site; 2], Refusal> {
        let Self(code) = self;
        let call = self.single_call(callee)?;
        let behind = self.straight_from(call + 1, &[]).ok_or(Refusal::NothingBehindCall)?;
        let follows = code.flow.predecessors(call + 1).eq([call]);
        if !follows || !is_cheap_site(code.function.encoding(call)) {
            return Err(Refusal::NothingBehindCall);
        }
        let [begin, end] = roles;
        let site = |index, role| code.site(index, role, ResultPlace::Unknown, 0, argument);
        Ok([site(call, begin), site(behind, end)])
    }

    /// The one call of `callee`, outside of loops.
    ///
    /// # Errors
    /// Where it is not called at one place.
    pub fn call(&self, callee: u64, role: Role) -> Result<Site, Refusal> {
        let Self(code) = self;
        let call = self.single_call(callee)?;
        if code.flow.is_in_loop(call) || !is_cheap_site(code.function.encoding(call)) {
            return Err(Refusal::NoSingleCall);
        }
        Ok(code.site(call, role, ResultPlace::Unknown, 0, 0))
    }

    /// How far below the function's entry the stack pointer is behind its one call of `callee` with the return
    /// address: what the callee's entry is below its own.
    ///
    /// # Errors
    /// Where it is not called at one place.
    pub fn depth_of_call(&self, callee: u64) -> Result<i64, Refusal> {
        let call = self.single_call(callee)?;
        let depth = self.0.depth.at(call).and_then(|depth| depth.checked_add(RETURN_ADDRESS_BYTES));
        depth.ok_or(Refusal::StackDepth)
    }

    /// The last cheap instruction that every call of the function that returns runs, once.
    ///
    /// # Errors
    /// Where there is none.
    pub fn end(&self, role: Role, argument: u16) -> Result<Site, Refusal> {
        let Self(code) = self;
        let is_place = |&index: &usize| {
            is_cheap_site(code.function.encoding(index))
                && !code.flow.is_in_loop(index)
                && code.flow.dominates(index, code.flow.returns())
        };
        let runs_before =
            |&index: &usize| code.flow.reachable(0, Some(index)).iter().filter(|&&reached| reached).count();
        let found =
            (code.body()..code.function.instructions().len()).filter(is_place).max_by_key(runs_before);
        found
            .map(|index| code.site(index, role, ResultPlace::Unknown, 0, argument))
            .ok_or(Refusal::NoSuchPlace)
    }

    /// The jumps behind which none of `callees` can be called any more, and before which one could: each call of the
    /// function that returns goes over exactly one of them, in one direction. What it calls behind is not its work.
    ///
    /// # Errors
    /// Where one of them is no jump.
    pub fn last_of(&self, role: Role, callees: &[u64]) -> Result<Vec<Site>, Refusal> {
        let Self(code) = self;
        let calls: Vec<_> = callees.iter().flat_map(|&callee| code.calls_of(callee)).collect();
        if calls.is_empty() {
            return Err(Refusal::NoSuchPlace);
        }
        let busy = code.flow.reaching(&calls);
        let live = code.flow.reachable(0, None);
        let returning = code.flow.reaching(code.flow.returns());
        let is = |list: &[bool], index| list.get(index) == Some(&true);
        let mut sites = Vec::new();
        for from in (code.body()..busy.len()).filter(|&from| is(&busy, from) && is(&live, from)) {
            for &to in code.flow.successors(from).iter().filter(|&&to| !is(&busy, to) && is(&returning, to)) {
                let argument = jump_argument_of(&code.function, from, to).ok_or(Refusal::NoSuchPlace)?;
                sites.push(code.site(from, role, ResultPlace::Unknown, 0, argument));
            }
        }
        if sites.is_empty() { Err(Refusal::NoSuchPlace) } else { Ok(sites) }
    }

    /// The jump that decides on the function's one indirect call.
    ///
    /// # Errors
    /// Where there is no such call, or what decides on it is no jump.
    pub fn before_indirect_call(&self, role: Role) -> Result<Site, Refusal> {
        let Self(code) = self;
        let instructions = code.function.instructions().iter().enumerate();
        let mut calls = instructions.filter(|(_, i)| i.flow_control() == FlowControl::IndirectCall);
        let (Some((mut index, _)), None) = (calls.next(), calls.next()) else {
            return Err(Refusal::NoSuchPlace);
        };
        for _ in 0..MAX_STRAIGHT {
            let mut before = code.flow.predecessors(index);
            let (Some(from), None) = (before.next(), before.next()) else { break };
            if let Some(argument) = jump_argument_of(&code.function, from, index) {
                return Ok(code.site(from, role, ResultPlace::Unknown, 0, argument));
            }
            index = from;
        }
        Err(Refusal::NoSuchPlace)
    }

    /// The last jump to a loop's condition that compares with `limit`, which the instructions before have loaded from
    /// memory: it runs once a call, and `limit` holds how often the loop will run.
    ///
    /// # Errors
    /// Where there is none.
    pub fn before_last_loop(&self, role: Role, limit: Register) -> Result<Site, Refusal> {
        let Self(code) = self;
        let compares = |index: usize| {
            code.function
                .instructions()
                .get(index)
                .is_some_and(|i| i.mnemonic() == Mnemonic::Cmp && (0..2).any(|n| is_register(i, n, limit)))
        };
        let is_jump = |&index: &usize| {
            let jump = code.function.instructions().get(index);
            jump.is_some_and(|i| i.flow_control() == FlowControl::UnconditionalBranch)
                && code.flow.successors(index).iter().all(|&to| compares(to) && code.flow.is_in_loop(to))
                && !code.flow.is_in_loop(index)
                && code.flow.dominates(index, code.flow.returns())
        };
        let found = (code.body()..code.function.instructions().len()).rev().find(is_jump);
        let index = found.filter(|&index| self.is_loaded_before(index, limit)).ok_or(Refusal::NoSuchPlace)?;
        Ok(code.site(index, role, ResultPlace::Unknown, 0, 0))
    }

    /// Whether the last write to `register` straight before `index` is a load from memory.
    fn is_loaded_before(&self, index: usize, register: Register) -> bool {
        let before = self.0.function.instructions().get(..index).unwrap_or_default();
        let last =
            before.iter().rev().take(MAX_STRAIGHT).take_while(|i| i.flow_control() == FlowControl::Next);
        let mut writes = last.filter(|i| writes_register(i, register));
        writes.next().is_some_and(|i| i.mnemonic() == Mnemonic::Mov && i.op1_kind() == OpKind::Memory)
    }

    fn single_call(&self, callee: u64) -> Result<usize, Refusal> {
        let mut calls = self.0.calls_of(callee);
        match (calls.next(), calls.next()) {
            (Some(call), None) => Ok(call),
            _ => Err(Refusal::NoSingleCall),
        }
    }

    /// The first cheap instruction from `start` on that runs whenever `start` does and never else, with `kept`
    /// registers unchanged.
    fn straight_from(&self, start: usize, kept: &[Register]) -> Option<usize> {
        let Self(code) = self;
        for index in start..=start + MAX_STRAIGHT {
            if index > start && code.flow.predecessors(index).ne([index - 1]) {
                return None;
            }
            if is_cheap_site(code.function.encoding(index)) {
                return Some(index);
            }
            let instruction = code.function.instructions().get(index)?;
            let is_straight = instruction.flow_control() == FlowControl::Next;
            if !is_straight || kept.iter().any(|&register| writes_register(instruction, register)) {
                return None;
            }
        }
        None
    }
}

/// How the conditional jump at `from` tells that control goes to `to`.
fn jump_argument_of(function: &Function<'_>, from: usize, to: usize) -> Option<u16> {
    let jump = function.instructions().get(from)?;
    let encoding = function.encoding(from);
    let code = match *encoding {
        [short @ 0x70..=0x7f, _] => short,
        [0x0f, near @ 0x80..=0x8f, _, _, _, _] => near,
        _ => return None,
    };
    let target = function.index_of(jump.near_branch64())?;
    // Where both ways are the same one it tells nothing.
    (target != from + 1).then(|| jump_argument(code & 0xf, target == to))
}

fn is_register(instruction: &Instruction, operand: u32, register: Register) -> bool {
    instruction.op_count() > operand
        && instruction.op_kind(operand) == OpKind::Register
        && instruction.op_register(operand) == register
}
