//! Allocators that traced programs use in the tests, what compiles these programs, and the names of what is
//! in the C library: libraries under `tools/allocators`, names under `tools/libc6-dbg`.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Libraries that take the place of the C library's allocator.
pub struct Libraries;

/// Compilers of C++, and of C with another C library.
pub struct Compilers;

/// The C library's names, by its build id.
pub struct Names;

/// Package, and the library that is asked for.
const LIBRARIES: [(&str, &str); 4] = [
    ("libjemalloc2", "libjemalloc.so.2"),
    ("libmimalloc2.0", "libmimalloc.so.2.0"),
    ("libtcmalloc-minimal4", "libtcmalloc_minimal.so.4"),
    ("libtbbmalloc2", "libtbbmalloc_proxy.so.2"),
];

/// Where a library is, by its file's name.
pub fn library(name: &str) -> Option<PathBuf> {
    let folder = library_folder(&run::tools_dir().ok()?.join("allocators"))?;
    Some(folder.join(name)).filter(|file| file.is_file())
}

/// All of them.
pub fn items() -> [Box<dyn Item>; 3] {
    [Box::new(Libraries), Box::new(Compilers), Box::new(Names)]
}

impl Item for Libraries {
    fn name(&self) -> String {
        "allocators".into()
    }

    fn present(&self) -> Option<String> {
        let folder = library_folder(&run::tools_dir().ok()?.join("allocators"))?;
        let works = |(_, name): &(&str, &str)| can_be_preloaded(&folder.join(name));
        LIBRARIES.iter().all(works).then(|| LIBRARIES.map(|(_, name)| name).join(", "))
    }

    fn install(&self) -> Result<()> {
        let place = run::tools_dir()?.join("allocators");
        let names = LIBRARIES.map(|(_, name)| name).join(", ");
        let by_hand = format!("put {names} into {}/usr/lib/native by hand", place.display());
        let work = WorkFolder::new("allocators")?;
        debian::unpack(&LIBRARIES.map(|(package, _)| package), &work.0, &by_hand)?;
        replace(&work.0, &place)
    }
}

/// The folder in `usr/lib` that has the first of them: its name is the machine's architecture.
fn library_folder(place: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(place.join("usr/lib")).ok()?.flatten();
    folders.map(|folder| folder.path()).find(|folder| folder.join(LIBRARIES[0].1).exists())
}

/// The loader leaves out what it cannot load, and says so; env says what it was given. What a library needs is beside it.
fn can_be_preloaded(library: &Path) -> bool {
    let mut command = Command::new("env");
    command.envs(library.parent().map(|folder| ("LD_LIBRARY_PATH", folder)));
    let Ok(output) = command.env("LD_PRELOAD", library).output() else {
        return false;
    };
    library.exists() && output.status.success() && output.stderr.is_empty()
}

impl Item for Compilers {
    fn name(&self) -> String {
        "compilers for traced programs".into()
    }

    fn present(&self) -> Option<String> {
        let mut musl = Command::new("musl-gcc");
        let (plus_plus, musl) =
            (run::prints(Command::new("g++").arg("--version"))?, run::prints(musl.arg("--version"))?);
        Some(format!("{}, {} with musl", first_line(&plus_plus), first_line(&musl)))
    }

    fn install(&self) -> Result<()> {
        debian::install(&["g++", "musl-tools"])
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

impl Item for Names {
    fn name(&self) -> String {
        "names of the C library's functions".into()
    }

    /// Those of another version say nothing of the library that is used.
    fn present(&self) -> Option<String> {
        let version = libc_version()?;
        let unpacked = fs::read_to_string(run::tools_dir().ok()?.join("libc6-dbg/version")).ok()?;
        (unpacked == version).then_some(version)
    }

    fn install(&self) -> Result<()> {
        let place = run::tools_dir()?.join("libc6-dbg");
        let version =
            libc_version().context("this system has no package libc6, whose version tells which")?;
        let work = WorkFolder::new("libc6-dbg")?;
        let by_hand = format!("put the C library's debug files into {} by hand", place.display());
        debian::unpack(&[&format!("libc6-dbg={version}")], &work.0, &by_hand)?;
        fs::write(work.0.join("version"), &version).context("cannot write down the version")?;
        replace(&work.0, &place)
    }
}

fn libc_version() -> Option<String> {
    run::prints(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6"]))
}
