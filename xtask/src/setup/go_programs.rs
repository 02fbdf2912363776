//! Released programs of Go versions whose toolchains cannot be had, under `tools/go-programs/NAME-VERSION`.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program in a package of the npm registry, where it stays as it is.
pub struct GoProgram {
    /// Its name here.
    name: &'static str,
    package: &'static str,
    version: &'static str,
    /// Where the package has it.
    path: &'static str,
    /// What built it.
    go: &'static str,
}

/// esbuild is stripped, buildifier has symbols and debug information. The tests look at what Go built them.
pub const PROGRAMS: [GoProgram; 5] = [
    esbuild("esbuild-linux-64", "0.14.20", "1.17.6"),
    esbuild("esbuild-linux-64", "0.14.40", "1.18.2"),
    esbuild("@esbuild/linux-x64", "0.17.19", "1.20.4"),
    buildifier("6.1.0", "1.17.2"),
    buildifier("6.3.3", "1.20.3"),
];

const LIMIT: Duration = Duration::from_secs(600);

const fn esbuild(package: &'static str, version: &'static str, go: &'static str) -> GoProgram {
    GoProgram { name: "esbuild", package, version, path: "package/bin/esbuild", go }
}

const fn buildifier(version: &'static str, go: &'static str) -> GoProgram {
    let path = "package/buildifier-linux_amd64";
    GoProgram { name: "buildifier", package: "@bazel/buildifier", version, path, go }
}

impl GoProgram {
    fn place(&self) -> Result<PathBuf> {
        Ok(run::tools_dir()?.join("go-programs").join(format!("{}-{}", self.name, self.version)))
    }

    /// The package's archive, in a folder where there is none.
    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent"]).arg(format!("{}@{}", self.package, self.version)).current_dir(folder);
        run::logged(&mut npm, &run::tools_dir()?.join("log/npm"), LIMIT)?;
        let mut files = fs::read_dir(folder).context("cannot list the download")?.flatten();
        let is_archive = |path: &PathBuf| path.extension() == Some(OsStr::new("tgz"));
        files.find_map(|entry| Some(entry.path()).filter(is_archive)).context("npm has brought no archive")
    }
}

impl Item for GoProgram {
    fn name(&self) -> String {
        format!("{} of Go {}", self.name, self.go)
    }

    /// Says what it is only if it runs and is that version.
    fn present(&self) -> Option<String> {
        let mut program = Command::new(self.place().ok()?.join(self.name));
        let said = run::prints(program.arg("--version"))?;
        said.contains(self.version).then(|| format!("{} {}", self.name, self.version))
    }

    fn install(&self) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("it is a program for x86_64");
        }
        ensure_npm()?;
        let work = WorkFolder::new(&format!("{}-{}", self.name, self.version))?;
        let archive = self.download(&work.0)?;
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(&work.0).arg(self.path);
        run::logged(&mut tar, &run::tools_dir()?.join("log/tar"), LIMIT)?;
        let alone = work.0.join("alone");
        fs::create_dir(&alone).context("cannot make a folder for it")?;
        fs::rename(work.0.join(self.path), alone.join(self.name)).context("cannot move it")?;
        replace(&alone, &self.place()?)
    }
}

fn ensure_npm() -> Result<()> {
    let has_npm = || run::prints(Command::new("npm").arg("--version")).is_some();
    if !has_npm() {
        debian::install(&["npm"])?;
    }
    if !has_npm() {
        bail!("there is no npm, and installing Debian's did not change that");
    }
    Ok(())
}
