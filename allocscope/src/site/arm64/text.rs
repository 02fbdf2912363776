//! An AArch64 instruction into a line for people: those that probes stand on by name, others by their encoding.

use super::instruction::{Instruction, Next};

const CONDITIONS: [&str; 16] =
    ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv"];
const PAGE_BYTES: u64 = 4096;

/// The instruction at `address`, as GNU's assembler would take it.
pub fn text(instruction: Instruction, address: u64) -> String {
    let first = instruction.bits(0, 5);
    let target = |distance: i64| format!("{:#x}", address.wrapping_add_signed(distance));
    match instruction.next() {
        Next::Returns if instruction.0 == 0xd65f_03c0 => "ret".to_owned(),
        Next::Jumps(distance) => format!("b {}", target(distance)),
        Next::Calls(Some(distance)) => format!("bl {}", target(distance)),
        Next::Branches(distance) => format!("{}{}", condition(instruction), target(distance)),
        _ if instruction.is_address() && instruction.0 >> 31 == 1 => {
            let page = (address & !(PAGE_BYTES - 1)).wrapping_add_signed(immediate(instruction) << 12);
            format!("adrp x{first}, {page:#x}")
        }
        _ if instruction.is_address() => format!("adr x{first}, {}", target(immediate(instruction))),
        _ => hint(instruction).map_or_else(|| format!(".inst {:#010x}", instruction.0), str::to_owned),
    }
}

/// A branch's mnemonic and what it looks at.
fn condition(instruction: Instruction) -> String {
    let register = instruction.bits(0, 5);
    let width = if instruction.0 >> 31 == 1 { 'x' } else { 'w' };
    if instruction.is(0xff00_0000, 0x5400_0000) {
        let consistent = if instruction.bits(4, 1) == 1 { "c" } else { "" };
        let name = CONDITIONS.get(instruction.bits(0, 4) as usize).copied().unwrap_or_default();
        return format!("b{consistent}.{name} ");
    }
    let non_zero = if instruction.bits(24, 1) == 1 { "nz" } else { "z" };
    if instruction.is(0x7e00_0000, 0x3400_0000) {
        return format!("cb{non_zero} {width}{register}, ");
    }
    let bit = instruction.bits(31, 1) << 5 | instruction.bits(19, 5);
    format!("tb{non_zero} {width}{register}, #{bit}, ")
}

/// Of ADR and ADRP.
fn immediate(instruction: Instruction) -> i64 {
    instruction.signed(5, 19) << 2 | i64::from(instruction.bits(29, 2))
}

fn hint(instruction: Instruction) -> Option<&'static str> {
    Some(match instruction.hint()? {
        0 => "nop",
        25 => "paciasp",
        27 => "pacibsp",
        32 => "bti",
        34 => "bti c",
        36 => "bti j",
        38 => "bti jc",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `objdump -d` prints them.
    #[test]
    fn what_probes_stand_on_is_named() {
        for (word, expected) in [
            (0xd65f_03c0, "ret"),
            (0xd503_201f, "nop"),
            (0xd503_245f, "bti c"),
            (0xd503_233f, "paciasp"),
            (0x17ff_ff69, "b 0xda4"),
            (0x9400_1843, "bl 0x710c"),
            (0x5400_11e9, "b.ls 0x123c"),
            (0xb400_0064, "cbz x4, 0x100c"),
            (0x3500_00a2, "cbnz w2, 0x1014"),
            (0x3600_0062, "tbz w2, #0, 0x100c"),
            (0xb7f8_0061, "tbnz x1, #63, 0x100c"),
            (0x9000_0adb, "adrp x27, 0x159000"),
            (0x1000_0040, "adr x0, 0x1008"),
            (0xf81b_0ffe, ".inst 0xf81b0ffe"),
        ] {
            assert_eq!(text(Instruction(word), 0x1000), expected);
        }
    }
}
