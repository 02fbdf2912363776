//! The code of a native AArch64 function into the place where its calls are seen to begin.
//!
//! As on x86-64: the first instruction that the kernel simulates, as long as everything is still as at the entry.
//! The return address is in x30, where a return probe replaces it, so that it must have gone nowhere: neither to
//! the stack nor, signed by PACIASP, back into x30. BTI is passed: it is stepped, and changes nothing.

use allocscope_common::native_id::Argument;
use allocscope_common::site_id::StepClass;

use super::function::Function;
use super::instruction::{Instruction, LINK, Next, STACK_POINTER};
use super::stack::depth_change;
use crate::site::entry::{Entry, Refusal};

/// How far an entry may be moved, in instructions.
const MAX_SLIDE: usize = 12;

/// The cheapest place at the start of the function in `code`, which lies at `start`, where `arguments` are still in
/// x0 to x7 and the return address is in x30 alone.
///
/// # Errors
/// Where the code is not one function's, cannot be probed there, or runs its first instructions more than once.
pub fn slide(code: &[u8], start: u64, arguments: &[Argument]) -> Result<Entry, Refusal> {
    let function = Function::decode(code, start).map_err(Refusal::Decode)?;
    let index = cheap_index(&function, arguments).unwrap_or(0);
    let step = function.instructions().get(index).and_then(|instruction| instruction.step());
    let step = step.ok_or(Refusal::NotProbeable)?;
    if comes_back(&function, index) {
        return Err(Refusal::InLoop);
    }
    // Nothing is attached there, so nobody asks.
    let hands_on = false;
    Ok(Entry { offset: function.offset(index), step, instruction: function.text(index), hands_on })
}

fn cheap_index(function: &Function, arguments: &[Argument]) -> Option<usize> {
    for (index, &instruction) in function.instructions().iter().take(MAX_SLIDE).enumerate() {
        // A call puts another address into x30.
        if matches!(instruction.next(), Next::Calls(_)) {
            return None;
        }
        if instruction.step() == Some(StepClass::Emulated) {
            return Some(index);
        }
        if !leaves_as_it_is(instruction, arguments) {
            return None;
        }
    }
    None
}

/// Whether any jump of the function leads to its start or up to instruction `site`.
fn comes_back(function: &Function, site: usize) -> bool {
    (0..function.instructions().len()).any(|index| {
        let target = match function.next(index) {
            Next::Jumps(distance) | Next::Branches(distance) => function.index_at(index, distance),
            _ => None,
        };
        target.is_some_and(|target| target <= site)
    })
}

/// Whether the next instruction finds stack pointer, return address and arguments as this one did. Only kinds of
/// instructions that are surely understood do.
fn leaves_as_it_is(instruction: Instruction, arguments: &[Argument]) -> bool {
    let Some(registers) = Registers::of(instruction) else { return instruction.is_landing_pad() };
    let is_kept = |register| register == LINK || arguments.iter().any(|&kept| u32::from(kept) == register);
    depth_change(instruction) == Some(0)
        && !registers.written.into_iter().flatten().any(is_kept)
        && !registers.read.into_iter().flatten().any(|register| register == LINK)
}

/// The general registers of an instruction; 31 is in none of them that matters.
struct Registers {
    written: [Option<u32>; 2],
    read: [Option<u32>; 4],
}

impl Registers {
    /// `None` for what is not understood.
    fn of(instruction: Instruction) -> Option<Self> {
        match instruction.group() {
            0b1000 | 0b1001 => Some(Self::of_immediate(instruction)),
            0b0101 | 0b1101 => Some(Self::of_register(instruction)),
            0b0100 | 0b0110 | 0b1100 | 0b1110 => Self::of_memory(instruction),
            _ => None,
        }
    }

    /// A constant may lie where others have a register: that one counts as read, which errs to the safe side.
    fn of_immediate(instruction: Instruction) -> Self {
        let [to, one, other, _] = fields(instruction);
        Self { written: [to, None], read: [one, other, to, None] }
    }

    /// The conditional comparisons have flags where others have their result: it counts as written.
    fn of_register(instruction: Instruction) -> Self {
        let [to, one, other, third] = fields(instruction);
        Self { written: [to, None], read: [one, other, third, None] }
    }

