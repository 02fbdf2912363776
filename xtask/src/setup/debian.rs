//! Debian packages: installed, or only unpacked into a folder.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

/// Whether this system has apt-get.
pub fn is_here() -> bool {
    run::prints(Command::new("apt-get").arg("--version")).is_some()
}

/// Installs packages on the system.
pub fn install(packages: &[&str]) -> Result<()> {
    if !is_here() {
        bail!("this system has no apt-get: install {} by hand", packages.join(" and "));
    }
    if !run::can_be_root() {
        bail!(
            "apt-get needs root and sudo would ask: run `sudo apt-get install {}` first",
            packages.join(" ")
        );
    }
    let mut words = vec!["install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"];
    words.extend(packages);
    with_fresh_lists(|| {
        let mut command = run::as_root("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(&words);
        run::logged(&mut command, &run::tools_dir()?.join("log/apt-install"), LIMIT)
    })
}

/// Unpacks packages into a folder; the system is not changed. `by_hand` says what to do without Debian.
pub fn unpack(packages: &[&str], folder: &Path, by_hand: &str) -> Result<()> {
    if !is_here() {
        bail!("this system has no apt-get: {by_hand}");
    }
    let downloads = folder.join("downloads");
    fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
    with_fresh_lists(|| {
        let mut command = Command::new("apt-get");
        command.arg("download").args(packages).current_dir(&downloads);
        run::logged(&mut command, &run::tools_dir()?.join("log/apt-download"), LIMIT)
    })?;
    for entry in fs::read_dir(&downloads).context("cannot list the downloads")? {
        let package = entry.context("cannot list the downloads")?.path();
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&package).arg(folder);
        run::logged(&mut command, &run::tools_dir()?.join("log/dpkg-deb"), LIMIT)?;
    }
    fs::remove_dir_all(&downloads).context("cannot remove the downloads")
}

/// Tries again after `apt-get update`: a new machine or container has no package lists.
fn with_fresh_lists(attempt: impl Fn() -> Result<()>) -> Result<()> {
    let Err(first) = attempt() else {
        return Ok(());
    };
    if !run::can_be_root() {
        return Err(first);
    }
    let mut update = run::as_root("apt-get");
    run::logged(update.arg("update"), &run::tools_dir()?.join("log/apt-update"), LIMIT)?;
    attempt()
}
