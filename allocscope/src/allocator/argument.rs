//! The arguments that a probe's note tells, as text, into where the kernel side finds one of them, or why it does not.
//!
//! The form is the assembler's own, with what systemtap's `sys/sdt.h` puts in front: bytes, below 0 where there is a
//! sign, and `@`. `8@%rdi`, `-4@%eax`, `8@$64`, `4@-16(%rbp)`, `8@(%rsp)`; without bytes a register is as wide as
//! its name says, and memory is 8 bytes.

use allocscope_common::operand::{Operand, Register, Scalar, Width, number_of};

const MISSING: &str = "its arguments are too few";
const UNKNOWN: &str = "its argument is neither a constant nor in a register nor in memory by one";
const BY_CODE: &str = "its argument is in memory by the place of its code";
const TOO_WIDE: &str = "its argument is wider than the register that has it";
const NO_BYTES: &str = "its argument is a constant that is no number of bytes";

/// The names of each register at 64, 32, 16 and 8 bits, those of [`Register::ALL`] in their order.
const NAMES: [[&str; 4]; 16] = [
    ["rax", "eax", "ax", "al"],
    ["rcx", "ecx", "cx", "cl"],
    ["rdx", "edx", "dx", "dl"],
    ["rbx", "ebx", "bx", "bl"],
    ["rsp", "esp", "sp", "spl"],
    ["rbp", "ebp", "bp", "bpl"],
    ["rsi", "esi", "si", "sil"],
    ["rdi", "edi", "di", "dil"],
    ["r8", "r8d", "r8w", "r8b"],
    ["r9", "r9d", "r9w", "r9b"],
    ["r10", "r10d", "r10w", "r10b"],
    ["r11", "r11d", "r11w", "r11b"],
    ["r12", "r12d", "r12w", "r12b"],
    ["r13", "r13d", "r13w", "r13b"],
    ["r14", "r14d", "r14w", "r14b"],
    ["r15", "r15d", "r15w", "r15b"],
];
/// Of the columns there.
const WIDTHS: [Width; 4] = [Width::Double, Width::Word, Width::Half, Width::Byte];

/// Where argument `index` of those of x86-64 is.
///
/// # Errors
/// Why the kernel side could not find it.
pub fn operand(arguments: &[u8], index: usize) -> Result<Operand, &'static str> {
    let arguments = std::str::from_utf8(arguments).map_err(|_| UNKNOWN)?;
    parse(arguments.split_ascii_whitespace().nth(index).ok_or(MISSING)?)
}

fn parse(argument: &str) -> Result<Operand, &'static str> {
    let (told, place) = match argument.split_once('@') {
        Some((bytes, place)) => (Some(scalar(bytes).ok_or(UNKNOWN)?), place),
        None => (None, argument),
    };
    let scalar = told.unwrap_or(Scalar { width: Width::Double, signed: false });
    if let Some(number) = place.strip_prefix('$') {
        return constant(number, scalar);
    }
    if let Some(name) = place.strip_prefix('%') {
        let (register, width) = register(name).ok_or(UNKNOWN)?;
        let scalar = told.unwrap_or(Scalar { width, ..scalar });
        let fits = scalar.width <= width;
        return if fits { Ok(Operand::Register { register, scalar }) } else { Err(TOO_WIDE) };
    }
    memory(place, scalar)
}

/// `8`, or `-4` with a sign.
fn scalar(bytes: &str) -> Option<Scalar> {
    let (signed, bytes) = bytes.strip_prefix('-').map_or((false, bytes), |bytes| (true, bytes));
    let width = match bytes {
        "1" => Width::Byte,
        "2" => Width::Half,
        "4" => Width::Word,
        "8" => Width::Double,
        _ => return None,
    };
    Some(Scalar { width, signed })
}

fn constant(number: &str, scalar: Scalar) -> Result<Operand, &'static str> {
    let word = integer(number).ok_or(UNKNOWN)? as u64;
    // A constant of another width is the number that this one has of it: as the compiler would have it in a register.
    let like = Operand::Register { register: Register::Rax, scalar };
    number_of(like.to_cookie(), word).map(Operand::Constant).ok_or(NO_BYTES)
}

fn register(name: &str) -> Option<(Register, Width)> {
    let place = |names: &[&str; 4]| names.iter().position(|&known| known == name);
    Register::ALL
        .into_iter()
        .zip(&NAMES)
        .find_map(|(register, names)| Some((register, WIDTHS[place(names)?])))
}

/// `-16(%rbp)`. Not by two registers, and no symbol: those the compiler has no need of for what it has at hand.
fn memory(place: &str, scalar: Scalar) -> Result<Operand, &'static str> {
    let inner = place.strip_suffix(')').ok_or(UNKNOWN)?;
    let (displacement, base) = inner.split_once("(%").ok_or(UNKNOWN)?;
    if base == "rip" {
        return Err(BY_CODE);
    }
    let (base, Width::Double) = register(base).ok_or(UNKNOWN)? else { return Err(UNKNOWN) };
    let displacement = if displacement.is_empty() { 0 } else { integer(displacement).ok_or(UNKNOWN)? };
    let displacement = i32::try_from(displacement).map_err(|_| UNKNOWN)?;
    Ok(Operand::Memory { base, displacement, scalar })
}

