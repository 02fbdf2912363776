//! What integration tests share: the program run as a user runs it, its report, and workloads that know the truth.
#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod counts;
pub mod go;
pub mod http;
pub mod report;
mod running;
pub mod tempdir;
mod workload;

pub use report::Report;
pub use running::{Ended, Running, eventually};
pub use tempdir::TempDir;
pub use workload::{Truth, Workload};

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

/// Nothing here takes nearly as long, unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_allocscope");

/// `allocscope` with the words of a line, and no settings of the user's.
pub fn program(line: &str) -> Command {
    program_at(PROGRAM, line)
}

/// The same by another path.
pub fn program_at(path: impl AsRef<OsStr>, line: &str) -> Command {
    let mut command = Command::new(path);
    command.args(line.split_whitespace()).env_remove("RUST_LOG").env_remove("NO_COLOR");
    command
}

/// Runs `allocscope` with the words of a line to its end.
pub fn allocscope(line: &str) -> Ended {
    Running::start(&mut program(line)).wait()
}

/// `allocscope run FLAGS -- allocscope workload WORDS`: the workload's truth and the final report.
pub fn run_workload(flags: &str, words: &str) -> (Truth, Report) {
    let ended = allocscope(&format!("run --format json {flags} -- {PROGRAM} workload {words}"));
    assert_eq!(ended.code, Some(0), "{ended}");
    (Truth::in_output(&ended.stdout), Report::last_in(&ended.stdout))
}

/// The same through `attach`: the workload waits until it is traced.
pub fn attach_workload(flags: &str, words: &str) -> (Truth, Report) {
    let workload = Workload::waiting(words);
    let tracer = attach(workload.pid(), flags);
    let truth = workload.go();
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    (truth, Report::last_in(&ended.stdout))
}

/// `allocscope attach --format json` once it traces.
pub fn attach(pid: u32, flags: &str) -> Running {
    let tracer = Running::start(&mut program(&format!("attach --format json --pid {pid} {flags}")));
    tracer.until_stderr("tracing ");
    tracer
}
