//! One run of one program with one tracer, from start to report.

use super::case::{Case, Counts, ELSEWHERE, Tracer};
use super::tracer::Process;
use super::{bcc, crowd, peer};
use crate::run;
use anyhow::{Context as _, Error, Result};
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
    /// What it told, or why the tracer did not trace.
    pub outcome: Result<Outcome, String>,
}

/// What a run tells.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Nanoseconds of one operation, by the program's own clock.
    pub ns: f64,
    /// What the tracer saw and what it should have.
    pub counts: Option<Counts>,
    /// Probe hits of an operation, by the tracer's own count.
    pub hits: Option<Hits>,
    /// From the tracer's start to when it traces.
    pub attach: Option<Duration>,
    /// From the order to end, or the process' end, to the tracer's.
    pub detach: Option<Duration>,
}

/// Probe hits of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Hits {
    /// Of user-space probes whose instruction the kernel emulates.
    pub emulated: f64,
    /// Of those whose instruction is single-stepped.
    pub stepped: f64,
}

/// A program needs this long from its start to where it waits.
const SETTLE: Duration = Duration::from_millis(50);
/// What a program that stays says.
const READY: &str = "ready\n";

/// A tracer that traces, and how long it took to do so.
struct Tracing {
    process: Process,
    attach: Duration,
}

/// Takes one. That a tracer does not trace is in the outcome; that the measured program fails is an error.
pub fn take(program: &Path, case: &Case, index: usize, variant: usize, round: u32) -> Result<Sample> {
    let folder = work_folder()?;
    let chosen = &case.variants[variant].tracer;
    let _crowd = crowd::Crowd::start(program, case.crowd)?;
    let mut measured = start_measured(case, &folder)?;
    let mut other = match case.elsewhere && *chosen != Tracer::None {
        true => Some(start_other(program, &folder)?),
        false => None,
    };
    let traced = other.as_ref().unwrap_or(&measured).pid();
    let outcome = match start(program, chosen, traced, case, &folder) {
        Ok(tracing) => Ok(run_to_end(case, variant, &mut measured, other.as_mut(), tracing)?),
        Err(error) => Err(sentence(&error)),
    };
    Ok(Sample { case: index, variant, round, outcome })
}

fn start_measured(case: &Case, folder: &Path) -> Result<Process> {
    let mut command = Command::new(&case.command[0]);
    command.args(&case.command[1..]).envs(case.preload.iter().map(|library| ("LD_PRELOAD", library)));
    let mut measured = Process::start(&mut command, folder, "program")?;
    if case.stays {
        measured.wait_for(READY)?;
    } else {
        thread::sleep(SETTLE);
    }
    Ok(measured)
}

fn start_other(program: &Path, folder: &Path) -> Result<Process> {
    let other = Process::start(Command::new(program).args(ELSEWHERE), folder, "other")?;
    thread::sleep(SETTLE);
    Ok(other)
}

/// From when the tracer traces.
fn run_to_end(
    case: &Case,
    variant: usize,
    measured: &mut Process,
    other: Option<&mut Process>,
    tracing: Option<Tracing>,
) -> Result<Outcome> {
    let truth = finish(measured, case.stays)?;
    let other_truth = other.map(|other| finish(other, false)).transpose()?;
    let ns = (case.metric)(&truth).context("the program did not print its time")?;
    let mut outcome = Outcome { ns, ..Outcome::default() };
    if let Some(mut tracing) = tracing {
        let variant = &case.variants[variant];
        let ended = Instant::now();
        let report = report(&variant.tracer, &mut tracing.process, case.stays, measured.pid())?;
        (outcome.attach, outcome.detach) = (Some(tracing.attach), Some(ended.elapsed()));
        outcome.hits = hits(&truth, &report);
        let truth = other_truth.as_ref().unwrap_or(&truth);
        let nothing = Counts::new(0, u64::MAX);
        outcome.counts = variant.check.map(|check| check(truth, &report).unwrap_or(nothing));
    }
    if case.stays {
        measured.end_input();
        measured.output()?;
    }
    Ok(outcome)
}

/// The program's truth.
fn finish(process: &mut Process, stays: bool) -> Result<Value> {
    process.go()?;
    if stays {
        return parse(&process.line()?);
    }
    process.end_input();
    parse(&process.output()?)
}

fn parse(text: &str) -> Result<Value> {
    let line = text.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).context("what it printed is not JSON")
}

/// Starts a tracer and waits until it traces.
fn start(program: &Path, tracer: &Tracer, pid: u32, case: &Case, folder: &Path) -> Result<Option<Tracing>> {
    let begun = Instant::now();
    let (mut command, ready) = match tracer {
        Tracer::None => return Ok(None),
        Tracer::Allocscope(options) => (attach(program, pid, options), "allocscope: tracing "),
        Tracer::Daemon(options) => (daemon(program, options), "/metrics"),
        Tracer::Bpftrace(script) => (peer::command(script, pid, case.library)?, peer::READY_TEXT),
        Tracer::Bcc(program) => (program.command(pid, case.library)?, program.ready_text()),
    };
    let mut process = Process::start(&mut command, folder, "tracer")?;
    process.wait_for(ready)?;
    if matches!(tracer, Tracer::Daemon(_)) {
        crowd::wait_for_all(&process, pid, case.crowd)?;
    }
    Ok(Some(Tracing { process, attach: begun.elapsed() }))
}

fn daemon(program: &Path, options: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(["daemon", "--all", "--listen", "127.0.0.1:0"]).args(options);
    command
}

fn attach(program: &Path, pid: u32, options: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(["attach", "--format", "json", "--pid", &pid.to_string()]).args(options);
    command
}

/// allocscope ends with the process; whoever does not is told to.
fn report(tracer: &Tracer, process: &mut Process, stays: bool, pid: u32) -> Result<Value> {
    let of_daemon = match tracer {
        Tracer::Daemon(_) => crowd::report(process, pid)?,
        _ => Value::Null,
    };
    if stays || !matches!(tracer, Tracer::Allocscope(_)) {
        process.interrupt()?;
    }
    let output = process.output()?;
    match tracer {
        Tracer::Bpftrace(_) => Ok(peer::report(&output)),
        Tracer::Bcc(_) => Ok(bcc::report(&output)),
        Tracer::Daemon(_) => Ok(of_daemon),
        Tracer::None | Tracer::Allocscope(_) => parse(&output),
    }
}

/// `None` where the program does not count its operations or the tracer does not count its hits.
fn hits(truth: &Value, report: &Value) -> Option<Hits> {
    let ops = truth["ops"].as_f64()?;
    let hits = &report["processes"][0]["cost"]["hits"];
    let per_op = |class: &str| Some(hits[class].as_f64()? / ops);
    Some(Hits { emulated: per_op("uprobe_emulated")?, stepped: per_op("uprobe_stepped")? })
}

/// An error and its causes on one line, without where this repository is.
fn sentence(error: &Error) -> String {
    let text = format!("{error:#}").replace(['\n', '|'], " ");
    text.replace(&*run::root().to_string_lossy(), ".")
}

fn work_folder() -> Result<PathBuf> {
    let folder = run::target_dir()?.join("bench-work");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
