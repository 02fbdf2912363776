//! The code of Go functions into the probe sites of their calls: one entry, the cheapest exits that are
//! provably right, and marks between them.
//!
//! The entry is the first instruction behind the stack check, because the runtime runs a function
//! from its start again after growing the stack. The exit is never a return probe: Go moves stacks.

use std::fmt;

use allocscope_common::site_id::{Function as FunctionId, ResultPlace, Role, SiteId};
use iced_x86::{FlowControl, Mnemonic, OpKind, Register};

use super::Site;
use super::classify::{is_cheap_site, step_class};
use super::decode::{DecodeError, Function};
use super::flow::{Flow, FlowError, StackDepth, is_stack_slot};
use super::result::{Place, place_at, writes_register};

/// `runtime.g.stackguard0` and `stackguard1`, which the stack checks of goroutines and of functions for a thread's own
/// stack compare with: the same in all known versions.
const STACK_GUARD_OFFSETS: [u64; 2] = [0x10, 0x18];
/// The check is among the first instructions: `lea r12, [rsp-n]; cmp r12, [r14+16]; jbe`.
const MAX_CHECK_INSTRUCTIONS: usize = 6;
/// What `morestack` needs around it: spills of up to 9 integer and 15 floating point arguments,
/// twice, the call, the jump back, and alignment nops.
const MAX_RETRY_INSTRUCTIONS: usize = 64;
/// Candidates looked at, from the latest: bounds the work on hostile code.
const MAX_CANDIDATES: usize = 16;
/// How far behind a call its exit may be: what comes between would count as the call's time.
const MAX_BEHIND_CALL: usize = 16;
/// What a call takes from the stack: the return address.
const RETURN_ADDRESS_BYTES: u16 = 8;

/// The code of one function and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Which function it is.
    pub id: FunctionId,
    /// Its symbol.
    pub symbol: &'a str,
    /// Its bytes, with or without the padding behind.
    pub bytes: &'a [u8],
    /// The address of the first byte.
    pub start: u64,
    /// The offset in the file of the first byte.
    pub file_offset: u64,
}

/// A call inside of a probed function that tells what its time goes to from there on.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// What the probe does.
    pub role: Role,
    /// The called function's address.
    pub callee: u64,
}

/// Which exit was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitChoice {
    /// A jump or push behind the last call: all of the function's work is timed.
    LateInstruction,
    /// A jump in the caller, shortly behind the call: all of the function's work is timed.
    Caller,
    /// Every return instruction: exact, but on x86-64 each hit is single-stepped.
    Returns,
}

impl fmt::Display for ExitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LateInstruction => "behind the last call",
            Self::Caller => "in the caller",
            Self::Returns => "at the returns",
        })
    }
}

/// The sites of one function: entry first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSites {
    /// Entry first, then the exits, then the marks.
    pub sites: Vec<Site>,
    /// Which kind of exit.
    pub exit: ExitChoice,
}

