//! An AArch64 instruction into what it does to the stack pointer.

use super::instruction::{Instruction, STACK_POINTER};

/// How many bytes it takes from the stack by the time the next one runs: `None` where that is not a constant.
pub fn depth_change(instruction: Instruction) -> Option<i64> {
    let (to, base) = (instruction.bits(0, 5), instruction.bits(5, 5));
    match instruction.group() {
        // SVE and SME have instructions of their own for their frames.
        0b0000 | 0b0010 => None,
        0b1000 | 0b1001 => immediate_change(instruction, to, base),
        0b0100 | 0b0110 | 0b1100 | 0b1110 if base == STACK_POINTER => memory_change(instruction),
        0b0101 | 0b1101 if to == STACK_POINTER && is_register_change(instruction) => None,
        _ => Some(0),
    }
}

/// ADD and SUB of a constant; ADDG and the logical instructions can have the stack pointer as their result, too.
fn immediate_change(instruction: Instruction, to: u32, base: u32) -> Option<i64> {
    let sets_flags = instruction.bits(29, 1) == 1;
    match instruction.bits(23, 3) {
        0b010 if to == STACK_POINTER && !sets_flags => {
            let bytes = i64::from(instruction.bits(10, 12)) << (12 * instruction.bits(22, 1));
            let change = if instruction.bits(30, 1) == 1 { bytes } else { -bytes };
            (base == STACK_POINTER && instruction.bits(31, 1) == 1).then_some(change)
        }
        0b011 if to == STACK_POINTER => None,
        0b100 if to == STACK_POINTER && instruction.bits(29, 2) != 0b11 => None,
        _ => Some(0),
    }
}

/// Loads and stores by the stack pointer, some of which move it.
fn memory_change(instruction: Instruction) -> Option<i64> {
    if instruction.is(0x3a00_0000, 0x2800_0000) {
        // A pair: behind the access, or before it.
        let moves = instruction.bits(23, 1) == 1;
        return Some(if moves { -(instruction.signed(15, 7) << pair_shift(instruction)) } else { 0 });
    }
    if instruction.is(0x3b20_0000, 0x3800_0000) {
        let moves = instruction.bits(10, 1) == 1;
        return Some(if moves { -instruction.signed(12, 9) } else { 0 });
    }
    let keeps = instruction.is(0x3b00_0000, 0x3900_0000)
        || instruction.is(0x3b20_0c00, 0x3820_0800)
        || instruction.is(0x3b20_0c00, 0x3820_0000)
        || instruction.is(0x3f00_0000, 0x0800_0000)
        || instruction.is(0x3b00_0000, 0x1800_0000)
        || instruction.is(0xbfbf_0000, 0x0c00_0000)
        || instruction.is(0xbf9f_0000, 0x0d00_0000);
    keeps.then_some(0)
}

/// The unit of a pair's offset, as a power of two of bytes.
fn pair_shift(instruction: Instruction) -> u32 {
    let size = instruction.bits(30, 2);
    match (instruction.bits(26, 1), size) {
        (1, _) => 2 + size,
        (_, 0b00) => 2,
        // LDPSW; STGP counts in granules.
        (_, 0b01) => {
            if instruction.bits(22, 1) == 1 {
                2
            } else {
                4
            }
        }
        _ => 3,
    }
}

/// Register instructions whose result 31 is the stack pointer: ADD and SUB of an extended register, ADDPT, SUBPT
/// and IRG.
fn is_register_change(instruction: Instruction) -> bool {
    instruction.is(0x3f20_0000, 0x0b20_0000)
        || instruction.is(0xbfe0_e000, 0x9a00_2000)
        || instruction.is(0xffe0_fc00, 0x9ac0_1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prologues_and_epilogues_are_followed() {
        for (word, change) in [
            (0xf81b_0ffe_u32, Some(80)), // str x30,[sp,#-80]!
            (0xf845_07fe, Some(-80)),    // ldr x30,[sp],#80
            (0xa9b8_7bfd, Some(128)),    // stp x29,x30,[sp,#-128]!
            (0xa8c8_7bfd, Some(-128)),   // ldp x29,x30,[sp],#128
            (0xd101_43ff, Some(80)),     // sub sp,sp,#80
            (0x9140_07ff, Some(-4096)),  // add sp,sp,#1,lsl #12
            (0xa97f_fbfd, Some(0)),      // ldp x29,x30,[sp,#-8]
            (0xf81f_83fd, Some(0)),      // stur x29,[sp,#-8]
            (0xf900_1be0, Some(0)),      // str x0,[sp,#48]
            (0xeb30_63ff, Some(0)),      // cmp sp,x16
            (0xf100_03ff, Some(0)),      // cmp sp,#0 (its result is the zero register)
            (0xaa03_03ff, Some(0)),      // orr xzr,xzr,x3
            (0x6dbf_27e8, Some(16)),     // stp d8,d9,[sp,#-16]!
            (0x9100_03bf, None),         // mov sp,x29
            (0x927c_ed3f, None),         // and sp,x9,#-16
            (0xcb30_63ff, None),         // sub sp,sp,x16
            (0x9ac0_13ff, None),         // irg sp,sp
            (0x043f_57ff, None),         // addvl sp,sp,#-1
        ] {
            assert_eq!(depth_change(Instruction(word)), change, "{word:08x}");
        }
    }
}
