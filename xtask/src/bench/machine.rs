//! The machine that was measured on.

use super::peer;
use crate::{run, setup};
use std::fs;
use std::process::Command;

/// Facts by name, in the order to show them.
pub fn facts() -> Vec<(&'static str, String)> {
    let cpus = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
    vec![
        ("date", run::prints(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).unwrap_or_default()),
        ("kernel", format!("{} {}", line("/proc/sys/kernel/osrelease"), std::env::consts::ARCH)),
        ("CPUs", format!("{cpus} x {}", cpu_model())),
        ("clock", line("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("load at the start", load()),
        ("allocscope", format!("{}, release build", env!("CARGO_PKG_VERSION"))),
        ("peers", format!("{}, {}", peer::version().unwrap_or_else(|| "no bpftrace".to_owned()), bcc())),
    ]
}

fn bcc() -> String {
    setup::bcc_version().map_or_else(|| "no bcc".to_owned(), |version| format!("bcc {version}"))
}

fn load() -> String {
    line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
