//! The code of a Go function into the probe sites of its calls: one entry, and the cheapest exits that are provably right.
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
use super::result::{Place, place_at};

/// `runtime.g.stackguard0`, which the stack check compares with: the same in all known versions.
const STACK_GUARD_OFFSET: u64 = 0x10;
/// The check is among the first instructions: `lea r12, [rsp-n]; cmp r12, [r14+16]; jbe`.
const MAX_CHECK_INSTRUCTIONS: usize = 6;
/// What `morestack` needs around it: spills of up to 9 integer and 15 floating point arguments,
/// twice, the call, the jump back, and alignment nops.
const MAX_RETRY_INSTRUCTIONS: usize = 64;
/// Candidates looked at, from the latest: bounds the work on hostile code.
const MAX_CANDIDATES: usize = 16;

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

/// Whether an exit probe may stand on the function's last call, whose callee's time it then leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastCall {
    /// The last callee's time is constant and small.
    Negligible,
    /// The last callee does work that belongs to the call.
    Counts,
}

/// Which exit was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitChoice {
    /// A jump or push behind the last call: all of the function's work is timed.
    LateInstruction,
    /// The last call itself: its callee's time is left out.
    LastCall,
    /// Every return instruction: exact, but each hit is single-stepped.
    Returns,
}

impl fmt::Display for ExitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LateInstruction => "behind the last call",
            Self::LastCall => "at the last call",
            Self::Returns => "at the returns",
        })
    }
}

/// The sites of one function: entry first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSites {
    /// Entry first, then the exits.
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
        }
    }
}

/// Plans the probes of one function.
pub fn plan_call(code: Code<'_>, last_call: LastCall) -> Result<CallSites, Refusal> {
    let function = Function::decode(code.bytes, code.start).map_err(Refusal::Decode)?;
    let mut flow = Flow::build(&function).map_err(Refusal::Flow)?;
    let check = StackCheck::find(&function, &flow).ok_or(Refusal::NoStackCheck)?;
    let depth = settle_depths(&function, &mut flow, &check)?;
    if flow.is_in_loop(check.body) {
        return Err(Refusal::EntryInLoop);
    }
    if flow.returns().is_empty() {
        return Err(Refusal::NoReturn);
    }
    let planner = Planner { code, function: &function, flow: &flow, check: &check };
    let (exits, exit) = match planner.cheap_exit(&depth, last_call) {
        Some((site, choice)) => (vec![site], choice),
        None => (planner.returns(), ExitChoice::Returns),
    };
    Ok(CallSites { sites: std::iter::once(planner.entry()).chain(exits).collect(), exit })
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
            && compare.memory_displacement64() == STACK_GUARD_OFFSET;
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

struct Planner<'a> {
    code: Code<'a>,
    function: &'a Function<'a>,
    flow: &'a Flow,
    check: &'a StackCheck,
}

