//! The code of a native function into the place where its calls are seen to begin.
//!
//! A probe at the very first instruction is what other tools use; where that instruction is single-stepped,
//! the first one behind it that the kernel emulates does as well, as long as nothing has changed on the way:
//! the stack pointer still points to the return address and the arguments are still in their registers.

use std::fmt;

use allocscope_common::native_id::Argument;
use allocscope_common::site_id::StepClass;
use iced_x86::{FlowControl, Instruction, OpKind, Register};

use super::classify::{is_cheap_site, step_class};
use super::decode::{DecodeError, Function};
use super::flow::depth_change;
use super::result::writes_register;

/// How far an entry may be moved: prologues set up what they need within a few instructions.
const MAX_SLIDE: usize = 12;

/// The argument registers of the C calling convention on x86-64, in order.
const ARGUMENTS: [Register; 5] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8];

/// Where a function's calls are seen to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes from the function's start.
    pub offset: u64,
    /// How the kernel runs the instruction.
    pub step: StepClass,
    /// The instruction, disassembled.
    pub instruction: String,
    /// Whether the function may end in a jump to another one, which returns in its place.
    pub hands_on: bool,
}

/// Why no probe is put at a function's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not one function's instructions.
    Decode(DecodeError),
    /// Control comes back to the entry within one call.
    InLoop,
    /// The kernel lets no probe stand at its start.
    NotProbeable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(DecodeError::Empty) => f.write_str("it has no code"),
            Self::Decode(DecodeError::TooLong) => f.write_str("it is too long"),
            Self::Decode(DecodeError::Invalid { offset }) => {
                write!(f, "no instruction can be decoded at +{offset:#x}")
            }
            Self::InLoop => f.write_str("its entry lies in a loop"),
            Self::NotProbeable => f.write_str("the kernel refuses probes of its first instruction"),
        }
    }
}

/// The cheapest place at the start of the function in `code`, which lies at `start`, where `arguments` are
/// still in their registers and the stack pointer still points to the return address.
///
/// # Errors
/// Where the code does not decode to its end, or runs its first instructions more than once in a call.
pub fn slide(code: &[u8], start: u64, arguments: &[Argument]) -> Result<Entry, Refusal> {
    let function = Function::decode(code, start).map_err(Refusal::Decode)?;
    let index = cheap_index(&function, arguments).unwrap_or(0);
    let offset = function.offset(index).unwrap_or_default();
    if comes_back(&function, start.saturating_add(offset)) {
        return Err(Refusal::InLoop);
    }
    Ok(Entry {
        offset,
        step: step_class(function.encoding(index)),
        instruction: function.text(index),
        hands_on: hands_on(&function),
    })
}

/// The first cheap instruction before anything changes. A 5-byte nop is none even at the very start: what the
/// kernel makes of it is a system call, which a seccomp filter may forbid.
fn cheap_index(function: &Function<'_>, arguments: &[Argument]) -> Option<usize> {
    for (index, instruction) in function.instructions().iter().take(MAX_SLIDE).enumerate() {
        let encoding = function.encoding(index);
        if is_cheap_site(encoding) {
            return Some(index);
        }
        if !leaves_as_it_is(instruction, arguments) {
            return None;
        }
    }
    None
}

/// Whether the next instruction finds stack pointer and arguments as this one did.
fn leaves_as_it_is(instruction: &Instruction, arguments: &[Argument]) -> bool {
    let mut kept = arguments.iter().filter_map(|&index| ARGUMENTS.get(usize::from(index)));
    let writes_kept = kept.any(|&register| writes_register(instruction, register));
    instruction.flow_control() == FlowControl::Next
        && depth_change(instruction) == Some(0)
        && !instruction.is_stack_instruction()
        && !writes_kept
}

/// Whether any jump of the function leads to its start or up to `site`.
fn comes_back(function: &Function<'_>, site: u64) -> bool {
    jumps(function).any(|target| target.is_some_and(|target| (function.start()..=site).contains(&target)))
}

/// Jumps to what was split off the function count as well.
fn hands_on(function: &Function<'_>) -> bool {
    jumps(function).any(|target| target.is_none_or(|target| function.index_of(target).is_none()))
}

