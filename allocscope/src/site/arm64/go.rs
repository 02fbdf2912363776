//! The AArch64 code of Go functions into the probe sites of their calls.
//!
//! The entry is the first instruction behind the stack check, as on x86-64; it is stepped, since the frame is set
//! up there. Exits are the returns, which are simulated: x0 has the result, and the stack pointer is as at the entry.

use allocscope_common::site_id::{ResultPlace, Role, SiteId};

use super::function::Function;
use super::instruction::{Instruction, Next};
use super::stack::depth_change;
use crate::site::Site;
use crate::site::flow::{Flow, StackDepth};
use crate::site::go::{CallSites, Code, ExitChoice, Mark, Refusal};

/// `ldr x16, [x28, #16]`: `runtime.g.stackguard0`.
const LOAD_GUARD: Instruction = Instruction(0xf940_0b90);
/// `cmp sp, x16`.
const COMPARE_STACK: Instruction = Instruction(0xeb30_63ff);
/// `cmp x17, x16`, behind `sub x17, sp, #n` for larger frames.
const COMPARE_LIMIT: Instruction = Instruction(0xeb10_023f);
/// As on x86-64: spills around the call of `morestack`, and the jump back.
const MAX_RETRY_INSTRUCTIONS: usize = 64;

/// The length of `ldr x16; cmp sp, x16; b.ls`, and of the check of larger frames.
const CHECK_LENGTHS: [usize; 2] = [3, 4];

/// Plans the probes of a function. A mark that has no place is left out.
///
/// # Errors
/// Where anything about the function is in doubt.
pub fn plan_call(code: Code<'_>, marks: &[Mark]) -> Result<CallSites, Refusal> {
    let analysis = Analysis::of(code)?;
    if analysis.flow.returns().is_empty() {
        return Err(Refusal::NoReturn);
    }
    let entry = (analysis.check.body, Role::Entry, ResultPlace::Unknown);
    let exits = analysis.flow.returns().iter().map(|&index| (index, Role::Exit, ResultPlace::Register));
    let mut sites = std::iter::once(entry)
        .chain(exits)
        .map(|(index, role, result)| analysis.at_entry_depth(index, role, result))
        .collect::<Result<Vec<_>, _>>()?;
    sites.extend(marks.iter().filter_map(|mark| analysis.mark(mark)));
    Ok(CallSites { sites, exit: ExitChoice::Returns })
}

/// The prologue that compares with the stack guard, and the code that grows the stack and starts over.
struct StackCheck {
    branch: usize,
    body: usize,
    retry: Vec<bool>,
}

impl StackCheck {
    fn find(function: &Function, flow: &Flow) -> Option<Self> {
        let length = CHECK_LENGTHS.into_iter().find(|&length| is_check(function.instructions(), length))?;
        let branch = length - 1;
        let Next::Branches(distance) = function.next(branch) else { return None };
        let retry = retry_region(function, flow, function.index_at(branch, distance)?)?;
        Some(Self { branch, body: length, retry })
    }
}

fn is_check(instructions: &[Instruction], length: usize) -> bool {
    let is_below_or_same = |branch: Instruction| branch.is(0xff00_001f, 0x5400_0009);
    let takes_limit = |limit: Instruction| limit.is(0xff80_03ff, 0xd100_03f1);
    match instructions.get(..length) {
        Some(&[load, compare, branch]) => {
            load == LOAD_GUARD && compare == COMPARE_STACK && is_below_or_same(branch)
        }
        Some(&[load, limit, compare, branch]) => {
            let compares = takes_limit(limit) && compare == COMPARE_LIMIT;
            load == LOAD_GUARD && compares && is_below_or_same(branch)
        }
        _ => false,
    }
}

/// The straight line from `target` over one call (`morestack`) to the jump back to the start.
fn retry_region(function: &Function, flow: &Flow, target: usize) -> Option<Vec<bool>> {
    let mut region = vec![false; function.instructions().len()];
    let mut calls = 0;
    for index in target..target.saturating_add(MAX_RETRY_INSTRUCTIONS) {
        *region.get_mut(index)? = true;
        match function.next(index) {
            Next::Falls => {}
            Next::Calls(_) => calls += 1,
            Next::Jumps(_) => return (calls == 1 && flow.successors(index) == [0]).then_some(region),
            _ => return None,
        }
    }
    None
}

