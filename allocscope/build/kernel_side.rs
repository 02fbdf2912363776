//! The kernel side, crate allocscope-ebpf, from source into its object, `OUT_DIR/allocscope-ebpf`.

use crate::toolchain::{self, BpfToolchain};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const CRATE: &str = "allocscope-ebpf";
const SOURCES: [&str; 3] = ["../allocscope-ebpf", "../allocscope-common", "build"];

/// Builds it with the toolchain that is there.
pub fn build() -> Result<()> {
    SOURCES.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    if is_skipped() {
        // Editors and linters need something to include, but no toolchain for it.
        return fs::write(out.join(CRATE), []).context("cannot write the empty object");
    }
    let Some(toolchain) = BpfToolchain::find() else {
        bail!("no toolchain can build the kernel side: run `cargo xtask setup`");
    };
    if !is_in_path("bpf-linker") {
        bail!("bpf-linker is not in PATH: run `cargo xtask setup`");
    }
    prepare_environment(toolchain, &out)?;
    let root = fs::canonicalize(SOURCES[0]).with_context(|| format!("{} is missing", SOURCES[0]))?;
    let root_dir = root.to_str().context("the path of allocscope-ebpf is not UTF-8")?;
    let package = aya_build::Package { name: CRATE, root_dir, ..Default::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain.name()))
}

/// As aya-build reads it.
fn is_skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP").is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"))
}

fn is_in_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Sets what the cargo that aya-build starts inherits from this process.
fn prepare_environment(toolchain: BpfToolchain, out: &Path) -> Result<()> {
    // Whatever is printed becomes a warning of this build: keep progress and rustup's infos out.
    let mut set = vec![("CARGO_TERM_QUIET", "true".into()), ("RUSTUP_LOG", "warn".into())];
    if let Some(bootstrap) = toolchain.bootstrap() {
        set.push(("RUSTC_BOOTSTRAP", bootstrap.into()));
    }
    if let Some(llvm) = find_llvm(toolchain) {
        set.push(("LD_LIBRARY_PATH", library_path(&llvm, out)?));
    }
    for (name, value) in set {
        // SAFETY: a build script has one thread here, so nothing reads the environment meanwhile.
        unsafe { env::set_var(name, value) };
    }
    Ok(())
}

/// The LLVM library that bpf-linker has to be shown; rustup shows that of its own toolchains.
fn find_llvm(toolchain: BpfToolchain) -> Option<PathBuf> {
    if toolchain == BpfToolchain::Nightly {
        return None;
    }
    let major = llvm_major(toolchain)?;
    let own = toolchain::rustc(toolchain.name(), &["--print", "sysroot"]);
    let host = toolchain::prints(Command::new("rustc").args(["--print", "sysroot"]));
    let roots = [own, host].into_iter().flatten();
    roots.map(|root| Path::new(&root).join("lib")).find_map(|lib| find_llvm_in(&lib, &major))
}

/// The major version of a toolchain's LLVM.
fn llvm_major(toolchain: BpfToolchain) -> Option<String> {
    let version = toolchain::rustc(toolchain.name(), &["-vV"])?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(llvm.split('.').next()?.to_owned())
}

/// `libLLVM.so.22.1` or `libLLVM-22*.so` in a library folder or its folder for the host's architecture.
fn find_llvm_in(lib: &Path, major: &str) -> Option<PathBuf> {
    let host = lib.join(format!("{}-linux-gnu", env::consts::ARCH));
    [lib.to_owned(), host].iter().flat_map(|folder| toolchain::files(folder, "libLLVM")).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()) == Some(major)
    })
}

/// A library path that begins with a folder where `llvm` is the only LLVM: bpf-linker opens the first
/// library called `libLLVM*` that it meets, of whatever version.
fn library_path(llvm: &Path, out: &Path) -> Result<std::ffi::OsString> {
    let folder = out.join("llvm");
    let link = folder.join("libLLVM.so");
    fs::create_dir_all(&folder).context("cannot make a folder in OUT_DIR")?;
    if link.is_symlink() {
        fs::remove_file(&link).context("cannot replace the link to LLVM")?;
    }
    std::os::unix::fs::symlink(llvm, &link).context("cannot link to LLVM")?;
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    Ok(env::join_paths(std::iter::once(folder).chain(env::split_paths(&inherited)))?)
}
