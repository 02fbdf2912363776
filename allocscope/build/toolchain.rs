//! Installed toolchains into the one that builds the kernel side. `build.rs` and `xtask` both include
//! this file, so that they choose alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of the kernel side on a little-endian machine.
pub const TARGET: &str = "bpfel-unknown-none";

/// A way to build for [`TARGET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfToolchain {
    /// A distribution's rustc with a prebuilt core for [`TARGET`], linked into rustup.
    Linked,
    /// A rustup nightly with `rust-src`: cargo builds core.
    Nightly,
}

/// The nightly that is used: rustc 1.97, the last series with LLVM 22, which the pinned bpf-linker takes.
const NIGHTLY: &str = "nightly-2026-05-20";

impl BpfToolchain {
    /// The first toolchain that can build for [`TARGET`]. One that was linked was linked on purpose.
    pub fn find() -> Option<Self> {
        [Self::Linked, Self::Nightly].into_iter().find(|toolchain| toolchain.has_core())
    }

    /// Its name in rustup.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linked => "allocscope-bpf",
            Self::Nightly => NIGHTLY,
        }
    }

    /// The value of `RUSTC_BOOTSTRAP`: aya-ebpf uses one unstable feature. It names that crate instead
    /// of being 1, which would also make aya-build pass `-Z build-std`.
    pub fn bootstrap(self) -> Option<&'static str> {
        (self == Self::Linked).then_some("aya_ebpf,allocscope_ebpf")
    }

    fn has_core(self) -> bool {
        let name = self.name();
        match self {
            Self::Linked => rustc(name, &["--print", "target-libdir", "--target", TARGET])
                .is_some_and(|folder| !files(Path::new(&folder), "libcore-").is_empty()),
            Self::Nightly => rustc(name, &["--print", "sysroot"])
                .is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core").is_dir()),
        }
    }
}

/// What a toolchain's rustc prints; `None` where there is no such toolchain.
pub fn rustc(toolchain: &str, args: &[&str]) -> Option<String> {
    prints(Command::new("rustup").args(["run", toolchain, "rustc"]).args(args))
}

/// What a command prints on stdout; `None` where it fails or is not there.
pub fn prints(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// The files of a folder whose names begin with `prefix`, in order of their names.
pub fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}
