//! allocscope, programs to trace and the libraries that these need into a kernel's first file system.

use crate::run;
use crate::setup::{go, kernel};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first process of a machine.
const INIT: &str = include_str!("init.sh");
const SCARCE: &str = include_str!("scarce.sh");
/// Each with its source file.
const C_PROGRAMS: [(&str, &str); 3] = [
    ("native", "xtask/src/kernels/native.c"),
    ("hog", "xtask/src/kernels/hog.c"),
    ("sampled", "allocscope/tests/native/sampled.c"),
];
const FOLDERS: [&str; 5] = ["bin", "dev", "proc", "sys", "tmp"];

/// Fills `FOLDER/root`, and packs it into the file returned.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    for name in FOLDERS {
        let path = root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    copy(&kernel::busybox()?, &root.join("bin/busybox"))?;
    for (name, source) in C_PROGRAMS {
        build_c(source, &root.join("bin").join(name))?;
    }
    build_go(&root.join("bin/large"), &folder.join("go"))?;
    strip_allocscope(&root.join("bin/allocscope"))?;
    for program in C_PROGRAMS.map(|(name, _)| name).into_iter().chain(["allocscope"]) {
        copy_libraries(&root.join("bin").join(program), &root)?;
    }
    write_script(INIT, &root.join("init"))?;
    write_script(SCARCE, &root.join("bin/scarce"))?;
    pack(&root, &folder.join("initramfs.cpio"))
}

fn write_script(text: &str, to: &Path) -> Result<()> {
    let what = || format!("cannot write {}", to.display());
    fs::write(to, text).with_context(what)?;
    fs::set_permissions(to, Permissions::from_mode(0o755)).with_context(what)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// Without its debug information, which is most of it.
fn strip_allocscope(to: &Path) -> Result<()> {
    let built = run::target_dir()?.join("debug/allocscope");
    run::shown(Command::new("strip").arg("-o").arg(to).arg(built))
}

fn build_c(source: &str, to: &Path) -> Result<()> {
    let source = run::root().join(source);
    run::shown(Command::new("cc").args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(to).arg(source))
}

/// The program of `tests/go.rs`; `work` is for what the compiler leaves.
fn build_go(to: &Path, work: &Path) -> Result<()> {
    let mut go = Command::new(run::tools_dir()?.join("go").join(go::NEWEST).join("bin/go"));
    go.args(["build", "-trimpath", "-o"])
        .arg(to)
        .arg("allocscope/tests/go/large.go")
        .current_dir(run::root());
    go.env("GOTOOLCHAIN", "local").env("GO111MODULE", "off").env("CGO_ENABLED", "0");
    go.env("GOCACHE", run::tools_dir()?.join("go-cache")).env("GOPATH", work);
    go.env_remove("GOROOT").env_remove("GOFLAGS");
    run::shown(&mut go).with_context(|| format!("Go {} does not build the program", go::NEWEST))
}

/// Each to the path where the program's loader looks for it.
fn copy_libraries(program: &Path, root: &Path) -> Result<()> {
    let said = run::prints(Command::new("ldd").arg(program));
    let said = said.with_context(|| format!("ldd cannot tell the libraries of {}", program.display()))?;
    for library in said.lines().filter_map(library) {
        let to = root.join(library.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        copy(Path::new(library), &to)?;
    }
    Ok(())
}

/// The path in a line of ldd: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

/// Not compressed: to unpack it takes the emulator longer than to read it.
fn pack(root: &Path, to: &Path) -> Result<PathBuf> {
    let names = run::prints(Command::new("find").arg(".").current_dir(root)).context("find does not run")?;
    let list = to.with_extension("list");
    fs::write(&list, names + "\n").context("cannot write the list of files")?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--format=newc", "--quiet", "--owner=+0:+0"]).current_dir(root);
    cpio.stdin(File::open(&list).context("cannot open the list of files")?);
    cpio.stdout(Stdio::from(File::create(to).with_context(|| format!("cannot write {}", to.display()))?));
    let status = cpio.status().context("cannot start cpio")?;
    if !status.success() {
        bail!("cpio failed: {status}");
    }
    Ok(to.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_tells_where_libraries_are() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f803eb3e000)"), Some("/lib/libc.so.6"));
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f80401b6000)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f80401b4000)"), None);
    }
}
