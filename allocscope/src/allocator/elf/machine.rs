//! The machine that an image is for, into what depends on it.

use std::fmt;

use object::elf;

/// The machines whose images are examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// AArch64: sites are planned, and none can be attached.
    Aarch64,
}

impl Machine {
    /// Whether binaries for it are probed where this program runs. The kernel side reads the registers of x86-64.
    pub const fn is_probed_here(self) -> bool {
        matches!(self, Self::X86_64) && cfg!(target_arch = "x86_64")
    }

    /// The relocation of a pointer into the image itself.
    pub(super) const fn relative_relocation(self) -> u32 {
        match self {
            Self::X86_64 => elf::R_X86_64_RELATIVE,
            Self::Aarch64 => elf::R_AARCH64_RELATIVE,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "AArch64",
        })
    }
}
