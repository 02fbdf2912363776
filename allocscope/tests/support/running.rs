//! A started program: what it says, how it ends, and that it is gone afterwards.

use super::LIMIT;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program in a process group of its own, all of which is killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    ended: bool,
}

/// How a program ended.
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All it wrote on standard output.
    pub stdout: String,
    /// All it wrote on standard error.
    pub stderr: String,
}

impl Running {
    /// Starts it with its standard streams connected to the test.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = spawn(command);
        let stdout = Stream::collect(child.stdout.take().unwrap());
        let stderr = Stream::collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr, ended: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it, and not to its children.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Sends a signal to it and its children, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Writes a line to its standard input and closes it.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.take().unwrap(), "{line}").unwrap();
    }

    /// Writes to its standard input, which stays open.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Closes its standard input.
    pub fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for a text on standard error and returns all that was written there until then.
    pub fn until_stderr(&self, text: &str) -> String {
        self.stderr.until(text)
    }

    /// The same for standard output.
    pub fn until_stdout(&self, text: &str) -> String {
        self.stdout.until(text)
    }

    /// Waits until standard output has a text so many times.
    pub fn until_stdout_has(&self, text: &str, times: usize) {
        let is_there = || self.stdout.text().matches(text).count() >= times;
        assert!(eventually(LIMIT, is_there), "not {times} times {text:?}");
    }

    /// Waits until it is blocked in reading its standard input: `read(0, ...)`, proc_pid_syscall(5).
    pub fn until_waiting_for_input(&self) {
        let path = format!("/proc/{}/syscall", self.pid());
        let reads = || std::fs::read_to_string(&path).is_ok_and(|call| call.starts_with("0 0x0 "));
        assert!(eventually(LIMIT, reads), "it does not wait for input");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end. A program that does not end in time fails the test.
    pub fn wait(self) -> Ended {
        self.wait_for(LIMIT)
    }

    /// The same with another limit.
    pub fn wait_for(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < limit, "still running after {limit:?}: {}", self.stderr.text());
            std::thread::sleep(Duration::from_millis(2));
        };
        self.ended = true;
        self.end(status)
    }

    fn end(&mut self, status: ExitStatus) -> Ended {
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.read_all(),
            stderr: self.stderr.read_all(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL).ok();
        if !self.ended {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, signal, stdout, stderr } = self;
        write!(f, "code {code:?}, signal {signal:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// A copy of a program that another test's fork still holds open for writing is busy for a moment.
fn spawn(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result.unwrap(),
        }
    }
}

/// A stream that a thread reads, so that nothing waits for it to be read.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn collect(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut part) {
                shared.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn until(&self, text: &str) -> String {
        let ended = || self.reader.as_ref().is_none_or(JoinHandle::is_finished);
        let found = eventually(LIMIT, || self.text().contains(text) || ended());
        let all = self.text();
        assert!(found && all.contains(text), "no {text:?} in:\n{all}");
        all
    }

    /// Children that outlive the program may hold the stream open: they are not waited for long.
    fn read_all(&mut self) -> String {
        if let Some(reader) = self.reader.take()
            && eventually(Duration::from_secs(5), || reader.is_finished())
        {
            reader.join().unwrap();
        }
        self.text()
    }
}

/// Asks again and again until something is so; returns whether it became so in time.
pub fn eventually(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
