//! Go programs of `tests/go`, compiled by the toolchains that `cargo xtask setup` brings.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

pub const DEBIAN: &str = "1.19";
pub const VERSIONS: [&str; 8] =
    [DEBIAN, "1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3"];

pub const PLAIN: &[&str] = &[];
pub const STRIPPED: &[&str] = &["-ldflags=-s -w"];

/// The line of JSON that a Go program printed.
pub fn truth_in(stdout: &str) -> Value {
    let line = stdout.lines().find(|line| line.starts_with("{\"pid\"")).unwrap_or_else(|| panic!("{stdout}"));
    serde_json::from_str(line).unwrap()
}

/// Where `cargo xtask setup` puts toolchains.
pub fn tools() -> PathBuf {
    let default = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(default, PathBuf::from)
}

/// Compiles a program of `tests/go` once for each way; `-o NAME` names it, and `cgo.go` goes into it. The program
/// `arenas` needs the experiment of that name.
pub fn build(version: &str, source: &str, flags: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = match flags {
        ["-o", name] => (*name).to_owned(),
        [flag] if flag.starts_with("-overlay") => format!("{source}-overlay"),
        _ => format!("{source}{}", flags.concat().replace([' ', '=', '-', '.'], "")),
    };
    let output = tmp.join("go").join(version).join(name);
    let go = tools().join("go").join(version).join("bin/go");
    assert!(go.is_file(), "{} is missing: run `cargo xtask setup`", go.display());
    let mut command = Command::new(&go);
    command.args(["build", "-trimpath", "-o"]).arg(&output);
    let (files, flags): (Vec<_>, Vec<_>) = flags.iter().partition(|flag| flag.ends_with(".go"));
    command.args(flags.iter().filter(|_| flags.first() != Some(&&"-o"))).arg(format!("{source}.go"));
    command.args(&files).current_dir(format!("{}/tests/go", env!("CARGO_MANIFEST_DIR")));
    command.env("GOCACHE", tmp.join("gocache")).env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    command.env("CGO_ENABLED", if files.is_empty() { "0" } else { "1" });
    command.env("GOEXPERIMENT", if source == "arenas" { "arenas" } else { "" });
    command.env_remove("GOFLAGS").env_remove("GOROOT");
    let built = command.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    output
}