/// Where each jump of a function leads; `None` where that is not in the instruction.
fn jumps<'a>(function: &'a Function<'_>) -> impl Iterator<Item = Option<u64>> + 'a {
    function.instructions().iter().filter_map(|instruction| match instruction.flow_control() {
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
            let is_near = matches!(instruction.op0_kind(), OpKind::NearBranch64);
            Some(is_near.then(|| instruction.near_branch64()))
        }
        FlowControl::IndirectBranch => Some(None),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(code: &[u8], arguments: &[Argument]) -> (u64, StepClass) {
        let found = slide(code, 0x1000, arguments).unwrap();
        (found.offset, found.step)
    }

    #[test]
    fn an_emulated_first_instruction_is_the_entry() {
        // push rbp; ret
        assert_eq!(entry(&[0x55, 0xc3], &[0]), (0, StepClass::Emulated));
        // nop5; push rbp
        assert_eq!(entry(&[0x0f, 0x1f, 0x44, 0, 0, 0x55, 0xc3], &[0]), (5, StepClass::Emulated));
    }

    #[test]
    fn the_entry_slides_over_what_changes_nothing() {
        // test rsi,rsi; js +0: glibc's _int_malloc
        assert_eq!(entry(&[0x48, 0x85, 0xf6, 0x78, 0x00, 0xc3], &[1]), (3, StepClass::Emulated));
        // endbr64; push rbp
        assert_eq!(entry(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3], &[0]), (4, StepClass::Emulated));
        // movzx r15d,r8b behind a push is not reached: the push is the entry
        assert_eq!(entry(&[0x41, 0x57, 0x45, 0x0f, 0xb6, 0xf8, 0xc3], &[2]), (0, StepClass::Emulated));
    }

    #[test]
    fn the_entry_stays_where_something_changes() {
        // mov rsi,rdi; push rbp: the size is overwritten
        assert_eq!(entry(&[0x48, 0x89, 0xfe, 0x55, 0xc3], &[1]), (0, StepClass::Stepped));
        // movzx esi,sil; push rbp: so it is by half a register
        assert_eq!(entry(&[0x40, 0x0f, 0xb6, 0xf6, 0x55, 0xc3], &[1]), (0, StepClass::Stepped));
        assert_eq!(entry(&[0x40, 0x0f, 0xb6, 0xf6, 0x55, 0xc3], &[0]), (4, StepClass::Emulated));
        // sub rsp,8; push rbp: the return address is elsewhere
        assert_eq!(entry(&[0x48, 0x83, 0xec, 0x08, 0x55, 0xc3], &[0]), (0, StepClass::Stepped));
        // pop rax; push rbp
        assert_eq!(entry(&[0x58, 0x55, 0xc3], &[0]), (0, StepClass::Stepped));
    }

    #[test]
    fn an_entry_in_a_loop_is_refused() {
        // push rbp; jmp -3
        assert_eq!(slide(&[0x55, 0xeb, 0xfd], 0x1000, &[0]), Err(Refusal::InLoop));
        // test rsi,rsi; js +1; ret; jmp to the js
        assert_eq!(
            slide(&[0x48, 0x85, 0xf6, 0x78, 0x01, 0xc3, 0xeb, 0xfb], 0x1000, &[1]),
            Err(Refusal::InLoop)
        );
    }

    #[test]
    fn a_jump_out_of_the_function_hands_its_call_on() {
        let hands_on = |code: &[u8]| slide(code, 0x1000, &[0]).unwrap().hands_on;
        // push rbp; jmp +0x10; and through memory
        assert!(hands_on(&[0x55, 0xeb, 0x10]));
        assert!(hands_on(&[0x55, 0xff, 0x25, 0, 0, 0, 0]));
        // push rbp; js +0; call +0x10; ret
        assert!(!hands_on(&[0x55, 0x78, 0x00, 0xe8, 0x10, 0, 0, 0, 0xc3]));
    }

    proptest! {
        #[test]
        fn hostile_code_gets_a_site_inside_itself_or_none(
            code in proptest::collection::vec(any::<u8>(), 0..64), start: u64
        ) {
            if let Ok(found) = slide(&code, start, &[0, 1, 2]) {
                prop_assert!(found.offset < code.len() as u64);
            }
        }
    }
}
