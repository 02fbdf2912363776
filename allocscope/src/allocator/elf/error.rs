//! Why a file is no image.

use std::fmt;

/// Why a file is not an image that can be examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Not an ELF file.
    NotElf,
    /// Headers or code reach past the end of the file.
    Truncated,
    /// A 32-bit image.
    ThirtyTwoBit,
    /// Neither x86-64 nor AArch64, or big-endian.
    UnsupportedMachine,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "not an ELF file",
            Self::Truncated => "the ELF file is truncated",
            Self::ThirtyTwoBit => "a 32-bit ELF file",
            Self::UnsupportedMachine => "an ELF file for a machine other than x86-64 and AArch64",
        })
    }
}

impl std::error::Error for ImageError {}
