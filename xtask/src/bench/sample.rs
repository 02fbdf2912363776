//! One run of one program with one tracer, from start to report.

use super::case::{Case, ELSEWHERE, Tracer};
use super::peer;
use super::tracer::Process;
use crate::run;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What was measured.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which case.
    pub case: usize,
    /// Which of its variants.
    pub variant: usize,
    /// In which round, from 0.
    pub round: u32,
    /// Nanoseconds of one operation, by the program's own clock.
    pub ns: f64,
    /// What the tracer saw and what it should have.
    pub counts: Option<(u64, u64)>,
    /// From the tracer's start to when it traces.
    pub attach: Option<Duration>,
    /// From the order to end, or the process' end, to the tracer's.
    pub detach: Option<Duration>,
}

/// A program needs this long from its start to where it waits.
const SETTLE: Duration = Duration::from_millis(50);

/// Takes one.
pub fn take(program: &Path, case: &Case, index: usize, variant: usize, round: u32) -> Result<Sample> {
    let folder = work_folder()?;
    let chosen = &case.variants[variant];
    let mut measured =
        Process::start(Command::new(&case.command[0]).args(&case.command[1..]), &folder, "program")?;
    let mut other = match case.elsewhere && chosen.tracer != Tracer::None {
        true => Some(Process::start(Command::new(program).args(ELSEWHERE), &folder, "other")?),
        false => None,
    };
    thread::sleep(SETTLE);
    let traced = other.as_ref().unwrap_or(&measured).pid();
    let mut tracer = start(program, &chosen.tracer, traced, &folder)?;
    measured.go()?;
    let truth = parse(&measured.output()?)?;
    let other_truth = other.as_mut().map(finish).transpose()?;
    let ns = (case.metric)(&truth).context("the program did not print its time")?;
    let mut sample = Sample { case: index, variant, round, ns, counts: None, attach: None, detach: None };
    if let Some((tracer, attach)) = &mut tracer {
        let ended = Instant::now();
        let report = report(&chosen.tracer, tracer)?;
        (sample.attach, sample.detach) = (Some(*attach), Some(ended.elapsed()));
        let truth = other_truth.as_ref().unwrap_or(&truth);
        sample.counts = chosen.check.map(|check| check(truth, &report).unwrap_or((0, u64::MAX)));
    }
    Ok(sample)
}

fn finish(other: &mut Process) -> Result<Value> {
    other.go()?;
    parse(&other.output()?)
}

fn parse(text: &str) -> Result<Value> {
    let line = text.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).context("what it printed is not JSON")
}

/// Starts a tracer and waits until it traces; returns how long that took.
fn start(program: &Path, tracer: &Tracer, pid: u32, folder: &Path) -> Result<Option<(Process, Duration)>> {
    let begun = Instant::now();
    let (mut command, ready) = match tracer {
        Tracer::None => return Ok(None),
        Tracer::Allocscope => (attach(program, pid), "allocscope: tracing "),
        Tracer::Bpftrace(script) => (peer::command(script, pid), peer::READY_TEXT),
    };
    let mut process = Process::start(&mut command, folder, "tracer")?;
    process.wait_for(ready)?;
    Ok(Some((process, begun.elapsed())))
}

fn attach(program: &Path, pid: u32) -> Command {
    let mut command = Command::new(program);
    command.args(["attach", "--format", "json", "--pid", &pid.to_string()]);
    command
}

/// allocscope ends with the process; bpftrace is told to.
fn report(tracer: &Tracer, process: &mut Process) -> Result<Value> {
    if let Tracer::Bpftrace(_) = tracer {
        process.interrupt()?;
        return Ok(peer::report(&process.output()?));
    }
    parse(&process.output()?)
}

fn work_folder() -> Result<PathBuf> {
    let folder = run::target_dir()?.join("bench-work");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