/// Decimal or hexadecimal, as the assembler has it.
fn integer(text: &str) -> Option<i128> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (radix, digits) = text.strip_prefix("0x").map_or((10, text), |digits| (16, digits));
    // The standard library would take a sign.
    let number = digits.starts_with(|c: char| c.is_ascii_hexdigit()).then_some(digits)?;
    let number = i128::from(u64::from_str_radix(number, radix).ok()?);
    Some(if is_negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocscope_common::operand::NUMBER_BITS;
    use proptest::prelude::*;

    fn in_register(register: Register, width: Width, signed: bool) -> Result<Operand, &'static str> {
        Ok(Operand::Register { register, scalar: Scalar { width, signed } })
    }

    fn in_memory(base: Register, displacement: i32, width: Width) -> Result<Operand, &'static str> {
        Ok(Operand::Memory { base, displacement, scalar: Scalar { width, signed: false } })
    }

    #[test]
    fn what_compilers_put_there_is_read() {
        for (text, expected) in [
            ("8@%rdi", in_register(Register::Rdi, Width::Double, false)),
            ("-8@%rax", in_register(Register::Rax, Width::Double, true)),
            ("4@%esi", in_register(Register::Rsi, Width::Word, false)),
            ("-4@%r9d", in_register(Register::R9, Width::Word, true)),
            ("1@%r15b", in_register(Register::R15, Width::Byte, false)),
            ("4@%rbx", in_register(Register::Rbx, Width::Word, false)),
            ("%rax", in_register(Register::Rax, Width::Double, false)),
            ("%cx", in_register(Register::Rcx, Width::Half, false)),
            ("8@$64", Ok(Operand::Constant(64))),
            ("$0x80000", Ok(Operand::Constant(512 << 10))),
            ("4@$-1", Ok(Operand::Constant(u32::MAX.into()))),
            ("8@-16(%rbp)", in_memory(Register::Rbp, -16, Width::Double)),
            ("8@8(%rsp)", in_memory(Register::Rsp, 8, Width::Double)),
            ("4@(%r12)", in_memory(Register::R12, 0, Width::Word)),
            ("0x7fffffff(%rax)", in_memory(Register::Rax, i32::MAX, Width::Double)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_its_reason() {
        for (text, why) in [
            ("8@16(%rip)", BY_CODE),
            ("8@%esi", TOO_WIDE),
            ("8@$-1", NO_BYTES),
            ("-4@$0x80000000", NO_BYTES),
            ("8@$0x400000000000", NO_BYTES),
            ("", UNKNOWN),
            ("8@", UNKNOWN),
            ("3@%rdi", UNKNOWN),
            ("8f@%rdi", UNKNOWN),
            ("8@%xmm0", UNKNOWN),
            ("1@%ah", UNKNOWN),
            ("8@%rdi)", UNKNOWN),
            ("8@$", UNKNOWN),
            ("8@$+1", UNKNOWN),
            ("8@$--1", UNKNOWN),
            ("8@$counter", UNKNOWN),
            ("8@$18446744073709551616", UNKNOWN),
            ("8@counter(%rax)", UNKNOWN),
            ("8@8(%esp)", UNKNOWN),
            ("8@8(%rsp,%rax,4)", UNKNOWN),
            ("8@2147483648(%rsp)", UNKNOWN),
            ("8@-2147483649(%rsp)", UNKNOWN),
            ("8@18446744073709551615(%rsp)", UNKNOWN),
            ("8@%fs:(%rax)", UNKNOWN),
            ("8@x0", UNKNOWN),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert_eq!(operand(b"8@%rdi 8@%rsi", 2), Err(MISSING));
        assert_eq!(operand(b"8@%rdi 8@%rsi 8@\xff", 2), Err(UNKNOWN));
        assert_eq!(operand(b"8@%rdi 8@%rsi 8@$7", 2), Ok(Operand::Constant(7)));
    }

    #[test]
    fn the_names_are_those_of_the_registers() {
        for (register, names) in Register::ALL.iter().zip(NAMES) {
            assert_eq!(format!("{register:?}").to_lowercase(), names[0]);
            assert_eq!(Register::ALL[*register as usize], *register);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_operand_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..64), index in 0..4_usize,
        ) {
            if let Ok(Operand::Constant(number)) = operand(&bytes, index) {
                prop_assert!(number >> NUMBER_BITS == 0);
            }
        }

        /// Nearer to what is meant than any bytes are.
        #[test]
        fn what_is_read_is_what_was_written(
            size in "(-?[1248]@)?", place in "(-?(0x)?[0-9a-f]{1,10})?\\(?%?[re]?[abcds0-9][xpil0-9]?[dwb]?\\)?",
        ) {
            match parse(&format!("{size}{place}")) {
                Ok(Operand::Memory { displacement, base, .. }) => {
                    let inner = place.strip_suffix(')').unwrap();
                    let (text, name) = inner.split_once("(%").unwrap();
                    let text = text.replacen("0x", "", 1);
                    let radix = if place.contains("0x") { 16 } else { 10 };
                    let number = if text.is_empty() { 0 } else { i64::from_str_radix(&text, radix).unwrap() };
                    prop_assert_eq!((number, name), (displacement.into(), NAMES[base as usize][0]));
                }
                Ok(Operand::Register { register, .. }) => {
                    prop_assert!(NAMES[register as usize].contains(&place.strip_prefix('%').unwrap()));
                }
                Ok(constant) => prop_assert!(false, "{constant:?}"),
                Err(why) => prop_assert!([MISSING, UNKNOWN, BY_CODE, TOO_WIDE].contains(&why)),
            }
        }
    }
}