/// Computes stack depths, and removes the ways that a call which never returns seems to open into the retry code:
/// on those the frame is still there, which must be gone at the start.
fn settle_depths(function: &Function, flow: &mut Flow, check: &StackCheck) -> Result<StackDepth, Refusal> {
    let in_retry = |index: usize| check.retry.get(index) == Some(&true);
    let is_stray = |from: usize, to: usize| in_retry(to) && !in_retry(from) && from != check.branch;
    let strays: Vec<_> = (0..function.instructions().len())
        .flat_map(|from| flow.successors(from).iter().map(move |&to| (from, to)))
        .filter(|&(from, to)| is_stray(from, to))
        .collect();
    flow.cut(is_stray);
    let change = |index: usize| function.instructions().get(index).copied().and_then(depth_change);
    let depth = StackDepth::follow(flow, change).map_err(|_| Refusal::StackDepth)?;
    let may_be_taken = |&(from, to): &(usize, usize)| {
        let after = depth.at(from).zip(change(from)).and_then(|(depth, change)| depth.checked_add(change));
        after.is_some_and(|after| depth.at(to).is_none_or(|expected| expected == after))
    };
    if strays.iter().any(may_be_taken) { Err(Refusal::EntryInLoop) } else { Ok(depth) }
}

/// A function whose ways and stack depths are known.
struct Analysis<'a> {
    code: Code<'a>,
    function: Function,
    flow: Flow,
    check: StackCheck,
    depth: StackDepth,
}

impl<'a> Analysis<'a> {
    fn of(code: Code<'a>) -> Result<Self, Refusal> {
        let function = Function::decode(code.bytes, code.start).map_err(Refusal::Decode)?;
        let mut flow = function.flow().map_err(Refusal::Flow)?;
        let check = StackCheck::find(&function, &flow).ok_or(Refusal::NoStackCheck)?;
        let depth = settle_depths(&function, &mut flow, &check)?;
        if flow.is_in_loop(check.body) {
            return Err(Refusal::EntryInLoop);
        }
        Ok(Self { code, function, flow, check, depth })
    }

    /// A site where the stack pointer is as it was when the function was called.
    fn at_entry_depth(&self, index: usize, role: Role, result: ResultPlace) -> Result<Site, Refusal> {
        match self.depth.at(index) {
            // Code that control does not come to has no depth, and no call ends there.
            Some(0) | None => self.site(index, role, result, 0).ok_or(Refusal::NotProbeable),
            Some(_) => Err(Refusal::StackDepth),
        }
    }

    /// At the only call of the mark's function, if it runs at most once.
    fn mark(&self, mark: &Mark) -> Option<Site> {
        let is_call_of_it = |&index: &usize| match self.function.next(index) {
            Next::Calls(Some(distance)) => self.function.address_at(index, distance) == mark.callee,
            _ => false,
        };
        let mut calls = (0..self.function.instructions().len()).filter(is_call_of_it);
        let call = calls.next()?;
        let is_only = calls.next().is_none() && !self.flow.is_in_loop(call);
        let frame_bytes = u16::try_from(self.depth.at(call)?).ok()?;
        if is_only { self.site(call, mark.role, ResultPlace::Unknown, frame_bytes) } else { None }
    }