    /// Loads and stores that do not move their base: by a constant or a register, and pairs.
    fn of_memory(instruction: Instruction) -> Option<Self> {
        let [first, base, offset, second] = fields(instruction);
        let is_pair = instruction.is(0x3a80_0000, 0x2800_0000);
        let has_offset = instruction.is(0x3b20_0c00, 0x3820_0800);
        let is_single = has_offset
            || instruction.is(0x3b00_0000, 0x3900_0000)
            || instruction.is(0x3b20_0c00, 0x3800_0000);
        if !is_pair && !is_single {
            return None;
        }
        let base = base.filter(|&base| base != STACK_POINTER);
        let offset = offset.filter(|_| has_offset);
        let is_vector = instruction.bits(26, 1) == 1;
        let values = if is_vector { [None; 2] } else { [first, second.filter(|_| is_pair)] };
        let is_load = if is_pair { instruction.bits(22, 1) == 1 } else { instruction.bits(22, 2) != 0 };
        Some(if is_load {
            Self { written: values, read: [base, offset, None, None] }
        } else {
            Self { written: [None; 2], read: [base, offset, values[0], values[1]] }
        })
    }
}

/// Rd or Rt, Rn, Rm, and Ra or Rt2.
fn fields(instruction: Instruction) -> [Option<u32>; 4] {
    [0, 5, 16, 10].map(|low| Some(instruction.bits(low, 5)))
}

#[cfg(test)]
mod tests {
    use super::super::function::tests::bytes;
    use super::*;
    use proptest::prelude::*;

    const RET: u32 = 0xd65f_03c0;
    const CBZ_X1: u32 = 0xb400_0021;
    const SAVE: u32 = 0xa9bf_7bfd;

    fn entry(words: &[u32], arguments: &[Argument]) -> (u64, StepClass) {
        let found = slide(&bytes(words), 0x1000, arguments).unwrap();
        (found.offset, found.step)
    }

    #[test]
    fn a_simulated_first_instruction_is_the_entry() {
        assert_eq!(entry(&[CBZ_X1, RET], &[1]), (0, StepClass::Emulated));
        assert_eq!(entry(&[RET], &[1]), (0, StepClass::Emulated));
    }

    #[test]
    fn the_entry_slides_over_what_changes_nothing() {
        for passed in [
            0xd503_245f, // bti c
            0xf100_003f, // cmp x1,#0
            0xaa01_03e9, // mov x9,x1
            0xd280_0129, // mov x9,#9
            0xf940_0009, // ldr x9,[x0]
            0xf81f_03e1, // stur x1,[sp,#-16]
            0xa940_2408, // ldp x8,x9,[x0]
            0xf862_6829, // ldr x9,[x1,x2]
        ] {
            assert_eq!(entry(&[passed, CBZ_X1, RET], &[0, 1]), (4, StepClass::Emulated), "{passed:08x}");
        }
    }

    #[test]
    fn the_entry_stays_where_something_changes() {
        for kept in [
            SAVE,        // stp x29,x30,[sp,#-16]!
            0xd503_233f, // paciasp
            0xd100_43ff, // sub sp,sp,#16
            0xaa1e_03e9, // mov x9,x30
            0xf81f_83fe, // stur x30,[sp,#-8]
            0xf800_865e, // str x30,[x18],#8
            0xaa00_03e1, // mov x1,x0
            0x5280_0021, // mov w1,#1
            0xf940_0001, // ldr x1,[x0]
            0xa940_0408, // ldp x8,x1,[x0]
            0x9e66_0001, // fmov x1,d0
            0x9100_003f, // mov sp,x1
            0xdac1_03fe, // pacia x30,sp
        ] {
            assert_eq!(entry(&[kept, CBZ_X1, RET], &[1]), (0, StepClass::Stepped), "{kept:08x}");
        }
        // bl: behind it a return probe would replace another address.
        assert_eq!(entry(&[0xf100_003f, 0x9400_0002, RET, RET], &[1]), (0, StepClass::Stepped));
    }

    #[test]
    fn what_cannot_be_probed_is_refused() {
        // ldr x1,literal
        assert_eq!(slide(&bytes(&[0x5800_0041, RET]), 0, &[1]), Err(Refusal::NotProbeable));
        // cmp x1,#0; cbz x1,+8; b -8
        let looping = bytes(&[0xf100_003f, CBZ_X1, 0x17ff_ffff, RET]);
        assert_eq!(slide(&looping, 0, &[1]), Err(Refusal::InLoop));
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_entry_inside_or_none(
            code in proptest::collection::vec(any::<u8>(), 0..200), start: u64, argument in 0u8..8
        ) {
            if let Ok(entry) = slide(&code, start, &[argument]) {
                prop_assert!(entry.offset + 4 <= code.len() as u64 && entry.offset.is_multiple_of(4));
            }
        }

        #[test]
        fn any_instructions_have_an_entry_inside_or_none(
            words in proptest::collection::vec(prop_oneof![
                Just(CBZ_X1), Just(RET), Just(SAVE), (0x9000_0000u32..), (0xf800_0000u32..0xfa00_0000)
            ], 1..20)
        ) {
            if let Ok(entry) = slide(&bytes(&words), 0, &[1]) {
                prop_assert!(entry.offset < 4 * words.len().min(MAX_SLIDE) as u64);
            }
        }
    }
}
