//! Processes of a measurement: started, awaited, and ended whatever happens.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No step of a measurement takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks; the tracer is looked at, not what is measured.
const LOOK: Duration = Duration::from_millis(2);

/// A child whose output goes to files; killed when dropped.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a command with its output in `folder`, in files that begin with `name`.
    pub fn start(command: &mut Command, folder: &std::path::Path, name: &str) -> Result<Self> {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let file =
            |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        command.stdin(Stdio::piped()).stdout(file(&stdout)?).stderr(file(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, stdout, stderr })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its output contains a text.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let start = Instant::now();
        while !self.says(text) {
            if self.child.try_wait()?.is_some() || start.elapsed() > LIMIT {
                bail!(
                    "it did not get ready: {}",
                    fs::read_to_string(&self.stderr).unwrap_or_default().trim()
                );
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn says(&self, text: &str) -> bool {
        [&self.stdout, &self.stderr]
            .iter()
            .any(|path| fs::read(path).is_ok_and(|bytes| contains(&bytes, text)))
    }

    /// Writes the line it waits for.
    pub fn go(&mut self) -> Result<()> {
        let mut input = self.child.stdin.take().context("it has begun already")?;
        input.write_all(b"go\n").context("it does not wait any more")
    }

    /// Sends SIGINT, after which it reports.
    pub fn interrupt(&self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT).context("it ended too early")
    }

    /// Waits for its end and returns its standard output.
    pub fn output(&mut self) -> Result<String> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > LIMIT {
                bail!("it did not end");
            }
            thread::sleep(LOOK);
        };
        if !status.success() {
            bail!("{status}: {}", fs::read_to_string(&self.stderr).unwrap_or_default().trim());
        }
        fs::read_to_string(&self.stdout).context("cannot read its output")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
