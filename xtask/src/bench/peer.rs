//! bpftrace: how it is started, when it is ready, what it says.

use crate::run;
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
pub fn command(script: &str, pid: u32) -> Command {
    let script = fill_in(script, pid) + READY;
    let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    if mounted.iter().any(|mount| Path::new(mount).join("events").is_dir()) {
        let mut command = Command::new("bpftrace");
        command.args(["-B", "line", "-f", "json", "-e", &script]);
        return command;
    }
    // bpftrace looks for a mounted tracefs: it gets one of its own, which goes with it.
    let mut command = Command::new("unshare");
    let mount = "mount -t tracefs none /sys/kernel/tracing && exec bpftrace -B line -f json -e \"$1\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", mount, "sh", &script]);
    command
}

fn fill_in(script: &str, pid: u32) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let libc =
        maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("/libc.so"));
    let script = script.replace("PID", &pid.to_string()).replace("EXE", &exe.to_string_lossy());
    script.replace("LIBC", libc.unwrap_or("libc"))
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
