//! bpftrace: how it is started, when it is ready, what it says.

use crate::run;
use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Said every 0.2 s from when all probes are attached: probes are attached in their order.
const READY: &str = "interval:ms:200 { printf(\"allocscope-bench-ready\\n\"); }\n";

/// What [`READY`] writes.
pub const READY_TEXT: &str = "allocscope-bench-ready";

/// bpftrace's version; `None` where it does not run.
pub fn version() -> Option<String> {
    run::prints(Command::new("bpftrace").arg("--version"))
}

/// A command that runs a script against a process, as one process that SIGINT ends.
pub fn command(script: &str, pid: u32, library: &str) -> Result<Command> {
    let script = fill_in(script, pid, library)? + READY;
    Ok(with_tracefs(&["bpftrace", "-B", "line", "-f", "json", "-e", &script].map(String::from)))
}

/// A command, as one process, that finds a mounted tracefs.
pub fn with_tracefs(words: &[String]) -> Command {
    let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    if mounted.iter().any(|mount| Path::new(mount).join("events").is_dir()) {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        return command;
    }
    // It gets a mount of its own, which goes with it.
    let mut command = Command::new("unshare");
    let mount = "mount -t tracefs none /sys/kernel/tracing && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", mount, "sh"]).args(words);
    command
}

fn fill_in(script: &str, pid: u32, library: &str) -> Result<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).context("cannot tell what it runs")?;
    let script = script.replace("PID", &pid.to_string()).replace("EXE", &exe.to_string_lossy());
    Ok(if script.contains("LIB") { script.replace("LIB", &mapped(pid, library)?) } else { script })
}

/// The file a process maps whose name begins with `library`.
pub fn mapped(pid: u32, library: &str) -> Result<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("cannot tell what it maps")?;
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().last());
    let is_it = |path: &&str| path.rsplit_once('/').is_some_and(|(_, name)| name.starts_with(library));
    Ok(paths.find(is_it).with_context(|| format!("it maps no {library}"))?.to_owned())
}

/// Its maps by name, from its lines of JSON.
pub fn report(output: &str) -> Value {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let maps =
        lines.filter(|line| line["type"] == "map").filter_map(|line| line["data"].as_object().cloned());
    Value::Object(maps.flatten().collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_maps_by_name() {
        let output = "{\"type\": \"printf\", \"data\": \"x\"}\n\n{\"type\": \"map\", \"data\": {\"@a\": 3}}\n\
                      {\"type\": \"map\", \"data\": {\"@b\": {\"64\": 5}}}\nnot JSON\n";
        let report = report(output);
        assert_eq!(report["@a"], 3);
        assert_eq!(report["@b"]["64"], 5);
    }
}
