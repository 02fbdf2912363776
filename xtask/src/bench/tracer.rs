//! Processes of a measurement: started, awaited, and ended whatever happens.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No step of a measurement takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks; the tracer is looked at, not what is measured.
const LOOK: Duration = Duration::from_millis(2);

/// A child whose output goes to files; killed when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a command with its output in `folder`, in files that begin with `name`.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> Result<Self> {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let file =
            |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        command.stdin(Stdio::piped()).stdout(file(&stdout)?).stderr(file(&stderr)?);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, stdout, stderr })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its output contains a text.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let files = [self.stdout.clone(), self.stderr.clone()];
        self.wait_until(|| files.iter().any(|file| says(file, text)))
            .with_context(|| format!("it did not say {text:?}"))
    }

    fn wait_until(&mut self, is_so: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !is_so() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{status}: {}", self.complaint());
            }
            if start.elapsed() > LIMIT {
                bail!("it took too long: {}", self.complaint());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The last line of its standard error.
    fn complaint(&self) -> String {
        let text = fs::read_to_string(&self.stderr).unwrap_or_default();
        text.trim().lines().next_back().unwrap_or("it said nothing").to_owned()
    }

    /// The first line of its standard error that contains a text.
    pub fn said(&self, text: &str) -> Option<String> {
        let all = fs::read_to_string(&self.stderr).ok()?;
        all.lines().find(|line| line.contains(text)).map(str::to_owned)
    }

    /// Writes the line it waits for.
    pub fn go(&mut self) -> Result<()> {
        let input = self.stdin.as_mut().context("its input has ended already")?;
        input.write_all(b"go\n").context("it does not wait any more")
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for the first line of its output, and returns it.
    pub fn line(&mut self) -> Result<String> {
        let stdout = self.stdout.clone();
        self.wait_until(|| says(&stdout, "\n"))?;
        let text = fs::read_to_string(&self.stdout).context("cannot read its output")?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
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
            bail!("{status}: {}", self.complaint());
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

fn says(file: &Path, text: &str) -> bool {
    let has = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    fs::read(file).is_ok_and(has)
}
