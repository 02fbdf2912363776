//! `demo`: builds allocscope and lets it trace a program that allocates, with the live table in this terminal.

use crate::{run, setup};
use anyhow::{Context as _, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, getpid, getppid};
use std::env;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Build allocscope and watch it trace a workload.
#[derive(clap::Args)]
pub struct Args {
    /// Stop by itself after so many seconds; else Ctrl-C stops it.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Where the metrics are served [default: 127.0.0.1:9840, or a free port where that is taken].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// What this task passes to itself when it goes on as root.
    #[arg(long, hide = true)]
    is_built: bool,
}

const LISTEN: &str = "127.0.0.1:9840";
/// The workload outlives the tracing, which is then what ends the demo.
const MARGIN_S: u64 = 60;
const YEAR_S: u64 = 365 * 24 * 3600;

/// Runs the task.
pub fn main(args: &Args) -> Result<()> {
    if !args.is_built {
        setup::prepare_build()?;
        run::shown(run::cargo().args(["build", "--release", "--package", "allocscope"]))?;
    }
    if !run::is_root() {
        return Err(become_root(args));
    }
    let program = run::target_dir()?.join("release/allocscope");
    let listen = listen_address(args)?;
    outlive_interrupts()?;
    let workload = Workload::start(&program, args.seconds.map_or(YEAR_S, |s| s.saturating_add(MARGIN_S)))?;
    println!("tracing process {}; metrics: http://{listen}/metrics", workload.0.id());
    attach(&program, workload.0.id(), args.seconds, listen)
}

/// Goes on as root in this process' place; returns only what prevents it.
fn become_root(args: &Args) -> anyhow::Error {
    if !run::can_be_root() {
        return anyhow::anyhow!("tracing needs root and sudo would ask: run `sudo -v` first");
    }
    let own: PathBuf = match env::current_exe() {
        Ok(own) => own,
        Err(error) => return error.into(),
    };
    let mut sudo = Command::new("sudo");
    sudo.arg("-n").arg(own).args(["demo", "--is-built"]);
    sudo.args(args.seconds.iter().map(|seconds| format!("--seconds={seconds}")));
    sudo.args(args.listen.iter().map(|listen| format!("--listen={listen}")));
    sudo.exec().into()
}

fn listen_address(args: &Args) -> Result<SocketAddr> {
    if let Some(listen) = args.listen {
        return Ok(listen);
    }
    let listener = TcpListener::bind(LISTEN).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    listener.and_then(|listener| listener.local_addr()).context("cannot find a free port")
}

/// Ctrl-C is for allocscope, which then prints its report; this process waits for that. A handler and
/// not `SIG_IGN`, because children would inherit that.
fn outlive_interrupts() -> Result<()> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { sigaction(Signal::SIGINT, &action) }.context("cannot handle Ctrl-C")?;
    Ok(())
}

/// Runs allocscope until it ends by itself or by Ctrl-C.
fn attach(program: &Path, pid: u32, seconds: Option<u64>, listen: SocketAddr) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["attach", "--pid", &pid.to_string(), "--listen", &listen.to_string()]);
    command.args(seconds.map(|s| ["--duration".to_owned(), format!("{s}s")]).into_iter().flatten());
    dies_with_us(&mut command, Signal::SIGINT);
    let status = command.status().context("cannot start allocscope")?;
    if !status.success() {
        bail!("allocscope attach failed: {status}");
    }
    Ok(())
}

/// The traced program; killed when this goes out of scope.
struct Workload(Child);

impl Workload {
    fn start(program: &Path, seconds: u64) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["workload", "churn", "--seconds", &seconds.to_string()]);
        // Its own process group, out of reach of Ctrl-C: it is still there for the final report.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        dies_with_us(&mut command, Signal::SIGKILL);
        Ok(Self(command.spawn().context("cannot start the workload")?))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the kernel send `signal` to the command when this process dies, however it dies.
fn dies_with_us(command: &mut Command, signal: Signal) {
    let parent: Pid = getpid();
    let arm = move || {
        prctl::set_pdeathsig(signal)?;
        // The parent may have died before the line above.
        if getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec, `arm` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(arm) };
}
