//! `run`: a command, traced from its first instruction; its exit status is allocscope's.

use super::attach::session_options;
use super::trace::{self, Live, Signals, Until};
use crate::config::RunConfig;
use crate::failure::{Exit, Failure};
use crate::preflight;
use crate::session::Session;
use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

/// Starts the command, traces it until it ends, reports, and returns the command's own exit code.
///
/// # Errors
/// [`Exit::NotFound`], [`Exit::NotExecutable`], or what keeps allocscope from tracing.
pub fn run(config: RunConfig) -> Result<u8> {
    trace::block_on(traced(config))
}

async fn traced(config: RunConfig) -> Result<u8> {
    preflight::check()?;
    let mut signals = Signals::install()?;
    let mut server = trace::serve(config.trace.listen).await?;
    let mut session = Session::start(session_options(&config.trace))?;
    let mut child = Stopped::start(&config)?;
    let pid = child.pid();
    session.trace(pid)?;
    child.go()?;
    preflight::drop_privileges()?;
    if let Some(server) = &server {
        server.set_ready(true);
    }
    let until = Until { process: Some(pid), ignore_signals: true, ..Until::default() };
    let live = Live::new(&config.trace);
    trace::run(&mut session, &mut signals, until, live, &mut server).await?;
    trace::end_at_the_next_signal();
    let status = child.wait()?;
    trace::report(&session.snapshot(), config.trace.format)?;
    if let Some(server) = server {
        server.stop(&mut session).await;
    }
    Ok(exit_code(status))
}

/// The command, stopped by the kernel between its exec and its first instruction.
///
/// Only the thread that started it may let it go; the runtime has one thread, so that is given.
struct Stopped {
    child: Child,
    going: bool,
}

impl Stopped {
    fn start(config: &RunConfig) -> Result<Self> {
        let mut command = Command::new(&config.program);
        command.args(&config.arguments);
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command.spawn().map_err(|error| not_started(config, &error))?;
        let stopped = Self { child, going: false };
        match waitpid(Pid::from_raw(stopped.pid() as i32), Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(..)) => Ok(stopped),
            Ok(status) => bail!("the command did not stop at its exec: {status:?}"),
            Err(error) => Err(error).context("the command cannot be waited for"),
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn go(&mut self) -> Result<()> {
        ptrace::detach(Pid::from_raw(self.pid() as i32), None).context("the command cannot be let go")?;
        self.going = true;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Stopped {
    /// A command that was never let go has run nothing: it is ended, not left behind.
    fn drop(&mut self) {
        if !self.going {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn not_started(config: &RunConfig, error: &io::Error) -> anyhow::Error {
    let program = config.program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::error(Exit::NotFound, format!("{program}: command not found")),
        _ => Failure::error(Exit::NotExecutable, format!("{program} cannot be executed: {error}")),
    }
}

/// As shells tell it: the exit code, or 128 and the signal's number.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}
