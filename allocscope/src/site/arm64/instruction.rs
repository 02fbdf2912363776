//! A 32-bit word into what an AArch64 instruction does, as far as probes depend on it.
//!
//! Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4.

use allocscope_common::site_id::StepClass;

/// The number that stands for the stack pointer or for zero, as the instruction has it.
pub const STACK_POINTER: u32 = 31;
/// The register that a call puts the return address into.
pub const LINK: u32 = 30;

const NOP: u32 = 0xd503_201f;
/// Hints that the kernel runs a copy of (`aarch64_insn_is_steppable_hint` in arch/arm64/include/asm/insn.h):
/// XPACLRI, PACIA1716, PACIB1716, PACIAZ, PACIASP, PACIBZ, PACIBSP and the four BTI. Those that authenticate
/// (AUTIASP) are not among them.
const STEPPED_HINTS: [u32; 11] = [7, 8, 10, 24, 25, 26, 27, 32, 34, 36, 38];

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction(pub u32);

/// Where control goes behind an instruction. Distances are in bytes from the instruction itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the next instruction.
    Falls,
    /// There.
    Jumps(i64),
    /// There, or to the next instruction.
    Branches(i64),
    /// Into a function, there or at an address from a register, and back.
    Calls(Option<i64>),
    /// To the caller.
    Returns,
    /// To an address that only the running program knows.
    JumpsAnywhere,
    /// Nowhere: an exception.
    Traps,
}

impl Instruction {
    /// Whether this is an instruction at all. UDF, the encodings that the architecture leaves unallocated at its
    /// topmost level, and unknown kinds of jumps are none: their effect cannot be told.
    pub const fn is_known(self) -> bool {
        match self.group() {
            // The highest bit tells SME from UDF.
            0b0000 => self.0 >> 31 == 1,
            0b0001 | 0b0011 => false,
            0b1010 | 0b1011 => self.next_of_branches().is_some(),
            _ => true,
        }
    }

    /// How the kernel runs it under a probe; `None` where it refuses to.
    ///
    /// Source: `arm_probe_decode_insn` in arch/arm64/kernel/probes/decode-insn.c. Literal loads are simulated for
    /// kprobes only. Whatever the instruction, a probe between an exclusive load and its store would make that fail
    /// for ever: no site lies there, since entries pass no exclusive load and no call or return stands behind one.
    pub fn step(self) -> Option<StepClass> {
        match self.group() {
            _ if !self.is_known() => None,
            0b1010 | 0b1011 => self.step_of_branches(),
            _ if self.is_address() => Some(StepClass::Emulated),
            _ if self.is_literal() || self.is_exclusive() || self.is_memory_copy() => None,
            _ => Some(StepClass::Stepped),
        }
    }

    /// Whether the kernel simulates it.
    pub fn is_cheap(self) -> bool {
        self.step() == Some(StepClass::Emulated)
    }

    /// Where control goes behind it.
    pub const fn next(self) -> Next {
        match self.group() {
            0b1010 | 0b1011 => match self.next_of_branches() {
                Some(next) => next,
                None => Next::JumpsAnywhere,
            },
            _ => Next::Falls,
        }
    }

    /// The number of a hint: 0 is NOP.
    pub const fn hint(self) -> Option<u32> {
        if self.is(0xffff_f01f, 0xd503_201f) { Some(self.bits(5, 7)) } else { None }
    }

    /// Whether it is BTI, a landing pad: it changes nothing.
    pub fn is_landing_pad(self) -> bool {
        self.hint().is_some_and(|hint| matches!(hint, 32 | 34 | 36 | 38))
    }

    /// Whether the bits under `mask` are `value`.
    pub const fn is(self, mask: u32, value: u32) -> bool {
        self.0 & mask == value
    }

    /// `count` bits from bit `low` on.
    pub const fn bits(self, low: u32, count: u32) -> u32 {
        (self.0 >> low) & ((1 << count) - 1)
    }

    /// The same as a signed number.
    pub const fn signed(self, low: u32, count: u32) -> i64 {
        let unused = 64 - count;
        ((self.bits(low, count) as i64) << unused) >> unused
    }

    /// Bits 28 to 25, which tell the main groups apart.
    pub const fn group(self) -> u32 {
        self.bits(25, 4)
    }

    /// ADR and ADRP.
    pub const fn is_address(self) -> bool {
        self.is(0x1f00_0000, 0x1000_0000)
    }

    /// Loads and prefetches from an address relative to their own.
    const fn is_literal(self) -> bool {
        self.is(0x3b00_0000, 0x1800_0000)
    }

    const fn is_exclusive(self) -> bool {
        self.is(0x3f80_0000, 0x0800_0000)
    }

    const fn is_memory_copy(self) -> bool {
        self.is(0x3b20_0c00, 0x1900_0400)
    }

    const fn is_system(self) -> bool {
        self.is(0xffc0_0000, 0xd500_0000)
    }

    fn step_of_branches(self) -> Option<StepClass> {
        match self.next() {
            _ if self.0 == NOP => Some(StepClass::Emulated),
            // The consistent branch BC.cond is not simulated, nor is what authenticates its target.
            Next::Branches(_) => (!self.is(0xff00_0010, 0x5400_0010)).then_some(StepClass::Emulated),
            Next::Jumps(_) | Next::Calls(Some(_)) => Some(StepClass::Emulated),
            _ if self.is_plain_register_branch() => Some(StepClass::Emulated),
            Next::Falls if self.is_system() => self.step_of_system(),
            _ => None,
        }
    }

