//! Commands into outcomes: where they run, as whom, for how long, and what is told of a failure.

pub use crate::toolchain::prints;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

/// The workspace's root.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The target folder, wherever cargo was told to put it: this program is in `TARGET/debug`.
pub fn target_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let folder = own.ancestors().nth(2).context("this program is not in a target folder")?;
    Ok(folder.to_owned())
}

/// The folder for downloaded tools.
pub fn tools_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("tools"))
}

/// The cargo that runs this task, started in the workspace's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs as root, through sudo where this process is not.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}

/// Whether `as_root` can work.
pub fn can_be_root() -> bool {
    is_root() || prints(Command::new("sudo").args(["-n", "true"])).is_some()
}

/// Runs a command with this terminal; its failure is an error.
pub fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    succeeded(command, status)
}

/// The same, stopped with all that it started when it takes longer than a limit.
pub fn shown_within(command: &mut Command, limit: Duration) -> Result<()> {
    let Some(status) = wait(command, limit)? else { bail!(too_long(command, limit)) };
    succeeded(command, status)
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

fn too_long(command: &Command, limit: Duration) -> String {
    format!("{} took longer than {} s and was stopped", name(command), limit.as_secs())
}

/// Runs a command with its output in a log; a failure or a timeout is one sentence with the log's
/// telling line.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let both = file.try_clone().context("cannot share the log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(both);
    let Some(status) = wait(command, limit)? else {
        bail!(too_long(command, limit));
    };
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!("{} failed: {} (all of it: {})", name(command), telling_line(&text), log.display());
    }
    Ok(())
}

/// `None` where the limit was reached.
fn wait(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", name(command)))?;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait")? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            // What it started first: a child whose parent is gone cannot be found any more.
            stop_children(child.id());
            child.kill().context("cannot stop it")?;
            child.wait().context("cannot wait")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the processes that a process started, and those that they did; who is gone, or another user's, is left.
fn stop_children(parent: u32) {
    for child in children(parent) {
        stop_children(child);
        if let Ok(child) = i32::try_from(child) {
            let _ = signal::kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| parent_of(*number) == Some(parent)).collect()
}

/// The fourth field of `/proc/PID/stat`; the second, the name, may hold anything, and ends with the last bracket.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The program and its first arguments: enough to recognise a command.
fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args().take(6));
    let words: Vec<_> =
        words.map(|word| Path::new(word).file_name().unwrap_or(word).to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}

/// The first line that says it is an error, or else the last one.
fn telling_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| {
        let start = line.get(..6).unwrap_or_default().to_ascii_lowercase();
        start.starts_with("error") || start.starts_with("e: ")
    });
    error.or_else(|| lines.next_back()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_line_prefers_errors() {
        assert_eq!(
            telling_line("info: a\nerror: could not download\nCaused by:\n  b\n"),
            "error: could not download"
        );
        assert_eq!(telling_line("E: Unable to locate package x\nbye"), "E: Unable to locate package x");
        assert_eq!(telling_line("one\ntwo\n\n"), "two");
        assert_eq!(telling_line(""), "it said nothing");
    }

    #[test]
    fn a_command_past_its_limit_is_stopped() {
        let log = env::temp_dir().join(format!("xtask-limit-{}", std::process::id()));
        let error = logged(Command::new("sleep").arg("60"), &log, Duration::from_millis(10));
        fs::remove_file(&log).unwrap();
        assert!(error.unwrap_err().to_string().contains("was stopped"));
    }

    #[test]
    fn what_a_stopped_command_started_is_stopped() {
        let pid = env::temp_dir().join(format!("xtask-child-{}", std::process::id()));
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let error = shown_within(Command::new("sh").args(["-c", &script]), Duration::from_secs(1));
        assert!(error.unwrap_err().to_string().contains("longer than 1 s"));
        let child: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        fs::remove_file(&pid).unwrap();
        let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let is_gone = || state().is_empty() || state().contains(") Z ");
        // A kill is carried out when the process runs next.
        let start = Instant::now();
        while !is_gone() {
            assert!(start.elapsed() < Duration::from_secs(30), "{}", state());
            thread::sleep(Duration::from_millis(1));
        }
    }
}
