//! `dist`: the release build, tried once, and what a package carries beside it, written by the program itself.

use crate::{run, smoke};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Arguments of allocscope and the file, below target/dist, that its stdout becomes.
const FILES: [(&[&str], &str); 4] = [
    (&["man"], "man/allocscope.1"),
    (&["completions", "bash"], "completions/allocscope.bash"),
    (&["completions", "zsh"], "completions/_allocscope"),
    (&["completions", "fish"], "completions/allocscope.fish"),
];

/// Runs the task.
pub fn main() -> Result<()> {
    smoke::main()?;
    let target = run::target_dir()?;
    let program = target.join("release/allocscope");
    for (args, name) in FILES {
        let file = target.join("dist").join(name);
        write(&file, &stdout_of(&program, args)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}

fn stdout_of(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).output().context("cannot start allocscope")?;
    if output.status.success() && output.stdout.is_empty() {
        bail!("`allocscope {}` printed nothing", args.join(" "));
    }
    if !output.status.success() {
        bail!("`allocscope {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(file, bytes)
}