    fn site(&self, index: usize, role: Role, result: ResultPlace, frame_bytes: u16) -> Option<Site> {
        let step = self.function.instructions().get(index)?.step()?;
        let offset = self.function.offset(index);
        let id = SiteId {
            function: self.code.id,
            role,
            step,
            result,
            frame_bytes,
            result_offset: 0,
            goid_offset: 0,
        };
        Some(Site {
            id,
            function: self.code.symbol.to_owned(),
            function_offset: offset,
            file_offset: self.code.file_offset.saturating_add(offset),
            instruction: self.function.text(index),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::function::tests::bytes;
    use super::*;
    use allocscope_common::site_id::{Function as FunctionId, StepClass};
    use proptest::prelude::*;

    const START: u64 = 0x2_7000;
    const RET: u32 = 0xd65f_03c0;
    /// str x30,[sp,#-80]!
    const SAVE: u32 = 0xf81b_0ffe;
    /// ldr x30,[sp],#80
    const RESTORE: u32 = 0xf845_07fe;
    const NOP: u32 = 0xd503_201f;

    fn code(bytes: &[u8]) -> Code<'_> {
        Code { id: FunctionId::GoMallocLarge, symbol: "f", bytes, start: START, file_offset: 0x100 }
    }

    fn plan(words: &[u32], marks: &[Mark]) -> Result<CallSites, Refusal> {
        plan_call(code(&bytes(words)), marks)
    }

    /// A check, `body`, and the retry code: mov x3,x30; bl; b start
    fn with_check(body: &[u32]) -> Vec<u32> {
        let retry = 3 + body.len() as u32;
        let back = 0x1400_0000 | (0u32.wrapping_sub(retry + 2) & 0x3ff_ffff);
        let check = [LOAD_GUARD.0, COMPARE_STACK.0, 0x5400_0009 | (retry - 2) << 5];
        [&check[..], body, &[0xaa1e_03e3, 0x9400_0100, back]].concat()
    }

    #[test]
    fn entry_exits_and_marks_are_found() {
        // cbz x0,+16: two ways, and two returns
        let body = [SAVE, 0xb400_0080, 0x9400_0200, RESTORE, RET, RESTORE, RET];
        let callee = START + 5 * 4 + 0x800;
        let mark = Mark { role: Role::GcStart, callee };
        let found = plan(&with_check(&body), &[mark, Mark { role: Role::Zeroing, callee: 1 }]).unwrap();
        let sites: Vec<_> = found
            .sites
            .iter()
            .map(|site| (site.id.role, site.function_offset, site.id.step, site.id.frame_bytes))
            .collect();
        let expected = [
            (Role::Entry, 12, StepClass::Stepped, 0),
            (Role::Exit, 28, StepClass::Emulated, 0),
            (Role::Exit, 36, StepClass::Emulated, 0),
            (Role::GcStart, 20, StepClass::Emulated, 80),
        ];
        assert_eq!((sites.as_slice(), found.exit), (&expected[..], ExitChoice::Returns));
        assert!(found.sites.iter().all(|site| site.file_offset == 0x100 + site.function_offset));
    }

    #[test]
    fn the_check_of_a_larger_frame_is_known() {
        let small = with_check(&[NOP, RET]);
        // sub x17,sp,#32; cmp x17,x16
        let mut large = vec![LOAD_GUARD.0, 0xd100_83f1, COMPARE_LIMIT.0];
        large.extend(&small[2..]);
        *large.last_mut().unwrap() -= 1;
        assert_eq!(plan(&large, &[]).unwrap().sites[0].function_offset, 16);
    }

    #[test]
    fn a_call_that_does_not_return_before_the_retry_code_is_no_loop() {
        // cbz x0,+12; ...; bl of what never returns
        let found = plan(&with_check(&[SAVE, 0xb400_0060, RESTORE, RET, 0x9400_0200]), &[]).unwrap();
        assert_eq!(found.sites.len(), 2);
        assert_eq!(plan(&with_check(&[0xb400_0040, RET, 0x9400_0200]), &[]), Err(Refusal::EntryInLoop));
    }

    #[test]
    fn what_is_in_doubt_is_refused() {
        assert_eq!(plan(&[SAVE, RESTORE, RET], &[]), Err(Refusal::NoStackCheck));
        // A frame that is there at the return; a way back to the body; a stack pointer from a register.
        assert_eq!(plan(&with_check(&[SAVE, RET]), &[]), Err(Refusal::StackDepth));
        assert_eq!(plan(&with_check(&[NOP, 0xb5ff_ffe0, RET]), &[]), Err(Refusal::EntryInLoop));
        assert_eq!(plan(&with_check(&[SAVE, 0x9100_03bf, RET]), &[]), Err(Refusal::StackDepth));
        assert_eq!(plan(&with_check(&[NOP, 0x1400_0000]), &[]), Err(Refusal::NoReturn));
    }

    #[test]
    fn a_part_of_a_function_is_refused() {
        let whole = bytes(&with_check(&[SAVE, 0xb400_0060, RESTORE, RET, 0x9400_0200]));
        assert!(plan_call(code(&whole), &[]).is_ok());
        for len in 0..whole.len() {
            assert!(plan_call(code(&whole[..len]), &[]).is_err(), "{len}");
            assert!(plan_call(code(&whole[whole.len() - len..]), &[]).is_err(), "-{len}");
        }
    }

    proptest! {
        #[test]
        fn hostile_code_gets_sites_inside_itself_or_none(
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)
        ) {
            let mut damaged = bytes(&with_check(&[SAVE, 0xb400_0080, 0x9400_0200, RESTORE, RET, RESTORE, RET]));
            let len = damaged.len();
            for (at, byte) in flips {
                damaged[at % len] = byte;
            }
            if let Ok(found) = plan_call(code(&damaged), &[Mark { role: Role::Zeroing, callee: START }]) {
                prop_assert!(found.sites.len() >= 2);
                prop_assert!(found.sites.iter().all(|site| site.function_offset + 4 <= len as u64));
            }
        }

        #[test]
        fn random_code_behind_a_check_gets_sites_inside_itself_or_none(
            body in proptest::collection::vec(
                prop_oneof![Just(RET), Just(SAVE), Just(RESTORE), Just(NOP), 0x9400_0000u32..0xbfff_ffff, any::<u32>()],
                0..40
            )
        ) {
            let words = with_check(&body);
            if let Ok(found) = plan(&words, &[]) {
                prop_assert!(found.sites.iter().all(|site| site.function_offset < 4 * words.len() as u64));
            }
        }
    }
}