/// Why no probe is put into a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not one function's instructions.
    Decode(DecodeError),
    /// Not all ways out are known.
    Flow(FlowError),
    /// It does not start with Go's stack check.
    NoStackCheck,
    /// The entry could run more than once in a call.
    EntryInLoop,
    /// The stack pointer cannot be followed through it.
    StackDepth,
    /// It never returns.
    NoReturn,
    /// It does not call the other function exactly once, outside of loops.
    NoSingleCall,
    /// Nothing behind the call is cheap, runs behind it alone, and still has the result.
    NothingBehindCall,
    /// The place that is looked for is not in it.
    NoSuchPlace,
    /// The kernel lets no probe stand where one is needed.
    NotProbeable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(DecodeError::Empty) => f.write_str("it has no code"),
            Self::Decode(DecodeError::TooLong) => {
                f.write_str("it is longer than a function of this kind can be")
            }
            Self::Decode(DecodeError::Invalid { offset }) => {
                write!(f, "no instruction can be decoded at +{offset:#x}")
            }
            Self::Flow(FlowError::IndirectJump) => {
                f.write_str("it has a jump whose target is not in the code")
            }
            Self::Flow(FlowError::LeavesByJump) => f.write_str("it jumps out of itself"),
            Self::Flow(FlowError::RunsOffEnd) => f.write_str("its code runs over its end"),
            Self::NoStackCheck => f.write_str("it does not start with Go's stack check"),
            Self::EntryInLoop => f.write_str("its first instruction lies in a loop"),
            Self::StackDepth => f.write_str("its stack pointer cannot be followed"),
            Self::NoReturn => f.write_str("it has no return instruction"),
            Self::NoSingleCall => f.write_str("it is not called at one place only"),
            Self::NothingBehindCall => f.write_str("there is no cheap instruction behind its call"),
            Self::NoSuchPlace => f.write_str("the place that is looked for is not in it"),
            Self::NotProbeable => f.write_str("the kernel refuses probes at its entry or returns"),
        }
    }
}

/// Plans the probes of a function inside of itself. A mark that has no place is left out.
pub fn plan_call(code: Code<'_>, marks: &[Mark]) -> Result<CallSites, Refusal> {
    let analysis = Analysis::of(code)?;
    if analysis.flow.returns().is_empty() {
        return Err(Refusal::NoReturn);
    }
    let (exits, exit) = match analysis.cheap_exit() {
        Some(site) => (vec![site], ExitChoice::LateInstruction),
        None => (analysis.returns(), ExitChoice::Returns),
    };
    let entry = analysis.site(analysis.check.body, Role::Entry, ResultPlace::Unknown, 0, 0);
    let marks = marks.iter().filter_map(|mark| analysis.mark(mark));
    Ok(CallSites { sites: std::iter::once(entry).chain(exits).chain(marks).collect(), exit })
}

/// Plans the probes of a function that only `caller` calls, and at one place: the exit is behind the call.
///
/// Depths count from the caller's stack pointer at the call. The entry is inside of the function where it is
/// cheap, else at the call, which costs a little more.
pub fn plan_call_in(caller: Code<'_>, callee: Code<'_>) -> Result<CallSites, Refusal> {
    let inner = Analysis::of(callee)?;
    let outer = Analysis::of(caller)?;
    let call = outer.only_call_of(callee.start).ok_or(Refusal::NoSingleCall)?;
    let exit = outer.behind_call(call).ok_or(Refusal::NothingBehindCall)?;
    let body = inner.check.body;
    let entry = if is_cheap_site(inner.function.encoding(body)) {
        inner.site(body, Role::Entry, ResultPlace::Unknown, RETURN_ADDRESS_BYTES, 0)
    } else {
        outer.site(call, Role::Entry, ResultPlace::Unknown, 0, 0)
    };
    let exit = outer.site(exit, Role::Exit, ResultPlace::Register, 0, 0);
    Ok(CallSites { sites: vec![entry, exit], exit: ExitChoice::Caller })
}

/// The prologue `cmp rsp, [r14+16]; jbe retry` and the code that grows the stack and starts over.
struct StackCheck {
    branch: usize,
    body: usize,
    retry: Vec<bool>,
}

