//! A kernel and a file system into what the machine printed: results on one serial port, the console on another.

use crate::run;
use crate::setup::kernel;
use anyhow::{Context as _, Result, anyhow};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a machine printed until it powered off.
pub struct Printed {
    /// Lines of JSON.
    pub results: String,
    /// What the kernel and programs said.
    pub console: String,
}

/// Some three times what it takes on two processors that do something else as well.
const LIMIT: Duration = Duration::from_secs(600);
const TAIL_LINES: usize = 60;
/// A processor that is stuck for two minutes ends the machine, with what it was at.
const KERNEL_OPTIONS: &str = "console=ttyS0 panic=-1 quiet watchdog_thresh=60 softlockup_panic=1 psi=1";
/// Half of the memory and a processor on each NUMA node.
const NODES: [&str; 8] = [
    "-object",
    "memory-backend-ram,id=m0,size=512M",
    "-numa",
    "node,nodeid=0,cpus=0,memdev=m0",
    "-object",
    "memory-backend-ram,id=m1,size=512M",
    "-numa",
    "node,nodeid=1,cpus=1,memdev=m1",
];

/// Both processors by one thread in turns. With a thread each, one may still run the breakpoint that the other has
/// just put over an instruction and taken away again, as Linux does to patch its own code: "Oops: int3", one boot in
/// some hundred (<https://bugzilla.redhat.com/show_bug.cgi?id=2216496>).
const ACCELERATOR: &str = "tcg,thread=single";

/// Boots Debian's kernel of a series, without any acceleration: that works inside of another machine too.
pub fn run(series: &str, folder: &Path, initramfs: &Path) -> Result<Printed> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (console, results) = (folder.join("console"), folder.join("results"));
    let mut qemu = Command::new(kernel::QEMU);
    qemu.args(["-accel", ACCELERATOR, "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot"]);
    qemu.args(["-display", "none", "-append", KERNEL_OPTIONS]);
    qemu.args(NODES);
    qemu.arg("-kernel").arg(kernel::image(series)?).arg("-initrd").arg(initramfs);
    for file in [&console, &results] {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    let ended = run::logged(&mut qemu, &folder.join("qemu"), LIMIT);
    let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let printed = Printed { results: read(&results), console: read(&console) };
    ended.map_err(|error| explain(&error, &printed.console))?;
    Ok(printed)
}

/// An error with the last lines of the console.
pub fn explain(error: &anyhow::Error, console: &str) -> anyhow::Error {
    let lines: Vec<_> = console.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
    anyhow!("{error:#}\nthe console ended with:\n  {tail}")
}
