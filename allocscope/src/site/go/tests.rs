//! Sites in the code of real Go versions, in code made by hand, and in hostile code.

use super::*;
use allocscope_common::site_id::StepClass;
use proptest::prelude::*;

const GO_1_19_8: &str = include_str!("../testdata/go1.19.8-allocLarge.hex");
const GO_1_21_13: &str = include_str!("../testdata/go1.21.13-allocLarge.hex");
pub(crate) const GO_1_22_10: &str = include_str!("../testdata/go1.22.10-allocLarge.hex");
const GO_1_19_8_MALLOCGC: &str = include_str!("../testdata/go1.19.8-mallocgc.hex");
const GO_1_21_13_MALLOCGC: &str = include_str!("../testdata/go1.21.13-mallocgc.hex");
pub(crate) const GO_1_22_10_MALLOCGC: &str = include_str!("../testdata/go1.22.10-mallocgc.hex");
const GO_1_23_9_MALLOCGC: &str = include_str!("../testdata/go1.23.9-mallocgc.hex");
/// Has a late jump, loops, early exits and results in the frame.
pub(crate) const GO_1_25_5_MALLOCGC_LARGE: &str = include_str!("../testdata/go1.25.5-mallocgcLarge.hex");
const GO_1_27_3_MALLOCGC_LARGE: &str = include_str!("../testdata/go1.27.3-mallocgcLarge.hex");
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
        assert_eq!((summary(&found.sites), found.exit), (vec![entry(0xa, 8), branch], ExitChoice::Caller));
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
    for (hex, entry, exit) in
        [(GO_1_19_8, stepped, 0x1da), (GO_1_21_13, entry(0xa, 0), 0x159), (GO_1_22_10, entry(0xa, 0), 0x16f)]
    {
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
    assert_eq!((summary(&found.sites), found.exit), (vec![entry(6, 0), jump], ExitChoice::LateInstruction));
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
