//! The programs that are measured: built, asked what they have, and run.

use super::{NO_PROBES, OWN};
use crate::{run, setup};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GO_SOURCE: &str = include_str!("pools.go");

/// Cases that have a slow path with a probe, or should not feel that others have one.
const PROBED: [&str; 5] = ["object-4096", "buffer-65536", "arena-64", "region-64MiB", "miss"];

/// One subject of one case, and the program that measures it.
pub struct Subject {
    /// The case.
    pub case: String,
    /// What it is called in the table.
    pub name: String,
    /// With how many threads it is measured.
    pub threads: Vec<u64>,
    program: PathBuf,
    /// What the program calls it.
    own_name: String,
}

impl Subject {
    /// Nanoseconds of one operation.
    pub fn measure(&self, threads: u64, milliseconds: u32) -> Result<f64> {
        let mut command = Command::new(&self.program);
        command.args([&self.case, &self.own_name, &threads.to_string(), &milliseconds.to_string()]);
        let line = prints(&mut command).with_context(|| format!("{}, {}", self.case, self.name))?;
        let sample: Value = serde_json::from_str(&line).context("what it printed is not JSON")?;
        sample["ns"].as_f64().context("it printed no time")
    }
}

/// Builds the Rust program twice, once without probes. In folders of their own, so that neither is built anew
/// when the other was.
pub fn build_rust() -> Result<()> {
    let build = || {
        let mut cargo = run::cargo();
        cargo.args(["build", "--release", "--package", "pool-bench"]);
        cargo
    };
    run::shown(&mut build())?;
    let mut without = build();
    without.arg("--target-dir").arg(without_probes()?).env("RUSTFLAGS", "--cfg allocscope_no_probes");
    run::shown(&mut without)
}

fn without_probes() -> Result<PathBuf> {
    Ok(run::target_dir()?.join("bench-no-probes"))
}

/// The Rust program.
pub fn rust() -> Result<PathBuf> {
    Ok(run::target_dir()?.join("release/pool-bench"))
}

/// Those of all programs, together by case and in the order of the Rust program's cases.
pub fn subjects() -> Result<Vec<Subject>> {
    let mut all = of(&rust()?)?;
    let order: Vec<String> = all.iter().map(|subject| subject.case.clone()).collect();
    all.extend(of(&build_go()?)?);
    let without = of(&without_probes()?.join("release/pool-bench"))?.into_iter();
    let is_ours = |subject: &Subject| subject.name == OWN && PROBED.contains(&subject.case.as_str());
    all.extend(without.filter(is_ours).map(|subject| Subject { name: NO_PROBES.to_owned(), ..subject }));
    all.sort_by_key(|subject| order.iter().position(|case| *case == subject.case));
    Ok(all)
}

fn of(program: &Path) -> Result<Vec<Subject>> {
    let list = prints(Command::new(program).arg("list"))?;
    list.lines().map(|line| subject(program, line).context("what it lists is not JSON")).collect()
}

fn subject(program: &Path, line: &str) -> Option<Subject> {
    let row: Value = serde_json::from_str(line).ok()?;
    let name = row["subject"].as_str()?.to_owned();
    Some(Subject {
        case: row["case"].as_str()?.to_owned(),
        own_name: name.clone(),
        name,
        threads: row["threads"].as_array()?.iter().filter_map(Value::as_u64).collect(),
        program: program.to_owned(),
    })
}

fn build_go() -> Result<PathBuf> {
    let folder = run::target_dir()?.join("bench-go/pools");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (source, program) = (folder.join("pools.go"), folder.join("pools"));
    fs::write(&source, GO_SOURCE).context("cannot write the Go program")?;
    let mut go = Command::new(run::tools_dir()?.join("go").join(setup::go::NEWEST).join("bin/go"));
    go.arg("build").arg("-o").arg(&program).arg(&source).current_dir(&folder);
    go.env("GOTOOLCHAIN", "local").env("GOCACHE", folder.join("cache")).env("GOPATH", folder.join("path"));
    go.env("CGO_ENABLED", "0").env_remove("GOROOT").env_remove("GOFLAGS");
    run::shown(&mut go).context("Go does not build the program")?;
    Ok(program)
}

fn prints(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("what it printed is no text")
}