impl StackCheck {
    fn find(function: &Function<'_>, flow: &Flow) -> Option<Self> {
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
fn settle_depths(
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

/// A function whose ways and stack depths are known.
pub(super) struct Analysis<'a> {
    code: Code<'a>,
    pub(super) function: Function<'a>,
    pub(super) flow: Flow,
    check: StackCheck,
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

    fn returns(&self) -> Vec<Site> {
        self.flow
            .returns()
            .iter()
            .map(|&index| self.site(index, Role::Exit, ResultPlace::Register, 0, 0))
            .collect()
    }

    /// The one call of the function at `callee`, if it runs at most once.
    fn only_call_of(&self, callee: u64) -> Option<usize> {
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

    fn mark(&self, mark: &Mark) -> Option<Site> {
        let call = self.only_call_of(mark.callee)?;
        let frame_bytes = u16::try_from(self.depth.at(call)?).ok()?;
        Some(self.site(call, mark.role, ResultPlace::Unknown, frame_bytes, 0))
    }

    /// The first cheap instruction that runs behind a call and never else, with the result still in rax.
    fn behind_call(&self, call: usize) -> Option<usize> {
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

    pub(super) fn is_call(&self, index: usize) -> bool {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use allocscope_common::site_id::StepClass;
    use proptest::prelude::*;

    const GO_1_19_8: &str = include_str!("testdata/go1.19.8-allocLarge.hex");
    const GO_1_21_13: &str = include_str!("testdata/go1.21.13-allocLarge.hex");
    pub(crate) const GO_1_22_10: &str = include_str!("testdata/go1.22.10-allocLarge.hex");
    const GO_1_19_8_MALLOCGC: &str = include_str!("testdata/go1.19.8-mallocgc.hex");
    const GO_1_21_13_MALLOCGC: &str = include_str!("testdata/go1.21.13-mallocgc.hex");
    pub(crate) const GO_1_22_10_MALLOCGC: &str = include_str!("testdata/go1.22.10-mallocgc.hex");
    const GO_1_23_9_MALLOCGC: &str = include_str!("testdata/go1.23.9-mallocgc.hex");
    /// Has a late jump, loops, early exits and results in the frame.
    pub(crate) const GO_1_25_5_MALLOCGC_LARGE: &str = include_str!("testdata/go1.25.5-mallocgcLarge.hex");
    const GO_1_27_3_MALLOCGC_LARGE: &str = include_str!("testdata/go1.27.3-mallocgcLarge.hex");
    const START: u64 = 0x41_0000;

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn code(bytes: &[u8], start: u64) -> Code<'_> {
        Code { id: FunctionId::GoAllocLarge, symbol: "f", bytes, start, file_offset: 0x1000 }
    }

    fn plan(bytes: &[u8]) -> Result<CallSites, Refusal> {
        plan_call(code(bytes, START), &[])
    }

    /// What the call instruction at an offset calls.
    fn callee_of(bytes: &[u8], call: usize) -> u64 {
        let distance = i32::from_le_bytes(bytes[call + 1..call + 5].try_into().unwrap());
        (START + call as u64 + 5).wrapping_add_signed(distance.into())
    }

    /// (offset, step, result, frame bytes, result offset) of each site.
    fn summary(sites: &[Site]) -> Vec<(u64, StepClass, ResultPlace, u16, u16)> {
        sites
            .iter()
            .map(|s| (s.function_offset, s.id.step, s.id.result, s.id.frame_bytes, s.id.result_offset))
            .collect()
    }

    fn entry(offset: u64, frame_bytes: u16) -> (u64, StepClass, ResultPlace, u16, u16) {
        (offset, StepClass::Emulated, ResultPlace::Unknown, frame_bytes, 0)
    }

    fn ret(offset: u64) -> (u64, StepClass, ResultPlace, u16, u16) {
        (offset, StepClass::Stepped, ResultPlace::Register, 0, 0)
    }

    /// The offsets are those that `objdump` of the same functions gives.
    #[test]
    fn a_call_ends_at_the_first_branch_behind_it_in_its_only_caller() {
        for (caller, callee, call, exit, text) in [
            (GO_1_21_13_MALLOCGC, GO_1_21_13, 0x4f1, 0x514, "je"),
            (GO_1_22_10_MALLOCGC, GO_1_22_10, 0x592, 0x5b6, "je"),
            (GO_1_23_9_MALLOCGC, GO_1_22_10, 0x5cb, 0x5e4, "nop"),
        ] {
            let (caller, callee) = (bytes(caller), bytes(callee));
            let start = callee_of(&caller, call);
            let found = plan_call_in(code(&caller, START), code(&callee, start)).unwrap();
            let branch = (exit, StepClass::Emulated, ResultPlace::Register, 0, 0);
            assert_eq!(
                (summary(&found.sites), found.exit),
                (vec![entry(0xa, 8), branch], ExitChoice::Caller)
            );
            let texts = [0, 1].map(|site: usize| found.sites[site].instruction.split(' ').next().unwrap());
            assert_eq!(texts, ["push", text]);
        }
    }

    #[test]
    fn a_call_begins_at_the_call_where_the_function_begins_with_nothing_cheap() {
        let (caller, callee) = (bytes(GO_1_19_8_MALLOCGC), bytes(GO_1_19_8));
        let start = callee_of(&caller, 0x579);
        let found = plan_call_in(code(&caller, START), code(&callee, start)).unwrap();
        let branch = (0x5a3, StepClass::Emulated, ResultPlace::Register, 0, 0);
        assert_eq!(summary(&found.sites), [entry(0x579, 0), branch]);
        assert!(found.sites[0].instruction.starts_with("call"));
    }

    #[test]
    fn a_caller_that_calls_another_function_or_changes_the_result_is_refused() {
        let (caller, callee) = (bytes(GO_1_22_10_MALLOCGC), bytes(GO_1_22_10));
        let start = callee_of(&caller, 0x592);
        let refusal = |caller: &[u8], start| plan_call_in(code(caller, START), code(&callee, start)).err();
        assert_eq!(refusal(&caller, start + 1), Some(Refusal::NoSingleCall));
        let mut changed = caller.clone();
        // mov rdx, [rax+0x18] to mov rax, [rax+0x18]
        assert_eq!(changed[0x5a3..0x5a7], [0x48, 0x8b, 0x50, 0x18]);
        changed[0x5a5] = 0x40;
        assert_eq!(refusal(&changed, start), Some(Refusal::NothingBehindCall));
    }

    #[test]
    fn the_returns_end_a_call_where_nothing_cheap_is_behind_its_last_call() {
        let stepped = (0x4 + 6, StepClass::Stepped, ResultPlace::Unknown, 0, 0);
        for (hex, entry, exit) in [
            (GO_1_19_8, stepped, 0x1da),
            (GO_1_21_13, entry(0xa, 0), 0x159),
            (GO_1_22_10, entry(0xa, 0), 0x16f),
        ] {
            let found = plan(&bytes(hex)).unwrap();
            assert_eq!((summary(&found.sites), found.exit), (vec![entry, ret(exit)], ExitChoice::Returns));
        }
    }

    #[test]
    fn a_jump_behind_the_last_call_is_better() {
        for (hex, exit) in [(GO_1_25_5_MALLOCGC_LARGE, 0x224), (GO_1_27_3_MALLOCGC_LARGE, 0x220)] {
            let found = plan(&bytes(hex)).unwrap();
            let [begin, end] = &summary(&found.sites)[..] else { panic!("{found:?}") };
            assert_eq!((*begin, found.exit), (entry(0xa, 0), ExitChoice::LateInstruction));
            assert_eq!((end.0, end.1, end.2, end.3), (exit, StepClass::Emulated, ResultPlace::Stack, 0x50));
        }
    }

    #[test]
    fn marks_are_the_calls_that_they_name() {
        let code_bytes = bytes(GO_1_25_5_MALLOCGC_LARGE);
        let mark = |role, call| Mark { role, callee: callee_of(&code_bytes, call) };
        let marks = [mark(Role::GcStart, 0x182), mark(Role::Zeroing, 0x1a5)];
        let found = plan_call(code(&code_bytes, START), &marks).unwrap();
        let placed: Vec<_> =
            found.sites[2..].iter().map(|s| (s.id.role, s.function_offset, s.id.frame_bytes)).collect();
        assert_eq!(placed, [(Role::GcStart, 0x182, 0x50), (Role::Zeroing, 0x1a5, 0x50)]);
        // publicationBarrier is called twice, and nothing at all calls address 1.
        let twice = mark(Role::Zeroing, 0xc0);
        assert_eq!(twice.callee, callee_of(&code_bytes, 0x207));
        let found = plan_call(code(&code_bytes, START), &[twice, Mark { role: Role::GcStart, callee: 1 }]);
        assert_eq!(found.unwrap().sites.len(), 2);
    }

    #[test]
    fn padding_changes_nothing() {
        let code = bytes(GO_1_22_10);
        let padded = [&code[..], &[0xcc; 27]].concat();
        assert_eq!(plan(&code), plan(&padded));
    }

    #[test]
    fn a_part_of_a_function_is_refused() {
        for hex in [GO_1_19_8, GO_1_22_10] {
            let code = bytes(hex);
            for len in 0..code.len() {
                assert!(plan(&code[..len]).is_err(), "{len}");
                assert!(plan(&code[code.len() - len..]).is_err(), "-{len}");
            }
        }
    }

    #[test]
    fn code_without_a_stack_check_is_refused() {
        // push rbp; mov rbp,rsp; pop rbp; ret
        assert_eq!(plan(&[0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3]), Err(Refusal::NoStackCheck));
    }

    /// `cmp rsp,[r14+16]; jbe retry; <body>; retry: call; jmp start`
    fn with_check(body: &[u8]) -> Vec<u8> {
        let mut code = vec![0x49, 0x3b, 0x66, 0x10, 0x76, body.len() as u8];
        code.extend(body);
        code.extend([0xe8, 0, 0, 0, 0, 0xeb, (256 - (code.len() + 7)) as u8]);
        code
    }

    #[test]
    fn a_body_that_jumps_to_its_start_without_a_frame_is_refused() {
        // test eax,eax; je +1 (over ret, into the retry code, with no frame); ret
        let code = with_check(&[0x85, 0xc0, 0x74, 0x01, 0xc3]);
        assert_eq!(plan(&code), Err(Refusal::EntryInLoop));
    }

    #[test]
    fn a_call_that_does_not_return_before_the_retry_code_is_no_loop() {
        // push rbp; test eax,eax; je +2; pop rbp; ret; call
        let code = with_check(&[0x55, 0x85, 0xc0, 0x74, 0x02, 0x5d, 0xc3, 0xe8, 0, 0, 0, 0]);
        let found = plan(&code).unwrap();
        let jump = (9, StepClass::Emulated, ResultPlace::Register, 8, 0);
        assert_eq!(
            (summary(&found.sites), found.exit),
            (vec![entry(6, 0), jump], ExitChoice::LateInstruction)
        );
    }

    #[test]
    fn a_loop_behind_the_candidate_leaves_the_returns() {
        // push rbp; nop; dec ecx; jne -4; pop rbp; ret
        let code = with_check(&[0x55, 0x90, 0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3]);
        assert_eq!(plan(&code).unwrap().exit, ExitChoice::Returns);
    }

    proptest! {
        #[test]
        fn hostile_code_gets_sites_inside_itself_or_none(
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)
        ) {
            let mut caller = bytes(GO_1_22_10_MALLOCGC);
            let callee = bytes(GO_1_22_10);
            let (len, start) = (caller.len(), callee_of(&caller, 0x592));
            for (at, byte) in flips {
                caller[at % len] = byte;
            }
            let outer = code(&caller, START);
            for found in [plan_call(outer, &[]), plan_call_in(outer, code(&callee, start))].into_iter().flatten() {
                prop_assert!(found.sites.len() >= 2);
                prop_assert!(found.sites.iter().all(|site| site.function_offset < len as u64));
            }
        }
    }
}