impl Planner<'_> {
    /// The first instruction behind the check where it is cheap: arguments are still in registers
    /// and it runs once a call. Else the check's branch, which runs again after the stack has grown:
    /// that only restarts the call under the same key, goroutine and stack depth being the same.
    fn entry(&self) -> Site {
        let body_is_cheap = is_cheap_site(self.function.encoding(self.check.body));
        let index = if body_is_cheap { self.check.body } else { self.check.branch };
        self.site(index, Role::Entry, ResultPlace::Unknown, 0, 0)
    }

    fn returns(&self) -> Vec<Site> {
        self.flow
            .returns()
            .iter()
            .map(|&index| self.site(index, Role::Exit, ResultPlace::Register, 0, 0))
            .collect()
    }

    /// The latest cheap instruction that runs exactly once in every call that returns, behind which
    /// nothing is called, and at which the result is already where a probe can read it.
    fn cheap_exit(&self, depth: &StackDepth, last_call: LastCall) -> Option<(Site, ExitChoice)> {
        let leads_to_return = self.flow.reaching(self.flow.returns());
        let mut candidates: Vec<_> = (self.check.body..self.function.instructions().len())
            .filter(|&index| is_cheap_site(self.function.encoding(index)))
            .filter(|&index| last_call == LastCall::Negligible || !self.is_call(index))
            .filter(|&index| self.flow.dominates(index, self.flow.returns()) && !self.flow.is_in_loop(index))
            .filter_map(|index| Some((self.instructions_behind(index, &leads_to_return)?, index)))
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().take(MAX_CANDIDATES).find_map(|(_, index)| {
            if !self.runs_straight(index, &leads_to_return) {
                return None;
            }
            let site = self.exit_at(index, depth)?;
            Some((site, if self.is_call(index) { ExitChoice::LastCall } else { ExitChoice::LateInstruction }))
        })
    }

    fn exit_at(&self, index: usize, depth: &StackDepth) -> Option<Site> {
        let frame_bytes = depth.at(index)?;
        let (place, offset) = match place_at(self.function, self.flow, depth, index)? {
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

    fn site(
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
            id: SiteId { function: self.code.id, role, step, result, frame_bytes, result_offset },
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
    const GO_1_27_3: &str = include_str!("testdata/go1.27.3-allocLarge.hex");
    /// Has a late jump, loops, early exits and results in the frame.
    const GO_1_25_5_MALLOCGC_LARGE: &str = include_str!("testdata/go1.25.5-mallocgcLarge.hex");
    const START: u64 = 0x41_0000;

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn plan(bytes: &[u8], last_call: LastCall) -> Result<CallSites, Refusal> {
        let id = FunctionId::GoAllocLarge;
        plan_call(Code { id, symbol: "f", bytes, start: START, file_offset: 0x1000 }, last_call)
    }

    /// (offset, step, result, frame bytes, result offset) of each site.
    fn summary(sites: &[Site]) -> Vec<(u64, StepClass, ResultPlace, u16, u16)> {
        sites
            .iter()
            .map(|s| (s.function_offset, s.id.step, s.id.result, s.id.frame_bytes, s.id.result_offset))
            .collect()
    }

    fn entry(offset: u64) -> (u64, StepClass, ResultPlace, u16, u16) {
        (offset, StepClass::Emulated, ResultPlace::Unknown, 0, 0)
    }

    fn ret(offset: u64) -> (u64, StepClass, ResultPlace, u16, u16) {
        (offset, StepClass::Stepped, ResultPlace::Register, 0, 0)
    }

    #[test]
    fn the_last_call_ends_an_allocation_where_its_time_is_negligible() {
        for (hex, body, exit, frame) in
            [(GO_1_21_13, 0xa, 0x14a, 0x40), (GO_1_22_10, 0xa, 0x160, 0x48), (GO_1_27_3, 0xa, 0x160, 0x48)]
        {
            let found = plan(&bytes(hex), LastCall::Negligible).unwrap();
            let call = (exit, StepClass::Emulated, ResultPlace::Stack, frame, 0x20);
            assert_eq!((summary(&found.sites), found.exit), (vec![entry(body), call], ExitChoice::LastCall));
            assert_eq!(
                (found.sites[0].instruction.as_str(), found.sites[1].file_offset),
                ("push rbp", 0x1000 + exit)
            );
        }
    }

    #[test]
    fn the_returns_end_an_allocation_where_the_last_call_counts() {
        for (hex, body, exit) in [(GO_1_19_8, 0x4, 0x1da), (GO_1_21_13, 0xa, 0x159), (GO_1_22_10, 0xa, 0x16f)]
        {
            let found = plan(&bytes(hex), LastCall::Counts).unwrap();
            assert_eq!(
                (summary(&found.sites), found.exit),
                (vec![entry(body), ret(exit)], ExitChoice::Returns)
            );
        }
    }

    #[test]
    fn go_1_19_has_no_cheap_instruction_behind_its_check() {
        let found = plan(&bytes(GO_1_19_8), LastCall::Negligible).unwrap();
        let call = (0x1c7, StepClass::Emulated, ResultPlace::Stack, 0x48, 0x28);
        assert_eq!(summary(&found.sites), [entry(0x4), call]);
        assert!(found.sites[0].instruction.starts_with("jbe"));
    }

    #[test]
    fn a_jump_behind_the_last_call_is_better() {
        for last_call in [LastCall::Negligible, LastCall::Counts] {
            let found = plan(&bytes(GO_1_25_5_MALLOCGC_LARGE), last_call).unwrap();
            let jump = (0x224, StepClass::Emulated, ResultPlace::Stack, 0x50, 0x38);
            assert_eq!(
                (summary(&found.sites), found.exit),
                (vec![entry(0xa), jump], ExitChoice::LateInstruction)
            );
        }
    }

    #[test]
    fn padding_changes_nothing() {
        let code = bytes(GO_1_22_10);
        let padded = [&code[..], &[0xcc; 27]].concat();
        assert_eq!(plan(&code, LastCall::Negligible), plan(&padded, LastCall::Negligible));
    }

    #[test]
    fn a_part_of_a_function_is_refused() {
        for hex in [GO_1_19_8, GO_1_22_10] {
            let code = bytes(hex);
            for len in 0..code.len() {
                assert!(plan(&code[..len], LastCall::Negligible).is_err(), "{len}");
                assert!(plan(&code[code.len() - len..], LastCall::Negligible).is_err(), "-{len}");
            }
        }
    }

    #[test]
    fn code_without_a_stack_check_is_refused() {
        // push rbp; mov rbp,rsp; pop rbp; ret
        assert_eq!(plan(&[0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3], LastCall::Counts), Err(Refusal::NoStackCheck));
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
        assert_eq!(plan(&code, LastCall::Counts), Err(Refusal::EntryInLoop));
    }

    #[test]
    fn a_call_that_does_not_return_before_the_retry_code_is_no_loop() {
        // push rbp; test eax,eax; je +2; pop rbp; ret; call
        let code = with_check(&[0x55, 0x85, 0xc0, 0x74, 0x02, 0x5d, 0xc3, 0xe8, 0, 0, 0, 0]);
        let found = plan(&code, LastCall::Counts).unwrap();
        let jump = (9, StepClass::Emulated, ResultPlace::Register, 8, 0);
        assert_eq!((summary(&found.sites), found.exit), (vec![entry(6), jump], ExitChoice::LateInstruction));
    }

    #[test]
    fn a_loop_behind_the_candidate_leaves_the_returns() {
        // push rbp; nop; dec ecx; jne -4; pop rbp; ret
        let code = with_check(&[0x55, 0x90, 0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3]);
        assert_eq!(plan(&code, LastCall::Negligible).unwrap().exit, ExitChoice::Returns);
    }

    proptest! {
        #[test]
        fn hostile_code_gets_sites_inside_itself_or_none(
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)
        ) {
            let mut code = bytes(GO_1_22_10);
            let len = code.len();
            for (at, byte) in flips {
                code[at % len] = byte;
            }
            if let Ok(found) = plan(&code, LastCall::Negligible) {
                prop_assert!(found.sites.len() >= 2);
                prop_assert!(found.sites.iter().all(|site| site.function_offset < len as u64));
            }
        }
    }
}
