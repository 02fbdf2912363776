//! What interprets the pool's tests, and finds undefined behaviour in them: Miri, of the pinned nightly.

use super::Item;
use crate::run;
use crate::toolchain::BpfToolchain;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// The interpreter, with a standard library that it can run.
pub struct Miri;

/// Long enough for a slow line, short enough where a firewall swallows packets.
const FETCH_LIMIT: Duration = Duration::from_secs(180);
const BUILD_LIMIT: Duration = Duration::from_secs(600);

impl Item for Miri {
    fn name(&self) -> String {
        "Miri".into()
    }

    fn present(&self) -> Option<String> {
        let version = run::prints(cargo_miri().arg("--version"))?;
        run::prints(cargo_miri().args(["setup", "--print-sysroot"])).map(|_| version)
    }

    fn install(&self) -> Result<()> {
        let nightly = BpfToolchain::Nightly.name();
        let mut rustup = Command::new("rustup");
        rustup.args(["toolchain", "install", nightly, "--profile", "minimal"]);
        rustup.args(["--component", "miri", "--component", "rust-src"]);
        run::logged(&mut rustup, &run::tools_dir()?.join("log/rustup-miri"), FETCH_LIMIT)?;
        let mut setup = cargo_miri();
        setup.arg("setup");
        run::logged(&mut setup, &run::tools_dir()?.join("log/miri"), BUILD_LIMIT)
    }
}

/// `cargo miri` of the pinned nightly.
pub fn cargo_miri() -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", BpfToolchain::Nightly.name(), "cargo", "miri"]);
    rustup.current_dir(run::root()).env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    rustup
}