    /// BR, BLR and RET.
    const fn is_plain_register_branch(self) -> bool {
        self.is(0xffff_fc1f, 0xd61f_0000)
            || self.is(0xffff_fc1f, 0xd63f_0000)
            || self.is(0xffff_fc1f, 0xd65f_0000)
    }

    fn step_of_system(self) -> Option<StepClass> {
        // MSR to a register, and of an immediate.
        let writes = self.is(0xfff0_0000, 0xd510_0000) || self.is(0xfff8_f01f, 0xd500_401f);
        let is_good = self.hint().is_none_or(|hint| STEPPED_HINTS.contains(&hint));
        (!writes && is_good).then_some(StepClass::Stepped)
    }

    /// Of branches, exceptions and system instructions; `None` for what is not known.
    const fn next_of_branches(self) -> Option<Next> {
        if self.is(0xff00_0000, 0x5400_0000) || self.is(0x7e00_0000, 0x3400_0000) {
            return Some(Next::Branches(self.signed(5, 19) * 4));
        }
        if self.is(0x7e00_0000, 0x3600_0000) {
            return Some(Next::Branches(self.signed(5, 14) * 4));
        }
        if self.is(0xfc00_0000, 0x1400_0000) {
            return Some(Next::Jumps(self.signed(0, 26) * 4));
        }
        if self.is(0xfc00_0000, 0x9400_0000) {
            return Some(Next::Calls(Some(self.signed(0, 26) * 4)));
        }
        self.next_of_registers()
    }

    const fn next_of_registers(self) -> Option<Next> {
        // RET to the link register; RETAA and RETAB.
        if self.0 == 0xd65f_03c0 || self.is(0xffff_fbff, 0xd65f_0bff) {
            return Some(Next::Returns);
        }
        // BLR; BLRAA and its like.
        if self.is(0xffff_fc1f, 0xd63f_0000) || self.is(0xfeff_f800, 0xd63f_0800) {
            return Some(Next::Calls(None));
        }
        // BR and RET to another register; BRAA and its like.
        if self.is_plain_register_branch() || self.is(0xfeff_f800, 0xd61f_0800) {
            return Some(Next::JumpsAnywhere);
        }
        self.next_of_system()
    }

    const fn next_of_system(self) -> Option<Next> {
        // SVC comes back; BRK, HLT and their like do not.
        if self.is(0xffe0_001f, 0xd400_0001) || self.is_system() {
            return Some(Next::Falls);
        }
        if self.is(0xff00_0000, 0xd400_0000) { Some(Next::Traps) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(words: &[u32]) -> Vec<Option<StepClass>> {
        words.iter().map(|&word| Instruction(word).step()).collect()
    }

    #[test]
    fn branches_and_addresses_are_simulated() {
        // b, bl, b.ls, cbz, cbnz, tbz, tbnz, br, blr, ret, ret x9, adr, adrp, nop
        let words = [
            0x1400_0003,
            0x9400_1843,
            0x5400_11e9,
            0xb400_0064,
            0x3500_00a2,
            0x3600_0062,
            0xb7f8_2a61,
            0xd61f_0200,
            0xd63f_0000,
            0xd65f_03c0,
            0xd65f_0120,
            0x1000_0000,
            0x9000_0adb,
            NOP,
        ];
        assert_eq!(steps(&words), [Some(StepClass::Emulated); 14]);
    }

    #[test]
    fn most_others_are_stepped() {
        // str x30,[sp,#-80]!; cmp sp,x16; ldr x16,[x28,#16]; stlr; bti c; paciasp; dmb; mrs x0,tpidr_el0
        let words = [
            0xf81b_0ffe,
            0xeb30_63ff,
            0xf940_0b90,
            0xc89f_fca0,
            0xd503_245f,
            0xd503_233f,
            0xd503_3ebf,
            0xd53b_d040,
        ];
        assert_eq!(steps(&words), [Some(StepClass::Stepped); 8]);
    }

    #[test]
    fn what_the_kernel_refuses_has_no_step() {
        // ldr x0,literal; ldaxr; stlxr; svc; brk; retaa; autiasp; msr; yield; bc.eq; udf; unallocated
        let words = [
            0x5800_0040,
            0xc85f_fc23,
            0xc81b_fc23,
            0xd400_0001,
            0xd420_0000,
            0xd65f_0bff,
            0xd503_23bf,
            0xd51b_d040,
            0xd503_203f,
            0x5400_0010,
            0,
            0x0200_0000,
        ];
        assert_eq!(steps(&words), [None; 12]);
    }

    #[test]
    fn targets_are_distances() {
        let next = |word| Instruction(word).next();
        assert_eq!(next(0x17ff_ff69), Next::Jumps(-0x25c));
        assert_eq!(next(0x5400_11e9), Next::Branches(0x23c));
        assert_eq!(next(0xb5ff_ffbb), Next::Branches(-0xc));
        assert_eq!(next(0x3600_00a2), Next::Branches(0x14));
        assert_eq!(next(0x9400_1843), Next::Calls(Some(0x610c)));
        assert_eq!((next(0xd65f_03c0), next(0xd65f_0120)), (Next::Returns, Next::JumpsAnywhere));
        assert_eq!((next(0xd420_0000), next(0xd400_0001)), (Next::Traps, Next::Falls));
    }

    #[test]
    fn what_is_no_instruction_is_told() {
        // udf #0, udf #0xffff, unallocated, a compare-and-branch of later architectures
        for word in [0, 0xffff, 0x0200_0000, 0x0600_0000, 0x7400_0000] {
            assert!(!Instruction(word).is_known(), "{word:x}");
        }
        assert!(Instruction(NOP).is_known());
    }
}
