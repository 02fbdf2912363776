//! `run`: a command, traced from its first instruction; its exit status is allocscope's.

use super::attach::session_options;
use super::gate::Gate;
use super::observed::Observed;
use super::stopped::{NotStarted, Stopped};
use super::trace::{self, Live, Signals, Until};
use crate::config::RunConfig;
use crate::failure::{Exit, Failure};
use crate::preflight;
use crate::session::Session;
use anyhow::Result;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Starts the command, traces it until it ends, reports, and returns the command's own exit code.
///
/// # Errors
/// [`Exit::NotFound`], [`Exit::NotExecutable`], or what keeps allocscope from tracing.
pub fn run(config: RunConfig) -> Result<u8> {
    trace::block_on(traced(config))
}

async fn traced(config: RunConfig) -> Result<u8> {
    let gate = Gate::new(&config)?;
    let mut observed = observe(&config, Live::new(&config.trace)).await?;
    let snapshot = observed.report(config.trace.format).await?;
    let code = exit_code(observed.end);
    match gate {
        Some(gate) => gate.judge(&snapshot, code),
        None => Ok(code),
    }
}

/// Starts the command and traces it until it ends.
pub(super) async fn observe(config: &RunConfig, live: Live) -> Result<Observed<ExitStatus>> {
    preflight::check()?;
    let mut signals = Signals::install()?;
    let mut server = trace::serve(config.trace.listen).await?;
    let mut session = Session::start(session_options(&config.trace))?;
    let mut child = start(config, &mut session)?;
    let pid = child.pid();
    super::attach::tell_small_cost(&session);
    preflight::drop_privileges()?;
    if let Some(server) = &server {
        server.set_ready(true);
    }
    let until = Until { process: Some(pid), ignore_signals: true, ..Until::default() };
    trace::run(&mut session, &mut signals, until, live, &mut server).await?;
    trace::end_at_the_next_signal();
    let status = child.wait()?;
    Ok(Observed { session, server, end: status })
}

/// Starts the command under a session that traces it from its first instruction on.
pub(super) fn start(config: &RunConfig, session: &mut Session) -> Result<Stopped> {
    let mut child = Stopped::start(config).map_err(|error| not_started(config, error))?;
    let pid = child.pid();
    session.trace(pid)?;
    // Before any of a library's code runs, its allocator is probed.
    child.go(|| session.attach_libraries(pid))?;
    Ok(child)
}

fn not_started(config: &RunConfig, error: NotStarted) -> anyhow::Error {
    let program = config.program.to_string_lossy();
    match error {
        NotStarted::Spawn(error) if error.kind() == io::ErrorKind::NotFound => {
            Failure::error(Exit::NotFound, format!("{program}: command not found"))
        }
        NotStarted::Spawn(error) => {
            Failure::error(Exit::NotExecutable, format!("{program} cannot be executed: {error}"))
        }
        NotStarted::Stop(error) => error,
    }
}

/// As shells tell it: the exit code, or 128 and the signal's number.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
