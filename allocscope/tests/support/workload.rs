//! A bundled workload that waits to be let go, and the truth that it tells.

use super::{PROGRAM, Running, program_at};
use serde_json::Value;
use std::path::Path;

/// A workload, waiting for a line.
pub struct Workload(Running);

/// What a workload did, as it says itself.
#[derive(Clone, Debug)]
pub struct Truth(pub Value);

impl Workload {
    /// Starts `allocscope workload WORDS --wait-stdin`.
    pub fn waiting(words: &str) -> Self {
        Self::waiting_at(Path::new(PROGRAM), words)
    }

    /// The same with a copy of the program.
    pub fn waiting_at(program: &Path, words: &str) -> Self {
        let running = Running::start(&mut program_at(program, &format!("workload {words} --wait-stdin")));
        running.until_waiting_for_input();
        Self(running)
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Lets it go and waits for its end.
    pub fn go(mut self) -> Truth {
        self.0.tell("go");
        let ended = self.0.wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        Truth::in_output(&ended.stdout)
    }

    /// Lets it go without waiting.
    pub fn start(mut self) -> Running {
        self.0.tell("go");
        self.0
    }
}

impl Truth {
    /// The first workload's truth among other lines.
    pub fn in_output(stdout: &str) -> Self {
        Self::all_in_output(stdout).into_iter().next().unwrap_or_else(|| panic!("no truth in:\n{stdout}"))
    }

    /// Every workload's truth.
    pub fn all_in_output(stdout: &str) -> Vec<Self> {
        let lines = stdout.lines().filter(|line| line.starts_with("{\"workload\""));
        lines.map(|line| Self(serde_json::from_str(line).unwrap())).collect()
    }

    pub fn pid(&self) -> u64 {
        self.number("pid")
    }

    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.0))
    }

    /// Numbers of `workload map`, summed over its sizes.
    pub fn sum_of_sizes(&self, name: &str) -> u64 {
        self.0["sizes"].as_array().unwrap().iter().map(|size| size[name].as_u64().unwrap()).sum()
    }
}
