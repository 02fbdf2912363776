//! Sources under `tests/native` into programs, each built once by a run of the tests.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const C: [&str; 6] = ["-std=c11", "-O2", "-fno-builtin", "-pthread", "-Wall", "-Wextra"];
const CPP: [&str; 5] = ["-std=c++17", "-O2", "-fno-builtin", "-Wall", "-Wextra"];

/// `alloc.c` with the system's C library.
pub fn alloc() -> PathBuf {
    once("alloc", |output| compile("cc", &C, "alloc.c", output))
}

/// The same with all of the C library in it.
pub fn static_alloc() -> PathBuf {
    let flags = [&C[..], &["-static"]].concat();
    once("alloc-static", |output| compile("cc", &flags, "alloc.c", output))
}

/// `frees.c` with the system's C library.
pub fn frees() -> PathBuf {
    once("frees", |output| compile("cc", &C, "frees.c", output))
}

/// `alloc.c` with all of musl in it.
pub fn musl_alloc() -> PathBuf {
    let flags = [&C[..], &["-static"]].concat();
    once("alloc-musl", |output| compile("musl-gcc", &flags, "alloc.c", output))
}

/// The same with musl as a library.
pub fn musl_library_alloc() -> PathBuf {
    once("alloc-musl-library", |output| compile("musl-gcc", &C, "alloc.c", output))
}

/// `new.cpp`.
pub fn new() -> PathBuf {
    once("new", |output| compile("c++", &CPP, "new.cpp", output))
}

/// `seccomp.c`.
pub fn seccomp() -> PathBuf {
    once("seccomp", |output| compile("cc", &C, "seccomp.c", output))
}

/// `impostor.c`.
pub fn impostor() -> PathBuf {
    once("impostor", |output| compile("cc", &C, "impostor.c", output))
}

/// `host.c`.
pub fn host() -> PathBuf {
    once("host", |output| compile("cc", &C, "host.c", output))
}

/// A program that tells of its own memory by the provider's probes.
pub fn told() -> PathBuf {
    once("told", |output| crate_program("told", &[], output))
}

/// All of it but its `main`, as a library.
pub fn told_library() -> PathBuf {
    let program = told();
    let built = folder().join("target/told/release/libtold.so");
    once("libtold.so", |output| {
        std::fs::copy(&built, output).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    })
}

/// `sampled.c`.
pub fn sampled() -> PathBuf {
    once("sampled", |output| compile("cc", &C, "sampled.c", output))
}

/// The same as a library.
pub fn sampled_library() -> PathBuf {
    let flags = [&C[..], &["-shared", "-fPIC", "-DLIBRARY"]].concat();
    once("libsampled.so", |output| compile("cc", &flags, "sampled.c", output))
}

/// A program that uses regions and a pool of this crate's.
pub fn pooled() -> PathBuf {
    once("pooled", |output| crate_program("pooled", &[], output))
}

/// Rust's allocations by jemalloc 5.3.
pub fn rust_jemalloc() -> PathBuf {
    once("rust-jemalloc", |output| crate_program("rust-jemalloc", &[], output))
}

/// Rust's allocations by mimalloc 2.
pub fn rust_mimalloc_2() -> PathBuf {
    once("rust-mimalloc-2", |output| crate_program("rust-mimalloc", &["--features", "v2"], output))
}

/// Rust's allocations by mimalloc 3.
pub fn rust_mimalloc_3() -> PathBuf {
    once("rust-mimalloc-3", |output| crate_program("rust-mimalloc", &[], output))
}

/// A program without the names of what is in it.
pub fn stripped(program: &Path) -> PathBuf {
    let name = format!("{}-stripped", program.file_name().unwrap().display());
    once(&name, |output| succeed(Command::new("strip").arg(program).arg("-o").arg(output)))
}

/// An allocator that takes the place of the C library's where it is preloaded.
pub fn library(name: &str) -> PathBuf {
    let folders = tools().join("allocators/usr/lib");
    let entries = folders.read_dir().into_iter().flatten().flatten();
    let library = entries.map(|folder| folder.path().join(name)).find(|library| library.is_file());
    library.unwrap_or_else(|| panic!("{name} is missing in {}: run `cargo xtask setup`", folders.display()))
}

/// The file that has the names of a library's functions.
pub fn names_of(build_id: &[u8]) -> PathBuf {
    let hex: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("usr/lib/debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..]);
    let path = tools().join("libc6-dbg").join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask setup`", path.display());
    path
}

fn tools() -> PathBuf {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(beside, PathBuf::from)
}

/// Builds aside and moves: a program that runs is not written over.
fn once(name: &str, build: impl Fn(&Path)) -> PathBuf {
    static BUILT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let output = folder().join(name);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.contains(&output) {
        let aside = output.with_extension(std::process::id().to_string());
        std::fs::create_dir_all(folder()).unwrap();
        build(&aside);
        std::fs::rename(&aside, &output).unwrap();
        built.insert(output.clone());
    }
    output
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("native")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native").join(name)
}

fn compile(compiler: &str, flags: &[&str], name: &str, output: &Path) {
    succeed(Command::new(compiler).args(flags).arg(source(name)).arg("-o").arg(output));
}

/// A folder of targets for each set of features: they would replace each other's program.
fn crate_program(name: &str, features: &[&str], output: &Path) {
    let target = folder().join("target").join(format!("{name}{}", features.concat()));
    // The compiler that belongs to this cargo: where root's PATH has no other.
    let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
    let mut command = Command::new(&cargo);
    command.args(["build", "--release", "--locked"]).args(features).arg("--target-dir").arg(&target);
    command.arg("--manifest-path").arg(source(name).join("Cargo.toml"));
    command.envs(cargo.is_absolute().then(|| ("RUSTC", cargo.with_file_name("rustc"))));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeed(&mut command);
    std::fs::copy(target.join("release").join(name), output).unwrap();
}

fn succeed(command: &mut Command) {
    let program = command.get_program().to_owned();
    let said = command.output().unwrap_or_else(|error| missing(&program, &error));
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{}: {text}", program.display());
}

fn missing(program: &OsStr, error: &std::io::Error) -> ! {
    panic!("{}: {error}: run `cargo xtask setup`", program.display())
}
