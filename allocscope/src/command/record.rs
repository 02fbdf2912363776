//! `record`: which code pays for its large allocations, into a profile, folded stacks or a flame graph.

use super::attach::session_options;
use super::run::{self, exit_code};
use super::stopped::Stopped;
use super::tell;
use super::trace::{self, Live, Signals, Stop, Until};
use crate::aggregate::{ProcessSnapshot, Snapshot};
use crate::config::{ProfileFormat, RecordConfig, Recorded, RunConfig};
use crate::export::costs::Costs;
use crate::export::{flame, folded, pprof, rows};
use crate::failure::{Exit, Failure};
use crate::preflight;
use crate::session::{Recording, Session, SessionOptions, Sink};
use crate::target;
use allocscope_common::counter::LossReason;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records until the process ends, `--duration` is over or a signal comes, then writes the profile.
///
/// # Errors
/// Each with its [`Exit`] code; what cannot be written is [`Exit::Internal`].
pub fn run(config: RecordConfig) -> Result<u8> {
    trace::block_on(record(config))
}

async fn record(config: RecordConfig) -> Result<u8> {
    preflight::check()?;
    if let Recorded::Pid(pid) = config.subject {
        target::describe(pid).map_err(Failure::from)?;
    }
    // Before anything is loaded, so that a wrong path is told at once.
    let output = Output::open(config.output.as_deref())?;
    let mut signals = Signals::install()?;
    let mut session =
        Session::start(SessionOptions { sink: Some(Sink::Profile), ..session_options(&config.trace) })?;
    let mut child = Child::start(&config, &mut session)?;
    let pid = child.pid;
    preflight::drop_privileges()?;
    tell(format_args!("recording process {pid}; Ctrl-C ends it"));
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = Until { duration: config.duration, process: Some(pid), ignore_signals: false };
    let stop = trace::run(&mut session, &mut signals, until, Live::silent(), &mut None).await?;
    trace::end_at_the_next_signal();
    let snapshot = session.last_snapshot();
    let recording = session.finish_recording().context("nothing was recorded")?;
    drop(session);
    tell_coverage(&recording, &snapshot);
    output.write(&written(&config, &recording, &snapshot, began)?)?;
    child.exit(stop, config.duration.is_some())
}

/// The bytes of the profile.
fn written(
    config: &RecordConfig,
    recording: &Recording,
    snapshot: &Snapshot,
    began: Duration,
) -> Result<Vec<u8>> {
    let comm = |process: &ProcessSnapshot| (process.info.id.pid, process.info.comm.replace([';', '\n'], "?"));
    let comms = snapshot.processes.iter().map(comm).collect();
    let costs = Costs {
        profile: &recording.profile,
        stacks: &recording.stacks,
        names: &recording.names,
        modules: &recording.modules,
        comms: &comms,
        duration: snapshot.elapsed,
        began,
    };
    match config.format {
        ProfileFormat::Pprof => Ok(pprof::pprof(&costs)?),
        ProfileFormat::Folded => Ok(folded::folded(&costs, config.weight).into_bytes()),
        ProfileFormat::Svg => flame::flame(&costs, config.weight)
            .map_err(|message| Failure::error(Exit::NothingToTrace, message)),
    }
}

/// How much of what happened is in the profile.
fn tell_coverage(recording: &Recording, snapshot: &Snapshot) {
    let profile = &recording.profile;
    let counted: u64 = profile.sites().values().map(|values| values.count).sum();
    let all: u64 = snapshot
        .processes
        .iter()
        .flat_map(rows::rows)
        .filter_map(|row| row.call)
        .map(|call| call.totals.count)
        .sum();
    let estimate = if profile.thinned == 0 { "each with its stack" } else { "thinned out: an estimate" };
    tell(format_args!(
        "recorded {} of {all} calls (standing for {counted}), {} stacks, {estimate}",
        profile.recorded,
        profile.sites().len(),
    ));
    let lost = snapshot.lost.get(&LossReason::AllocationRingFull).copied().unwrap_or(0);
    if lost > 0 {
        tell(format_args!("{lost} records were lost: the ring was full"));
    }
    if recording.stacks.overflow + profile.given_up > 0 {
        tell(format_args!(
            "no room for {} stacks and for the later cost of {} allocations",
            recording.stacks.overflow, profile.given_up
        ));
    }
    if !recording.all_named {
        tell(format_args!("not all functions were looked up in time; the rest are told by address"));
    }
}

/// A command that was started to be recorded, or none.
struct Child {
    pid: u32,
    command: Option<Stopped>,
}

impl Child {
    fn start(config: &RecordConfig, session: &mut Session) -> Result<Self> {
        let (program, arguments) = match &config.subject {
            Recorded::Pid(pid) => {
                session.trace(*pid)?;
                return Ok(Self { pid: *pid, command: None });
            }
            Recorded::Command { program, arguments } => (program.clone(), arguments.clone()),
        };
        let command = RunConfig {
            program,
            arguments,
            environment: Vec::new(),
            budget: None,
            junit: None,
            trace: config.trace.clone(),
        };
        let child = run::start(&command, session)?;
        Ok(Self { pid: child.pid(), command: Some(child) })
    }

    /// The exit code: a command's own, as under `run`; it is not waited for where the recording was ended.
    fn exit(&mut self, stop: Stop, has_duration: bool) -> Result<u8> {
        match &mut self.command {
            Some(command) if stop == Stop::ProcessEnded => Ok(exit_code(command.wait()?)),
            None if stop == Stop::ProcessEnded && has_duration => Ok(Exit::EndedEarly as u8),
            _ => Ok(0),
        }
    }
}

/// Where the profile goes.
enum Output {
    Stdout,
    File(File, String),
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let name = path.display().to_string();
        let file = File::create(path)
            .map_err(|error| Failure::error(Exit::Internal, format!("cannot write {name}: {error}")))?;
        Ok(Self::File(file, name))
    }

    fn write(self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                Ok(out.write_all(bytes).and_then(|()| out.flush())?)
            }
            Self::File(mut file, name) => file
                .write_all(bytes)
                .map_err(|error| Failure::error(Exit::Internal, format!("cannot write {name}: {error}"))),
        }
    }
}
