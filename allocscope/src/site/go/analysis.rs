//! The code of a Go function into the places in it that a probe can stand at.

use allocscope_common::site_id::{ResultPlace, Role, SiteId};
use iced_x86::{FlowControl, OpKind, Register};

use super::stack_check::{StackCheck, settle_depths};
use super::{Code, Mark, Refusal};
use crate::site::Site;
use crate::site::classify::{is_cheap_site, step_class};
use crate::site::decode::Function;
use crate::site::flow::{Flow, StackDepth};
use crate::site::result::{Place, place_at, writes_register};

/// Candidates looked at, from the latest: bounds the work on hostile code.
const MAX_CANDIDATES: usize = 16;
/// How far behind a call its exit may be: what comes between would count as the call's time.
const MAX_BEHIND_CALL: usize = 16;

/// A function whose ways and stack depths are known.
pub(super) struct Analysis<'a> {
    code: Code<'a>,
    pub(super) function: Function<'a>,
    pub(super) flow: Flow,
    pub(super) check: StackCheck,
    pub(super) depth: StackDepth,
}

impl<'a> Analysis<'a> {
    pub(super) fn of(code: Code<'a>) -> Result<Self, Refusal> {
        let function = Function::decode(code.bytes, code.start).map_err(Refusal::Decode)?;
        let mut flow = Flow::build(&function).map_err(Refusal::Flow)?;
        let check = StackCheck::find(&function, &flow).ok_or(Refusal::NoStackCheck)?;
        let depth = settle_depths(&function, &mut flow, &check)?;
        if flow.is_in_loop(check.body) {
            return Err(Refusal::EntryInLoop);
        }
        Ok(Self { code, function, flow, check, depth })
    }

    /// The first instruction behind the stack check.
    pub(super) fn body(&self) -> usize {
        self.check.body
    }

    pub(super) fn returns(&self) -> Vec<Site> {
        self.flow
            .returns()
            .iter()
            .map(|&index| self.site(index, Role::Exit, ResultPlace::Register, 0, 0))
            .collect()
    }

    /// The one call of the function at `callee`, if it runs at most once.
    pub(super) fn only_call_of(&self, callee: u64) -> Option<usize> {
        let mut calls = self.calls_of(callee);
        let call = calls.next()?;
        let is_cheap = is_cheap_site(self.function.encoding(call));
        (calls.next().is_none() && is_cheap && !self.flow.is_in_loop(call)).then_some(call)
    }

    /// The calls of the function at `callee`.
    pub(super) fn calls_of(&self, callee: u64) -> impl Iterator<Item = usize> {
        let instructions = self.function.instructions().iter().enumerate();
        let calls = instructions.filter(move |(_, instruction)| {
            instruction.flow_control() == FlowControl::Call
                && instruction.op0_kind() == OpKind::NearBranch64
                && instruction.near_branch64() == callee
        });
        calls.map(|(index, _)| index)
    }

    pub(super) fn mark(&self, mark: &Mark) -> Option<Site> {
        let call = self.only_call_of(mark.callee)?;
        let frame_bytes = u16::try_from(self.depth.at(call)?).ok()?;
        Some(self.site(call, mark.role, ResultPlace::Unknown, frame_bytes, 0))
    }

    /// The first cheap instruction that runs behind a call and never else, with the result still in rax.
    pub(super) fn behind_call(&self, call: usize) -> Option<usize> {
        for index in call + 1..=call + MAX_BEHIND_CALL {
            if self.flow.predecessors(index).ne([index - 1]) || self.depth.at(index) != self.depth.at(call) {
                return None;
            }
            if is_cheap_site(self.function.encoding(index)) && !self.is_call(index) {
                return Some(index);
            }
            let instruction = self.function.instructions().get(index)?;
            let goes_on = instruction.flow_control() == FlowControl::Next;
            if !goes_on || writes_register(instruction, Register::RAX) {
                return None;
            }
        }
        None
    }

    /// The latest cheap instruction that runs exactly once in every call that returns, behind which
    /// nothing is called, and at which the result is already where a probe can read it.
    pub(super) fn cheap_exit(&self) -> Option<Site> {
        let leads_to_return = self.flow.reaching(self.flow.returns());
        let mut candidates: Vec<_> = (self.check.body..self.function.instructions().len())
            .filter(|&index| is_cheap_site(self.function.encoding(index)) && !self.is_call(index))
            .filter(|&index| self.flow.dominates(index, self.flow.returns()) && !self.flow.is_in_loop(index))
            .filter_map(|index| Some((self.instructions_behind(index, &leads_to_return)?, index)))
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().take(MAX_CANDIDATES).find_map(|(_, index)| {
            self.runs_straight(index, &leads_to_return).then(|| self.exit_at(index))?
        })
    }

    fn exit_at(&self, index: usize) -> Option<Site> {
        let frame_bytes = self.depth.at(index)?;
        let (place, offset) = match place_at(&self.function, &self.flow, &self.depth, index)? {
            Place::Register(Register::RAX) => (ResultPlace::Register, 0),
            Place::Register(_) => return None,
            Place::Slot(slot) => (ResultPlace::Stack, u16::try_from(slot.checked_add(frame_bytes)?).ok()?),
        };
        Some(self.site(index, Role::Exit, place, u16::try_from(frame_bytes).ok()?, offset))
    }

    /// How many instructions can run behind `index`; `None` if one of them leads to a return and is
    /// a call or part of a loop, whose time would be left out.
    fn instructions_behind(&self, index: usize, leads_to_return: &[bool]) -> Option<usize> {
        let after = self.flow.reachable(index, None);
        let behind: Vec<_> = (0..after.len()).filter(|&later| after.get(later) == Some(&true)).collect();
        let counts = |&later: &usize| leads_to_return.get(later) == Some(&true) && self.is_call(later);
        (!behind.iter().any(counts)).then_some(behind.len())
    }

    /// Whether no loop lies between `index` and a return.
    fn runs_straight(&self, index: usize, leads_to_return: &[bool]) -> bool {
        let after = self.flow.reachable(index, None);
        (0..after.len())
            .filter(|&later| after.get(later) == Some(&true) && leads_to_return.get(later) == Some(&true))
            .all(|later| !self.flow.is_in_loop(later))
    }

    fn is_call(&self, index: usize) -> bool {
        self.function.instructions().get(index).is_some_and(|instruction| {
            matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        })
    }

    pub(super) fn site(
        &self,
        index: usize,
        role: Role,
        result: ResultPlace,
        frame_bytes: u16,
        result_offset: u16,
    ) -> Site {
        let function_offset = self.function.offset(index).unwrap_or_default();
        let step = step_class(self.function.encoding(index));
        Site {
            id: SiteId {
                function: self.code.id,
                role,
                step,
                result,
                frame_bytes,
                result_offset,
                goid_offset: 0,
            },
            function: self.code.symbol.to_owned(),
            function_offset,
            file_offset: self.code.file_offset.saturating_add(function_offset),
            instruction: self.function.text(index),
        }
    }
}
