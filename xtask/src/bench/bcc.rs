//! bcc's programs as peers: how they are started, when they are ready, what they say.

use super::peer;
use crate::run;
use anyhow::Result;
use serde_json::{Value, json};

/// What runs a program of bcc, and mends it.
const RUNNER: &str = include_str!("bcc.py");

/// A program of bcc.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Program {
    /// Times every malloc; it has no filter.
    Funclatency,
    /// Keeps the blocks above a size that were not freed, with their stacks.
    Memleak,
}

impl Program {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Funclatency => "bcc funclatency",
            Self::Memleak => "bcc memleak",
        }
    }

    /// A command that runs it against a process' malloc, as one process that SIGINT ends.
    pub fn command(self, pid: u32, library: &str) -> Result<std::process::Command> {
        let (tools, library, pid) =
            (run::tools_dir()?.join("bcc"), peer::mapped(pid, library)?, pid.to_string());
        let file = format!("usr/sbin/{}", self.file());
        // Unbuffered, or what it says stays in it until its end.
        let mut words = ["python3", "-u", "-c", RUNNER].map(String::from).to_vec();
        words.push(tools.join(file).display().to_string());
        match self {
            Self::Funclatency => words.extend(["-p".to_owned(), pid, format!("{library}:malloc")]),
            Self::Memleak => words.extend(["-z", "32767", "-p", &pid, "-O", &library, "1"].map(String::from)),
        }
        let mut command = peer::with_tracefs(&words);
        command.env("BCC_KERNEL_SOURCE", tools.join("kernel"));
        command.env("PYTHONPATH", tools.join("usr/lib/python3/dist-packages"));
        Ok(command)
    }

    fn file(self) -> &'static str {
        match self {
            Self::Funclatency => "funclatency-bpfcc",
            Self::Memleak => "memleak-bpfcc",
        }
    }

    /// What it says once its probes are attached: memleak with its first table, after a second.
    pub fn ready_text(self) -> &'static str {
        match self {
            Self::Funclatency => "Tracing ",
            Self::Memleak => "stacks with outstanding",
        }
    }
}

/// The number of calls, which only funclatency tells.
pub fn report(output: &str) -> Value {
    let count = output.lines().find_map(|line| line.split_once("count: ")?.1.trim().parse::<u64>().ok());
    json!({ "count": count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn funclatency_tells_the_number_of_calls() {
        let output = "  512 -> 1023 : 996958 |****|\n\navg = 1422 nsecs, total: 142 nsecs, count: 1000000\n";
        assert_eq!(report(output)["count"], 1_000_000);
        assert_eq!(report("[09:44:53] Top 10 stacks\n")["count"], Value::Null);
    }
}
