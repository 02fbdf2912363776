//! What builds the kernel side: a toolchain for BPF, bpf-linker, and clippy to go with it.

use super::{Item, debian};
use crate::run;
use crate::toolchain::BpfToolchain;
use anyhow::{Context as _, Result, bail};
use std::process::Command;
use std::time::Duration;

/// rustc with a core for BPF, prebuilt or as source.
pub struct Toolchain;

/// The linker for BPF.
pub struct Linker;

/// clippy for [`Toolchain`].
pub struct Clippy;

/// The bpf-linker for LLVM 22, as rustc 1.95 to 1.97 have it: it opens the toolchain's own LLVM, where
/// later series want one installed on the system to compile against.
const LINKER: &str = "0.10.3";
const LINKER_SERIES: &str = "0.10.";

const DEBIAN_RUSTC: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// Long enough for a slow line, short enough where a firewall swallows packets.
const FETCH_LIMIT: Duration = Duration::from_secs(180);
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

impl Item for Toolchain {
    fn name(&self) -> String {
        "a toolchain for BPF".into()
    }

    fn present(&self) -> Option<String> {
        let name = BpfToolchain::find()?.name();
        let version = run::prints(Command::new("rustup").args(["run", name, "rustc", "--version"]))?;
        Some(format!("{name}, {version}"))
    }

    fn install(&self) -> Result<()> {
        if run::prints(Command::new("rustup").arg("--version")).is_none() {
            bail!("rustup is missing: install it, with the stable toolchain, then run this again");
        }
        let Err(reason) = fetch_nightly() else {
            return Ok(());
        };
        eprintln!(
            "            rustup cannot fetch a nightly with rust-src ({reason:#}); trying Debian's rustc"
        );
        link_debian()
    }
}

/// The usual way: core is built from source.
fn fetch_nightly() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", BpfToolchain::Nightly.name(), "--profile", "minimal"]);
    rustup.args(["--component", "rust-src", "--component", "clippy"]);
    run::logged(&mut rustup, &run::tools_dir()?.join("log/rustup"), FETCH_LIMIT)
}

/// Debian's rustc has a prebuilt core for BPF.
fn link_debian() -> Result<()> {
    if !debian::is_here() {
        bail!("this system has no apt-get: install a nightly toolchain with rust-src by hand");
    }
    debian::install(&DEBIAN_RUSTC)?;
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "link", BpfToolchain::Linked.name(), "/usr"]);
    run::logged(&mut rustup, &run::tools_dir()?.join("log/rustup-link"), FETCH_LIMIT)
}

impl Item for Linker {
    fn name(&self) -> String {
        "bpf-linker".into()
    }

    fn present(&self) -> Option<String> {
        let line = run::prints(Command::new("bpf-linker").arg("--version"))?;
        let version = line.split_whitespace().nth(1)?;
        version.starts_with(LINKER_SERIES).then(|| version.to_owned())
    }

    fn install(&self) -> Result<()> {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "bpf-linker", "--version", LINKER, "--locked"]);
        run::logged(&mut cargo, &run::tools_dir()?.join("log/bpf-linker"), BUILD_LIMIT)
    }
}

impl Item for Clippy {
    fn name(&self) -> String {
        "clippy for BPF".into()
    }

    fn present(&self) -> Option<String> {
        let name = BpfToolchain::find()?.name();
        run::prints(Command::new("rustup").args(["run", name, "clippy-driver", "--version"]))
    }

    fn install(&self) -> Result<()> {
        match BpfToolchain::find().context("it belongs to the toolchain for BPF, and there is none")? {
            BpfToolchain::Linked => debian::install(&[DEBIAN_CLIPPY]),
            BpfToolchain::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["component", "add", "clippy", "--toolchain", BpfToolchain::Nightly.name()]);
                run::logged(&mut rustup, &run::tools_dir()?.join("log/rustup-clippy"), FETCH_LIMIT)
            }
        }
    }
}
