//! Where the argument of another program's statically defined probe is: into 48 bits of an attach cookie, and back.
//!
//! The compiler leaves an argument wherever it has it when the probe is passed: as a constant, in a register, or in memory
//! at a distance from one. It may be narrower than 64 bits, with a sign or without one.

use crate::cookie::Field;

/// A general register of x86-64, by the number that its instructions have for it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is named by the processor's manual")]
pub enum Register {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Register {
    /// Every one, at the index of its number.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];
}

/// How many bytes an argument has, as their logarithm to base 2.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// 1
    Byte = 0,
    /// 2
    Half = 1,
    /// 4
    Word = 2,
    /// 8
    Double = 3,
}

/// How the bits of an argument are a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scalar {
    /// Those that count are the lowest of so many bytes.
    pub width: Width,
    /// Whether the highest of them is a sign.
    pub signed: bool,
}

/// Where an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Nowhere: it is always this, less than 2^[`NUMBER_BITS`].
    Constant(u64),
    /// In a register.
    Register {
        /// Which one.
        register: Register,
        /// How it is a number.
        scalar: Scalar,
    },
    /// In memory.
    Memory {
        /// The register that it is found by.
        base: Register,
        /// Bytes from there.
        displacement: i32,
        /// How it is a number.
        scalar: Scalar,
    },
}

/// No argument is told.
pub const NONE: u8 = 0;
/// It is a constant.
pub const CONSTANT: u8 = 1;
/// It is in a register.
pub const REGISTER: u8 = 2;
/// It is in memory.
pub const MEMORY: u8 = 3;

/// A number of more bits is none of bytes: 64 TiB are allocated by nobody at once.
pub const NUMBER_BITS: u32 = 46;

// Where a cookie has what; a constant has the place of all the rest.
const KIND: Field = Field::new(16, 2);
const NUMBER: Field = Field::new(18, NUMBER_BITS);
const REGISTER_NUMBER: Field = Field::new(18, 4);
const WIDTH: Field = Field::new(22, 2);
const SIGNED: Field = Field::new(24, 1);
const DISPLACEMENT: Field = Field::new(32, 32);

impl Operand {
    /// Its part of an attach cookie, the upper 48 bits.
    pub const fn to_cookie(self) -> u64 {
        match self {
            Self::Constant(number) => KIND.put(CONSTANT as u64) | NUMBER.put(number),
            Self::Register { register, scalar } => {
                KIND.put(REGISTER as u64) | REGISTER_NUMBER.put(register as u64) | scalar.to_cookie()
            }
            Self::Memory { base, displacement, scalar } => {
                KIND.put(MEMORY as u64)
                    | REGISTER_NUMBER.put(base as u64)
                    | scalar.to_cookie()
                    | DISPLACEMENT.put(displacement as u32 as u64)
            }
        }
    }
}

impl Scalar {
    const fn to_cookie(self) -> u64 {
        WIDTH.put(self.width as u64) | SIGNED.put(self.signed as u64)
    }
}

/// [`NONE`], [`CONSTANT`], [`REGISTER`] or [`MEMORY`].
#[inline(always)]
pub const fn kind_of(cookie: u64) -> u8 {
    KIND.get(cookie) as u8
}

/// The constant.
#[inline(always)]
pub const fn constant_of(cookie: u64) -> u64 {
    NUMBER.get(cookie)
}

/// The number of the register that holds it, or that it is found by.
#[inline(always)]
pub const fn register_of(cookie: u64) -> u8 {
    REGISTER_NUMBER.get(cookie) as u8
}

/// Bytes from that register to it, sign and all: to be added with wrap-around.
#[inline(always)]
pub const fn displacement_of(cookie: u64) -> u64 {
    DISPLACEMENT.get(cookie) as u32 as i32 as i64 as u64
}

/// The logarithm to base 2 of how many bytes it has.
#[inline(always)]
pub const fn width_of(cookie: u64) -> u8 {
    WIDTH.get(cookie) as u8
}

/// The number that `word` has in its lowest bytes; `None` where it is below 0 or has more than [`NUMBER_BITS`].
#[inline(always)]
pub const fn number_of(cookie: u64, word: u64) -> Option<u64> {
    let above = 64 - (8 << width_of(cookie));
    let shifted = word << above;
    let number = if SIGNED.get(cookie) == 0 { shifted >> above } else { (shifted as i64 >> above) as u64 };
    if number >> NUMBER_BITS == 0 { Some(number) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

    #[test]
    fn a_cookie_carries_every_register_width_and_distance() {
        for (number, &base) in Register::ALL.iter().enumerate() {
            for width in WIDTHS {
                for displacement in [0, -16, 8, i32::MIN, i32::MAX] {
                    let scalar = Scalar { width, signed: false };
                    let cookie = Operand::Memory { base, displacement, scalar }.to_cookie();
                    assert_eq!((kind_of(cookie), register_of(cookie)), (MEMORY, number as u8));
                    assert_eq!((width_of(cookie), cookie & 0xffff), (width as u8, 0));
                    assert_eq!(displacement_of(cookie) as i64, i64::from(displacement));
                }
                let scalar = Scalar { width, signed: true };
                let cookie = Operand::Register { register: base, scalar }.to_cookie();
                assert_eq!((kind_of(cookie), register_of(cookie)), (REGISTER, number as u8));
            }
        }
        let most = (1 << NUMBER_BITS) - 1;
        let cookie = Operand::Constant(most).to_cookie();
        assert_eq!((kind_of(cookie), constant_of(cookie), cookie & 0xffff), (CONSTANT, most, 0));
        assert_eq!(kind_of(0xffff), NONE);
    }

    #[test]
    fn a_number_is_as_wide_as_it_is_told() {
        let number = |width, signed, word| {
            let scalar = Scalar { width, signed };
            number_of(Operand::Register { register: Register::Rax, scalar }.to_cookie(), word)
        };
        assert_eq!(number(Width::Byte, false, 0x1234_56ff), Some(0xff));
        assert_eq!(number(Width::Half, false, 0x1234_ff01), Some(0xff01));
        assert_eq!(number(Width::Word, false, u64::MAX), Some(0xffff_ffff));
        assert_eq!(number(Width::Word, true, 0xffff_ffff_7fff_ffff), Some(0x7fff_ffff));
        assert_eq!(number(Width::Double, false, (1 << NUMBER_BITS) - 1), Some((1 << NUMBER_BITS) - 1));
        for (width, signed, word) in [
            (Width::Byte, true, 0x80),
            (Width::Word, true, 0xffff_ffff),
            (Width::Double, true, u64::MAX),
            (Width::Double, false, 1 << NUMBER_BITS),
        ] {
            assert_eq!(number(width, signed, word), None, "{width:?} {signed} {word:#x}");
        }
    }
}
