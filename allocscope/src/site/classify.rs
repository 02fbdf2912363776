//! An instruction's bytes into what the kernel must do to run it under a probe.
//!
//! Source: `arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` and `push_setup_xol_ops`. What is not
//! surely emulated counts as stepped: the mistake costs time, not truth.

use allocscope_common::site_id::StepClass;

/// The 5-byte nop, which Linux 6.18 turns into a call.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// How the kernel runs the x86-64 instruction with this encoding.
pub fn step_class(encoding: &[u8]) -> StepClass {
    match *encoding {
        // push r64, nop, jmp rel8, jcc rel8.
        [0x50..=0x57 | 0x90] | [0x41, 0x50..=0x57] | [0xeb | 0x70..=0x7f, _] => StepClass::Emulated,
        // call rel32, jmp rel32, jcc rel32.
        [0xe8 | 0xe9, _, _, _, _] | [0x0f, 0x80..=0x8f, _, _, _, _] => StepClass::Emulated,
        _ if encoding == NOP5 => StepClass::Emulated,
        _ => StepClass::Stepped,
    }
}

/// Whether a probe may stand here, in the middle of a function, at the price of one trap.
///
/// Not on a 5-byte nop: the kernel's optimisation of it writes below the stack pointer.
pub fn is_cheap_site(encoding: &[u8]) -> bool {
    step_class(encoding) == StepClass::Emulated && encoding != NOP5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_pushes_and_calls_are_emulated() {
        for encoding in [
            &[0x55][..],
            &[0x41, 0x54],
            &[0x90],
            &[0xeb, 0x10],
            &[0x76, 0x10],
            &[0xe9, 0, 0, 0, 0],
            &[0xe8, 0, 0, 0, 0],
            &[0x0f, 0x86, 0, 0, 0, 0],
        ] {
            assert_eq!(step_class(encoding), StepClass::Emulated, "{encoding:x?}");
            assert!(is_cheap_site(encoding));
        }
        assert_eq!(step_class(&NOP5), StepClass::Emulated);
        assert!(!is_cheap_site(&NOP5));
    }

    #[test]
    fn everything_else_is_stepped() {
        for encoding in [
            &[][..],
            &[0xc3],
            &[0x5d],
            &[0x48, 0x83, 0xec, 0x48],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x66, 0xe8, 0, 0, 0, 0],
            &[0xff, 0xd0],
            &[0xf3, 0x0f, 0x1e, 0xfa],
        ] {
            assert_eq!(step_class(encoding), StepClass::Stepped, "{encoding:x?}");
            assert!(!is_cheap_site(encoding));
        }
    }
}
