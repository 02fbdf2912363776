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

/// The package of the highest version among those named `PREFIX...SUFFIX`, which have it in their name.
pub fn newest(prefix: &str, suffix: &str, by_hand: &str) -> Result<String> {
    if !is_here() {
        bail!("this system has no apt-get: {by_hand}");
    }
    with_fresh_lists(|| {
        let pattern = format!("^{}[0-9].*{suffix}$", prefix.replace('.', "\\."));
        let mut search = Command::new("apt-cache");
        let found = run::prints(search.args(["search", "--names-only", &pattern])).unwrap_or_default();
        let names = found.lines().filter_map(|line| line.split_whitespace().next());
        let newest = names.max_by_key(|name| numbers(name));
        newest.map(str::to_owned).with_context(|| format!("no package is named {prefix}*{suffix}: {by_hand}"))
    })
}

/// The numbers in a name, to compare versions by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Tries again after `apt-get update`: a new machine or container has no package lists.
fn with_fresh_lists<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    let first = match attempt() {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if !run::can_be_root() {
        return Err(first);
    }
    let mut update = run::as_root("apt-get");
    run::logged(update.arg("update"), &run::tools_dir()?.join("log/apt-update"), LIMIT)?;
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_names_are_compared_as_numbers() {
        let names = ["linux-image-6.12.99+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64"];
        assert!(numbers(names[0]) < numbers(names[1]));
        assert!(numbers("linux-image-6.1.0-9-cloud-amd64") < numbers("linux-image-6.1.0-56-cloud-amd64"));
    }
}
