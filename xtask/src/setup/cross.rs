//! A C compiler for AArch64, its C library and a disassembler, under `tools/arm64`: unpacked, not installed. What
//! it compiles is looked at by the tests, and never run.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;

/// The compiler, of the same version as the system's own: it comes without the libraries that both need.
pub struct Cross;

/// Beside the compiler itself, whose packages have the version in their names.
const PACKAGES: [&str; 5] = [
    "binutils-aarch64-linux-gnu",
    "libc6-arm64-cross",
    "libc6-dev-arm64-cross",
    "libgcc-s1-arm64-cross",
    "linux-libc-dev-arm64-cross",
];

impl Item for Cross {
    fn name(&self) -> String {
        "compiler for AArch64".into()
    }

    fn present(&self) -> Option<String> {
        let place = run::tools_dir().ok()?.join("arm64");
        tool_version(&place, "objdump")?;
        tool_version(&place, "as")?;
        tool_version(&place, &format!("gcc-{}", gcc_version()?))
    }

    fn install(&self) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("it is set up on x86_64 only");
        }
        let place = run::tools_dir()?.join("arm64");
        let version = gcc_version().context("this system has no gcc, whose version tells which")?;
        let own = [
            format!("gcc-{version}-aarch64-linux-gnu"),
            format!("cpp-{version}-aarch64-linux-gnu"),
            format!("libgcc-{version}-dev-arm64-cross"),
        ];
        let packages: Vec<&str> = PACKAGES.into_iter().chain(own.iter().map(String::as_str)).collect();
        let by_hand = format!("put Debian's cross compiler for arm64 into {} by hand", place.display());
        let work = WorkFolder::new("arm64")?;
        debian::unpack(&packages, &work.0, &by_hand)?;
        replace(&work.0, &place)
    }
}

fn gcc_version() -> Option<String> {
    let version = run::prints(Command::new("gcc").arg("-dumpversion"))?;
    Some(version.trim().split('.').next()?.to_owned())
}

/// The first line of what a tool says of itself.
fn tool_version(place: &Path, tool: &str) -> Option<String> {
    let mut command = Command::new(place.join("usr/bin").join(format!("aarch64-linux-gnu-{tool}")));
    command.env("LD_LIBRARY_PATH", place.join("usr/lib/x86_64-linux-gnu"));
    Some(run::prints(command.arg("--version"))?.lines().next()?.to_owned())
}
