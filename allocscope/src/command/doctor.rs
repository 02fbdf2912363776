//! `doctor`: what works on this machine, by trying it.

use crate::config::{AttachVia, DoctorConfig, Format};
use crate::failure::Exit;
use crate::preflight::{NEEDED, has};
use crate::probe::{FaultRung, LoadOptions, SystemProbes, Tracefs, load};
use crate::session::{UprobePrices, uprobe_prices};
use crate::target;
use allocscope_common::counter::ProbeClass;
use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// Prints each check; exit code 0 where tracing works, 4 or 5 where privileges or the kernel keep it.
///
/// # Errors
/// Where the result cannot be written.
pub fn run(config: DoctorConfig) -> Result<u8> {
    let checks = check_all();
    let mut out = std::io::stdout().lock();
    match config.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&checks)?)?,
        Format::Table => {
            for check in &checks {
                writeln!(out, "{:<5} {:<22} {}", check.verdict.name(), check.name, check.detail)?;
            }
        }
    }
    let failed = checks.iter().find(|check| check.verdict == Verdict::Fails);
    Ok(failed.map_or(0, |check| check.exit as u8))
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Works,
    /// Works with less.
    Lacks,
    /// Tracing is not possible.
    Fails,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Works => "ok",
            Self::Lacks => "less",
            Self::Fails => "FAILS",
        }
    }
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip)]
    exit: Exit,
}

fn check_all() -> Vec<Check> {
    let mut checks = vec![kernel()];
    checks.extend(NEEDED.iter().map(|(capability, purpose)| {
        let present = has(*capability);
        let detail = if present {
            format!("present, to {purpose}")
        } else {
            format!("missing, needed to {purpose}; run as root")
        };
        Check {
            name: if *capability == caps::Capability::CAP_SYS_ADMIN {
                "CAP_SYS_ADMIN"
            } else {
                "CAP_SYS_PTRACE"
            },
            verdict: if present { Verdict::Works } else { Verdict::Fails },
            detail,
            exit: Exit::Privilege,
        }
    }));
    checks.push(pid_namespace());
    checks.push(btf());
    checks.push(tracefs());
    checks.push(tracing());
    checks.push(uprobes());
    checks
}

/// What probes inside of functions cost here, and how they are attached: on functions of our own.
fn uprobes() -> Check {
    let (verdict, detail) = match uprobe_prices() {
        Ok(UprobePrices { ns, via: Some(via) }) => {
            let price = |class| ns.get(&class).map_or("?".to_owned(), |ns| format!("{ns:.0}"));
            let [emulated, stepped, back] =
                [ProbeClass::UprobeEmulated, ProbeClass::UprobeStepped, ProbeClass::UprobeReturn].map(price);
            let prices =
                format!("a hit takes {emulated} ns, single-stepped {stepped} ns, a return {back} ns more");
            let verdict = if via == AttachVia::Perf { Verdict::Lacks } else { Verdict::Works };
            (verdict, format!("attached via {via}; {prices}"))
        }
        Ok(_) => (Verdict::Lacks, "none was attached".to_owned()),
        Err(error) => (Verdict::Lacks, format!("no allocator is seen into: {error:#}")),
    };
    Check { name: "uprobes", verdict, detail, exit: Exit::Kernel }
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let verdict = if version >= (5, 15) { Verdict::Works } else { Verdict::Fails };
    let detail = format!("Linux {} (5.15 or newer is needed)", release.trim());
    Check { name: "kernel", verdict, detail, exit: Exit::Kernel }
}

fn pid_namespace() -> Check {
    let (verdict, detail) = match target::namespace_pids(std::process::id()) {
        Ok(pids) if pids.len() > 1 => (
            Verdict::Fails,
            "this is a pid namespace of its own (a container): run with the host's, such as --pid=host"
                .into(),
        ),
        _ => (Verdict::Works, "the host's".into()),
    };
    Check { name: "pid namespace", verdict, detail, exit: Exit::Kernel }
}

fn btf() -> Check {
    let (verdict, detail) = if std::fs::metadata("/sys/kernel/btf/vmlinux").is_ok() {
        (Verdict::Works, "/sys/kernel/btf/vmlinux is there".to_owned())
    } else {
        (Verdict::Lacks, "the kernel has none: page faults are seen by raw tracepoints".to_owned())
    };
    Check { name: "BTF", verdict, detail, exit: Exit::Kernel }
}

fn tracefs() -> Check {
    match Tracefs::open().and_then(|tracefs| tracefs.id("syscalls", "sys_enter_mmap")) {
        Ok(id) => Check {
            name: "tracepoints",
            verdict: Verdict::Works,
            detail: format!("readable (syscalls:sys_enter_mmap is {id})"),
            exit: Exit::Kernel,
        },
        Err(error) => Check {
            name: "tracepoints",
            verdict: Verdict::Fails,
            detail: format!("{error:#}"),
            exit: Exit::Kernel,
        },
    }
}

/// The real thing: loads and attaches all shared probes, and detaches them.
fn tracing() -> Check {
    let attached = load(&LoadOptions::default())
        .and_then(|mut loaded| SystemProbes::attach(&mut loaded))
        .map(|probes| (probes.fault_rung(), probes.call_rung().name()));
    let (verdict, detail) = match attached {
        Ok((FaultRung::Untimed, _)) => {
            (Verdict::Lacks, "attached; page faults are counted, not timed".to_owned())
        }
        Ok((faults, calls)) => {
            let rungs = format!("page faults by {}, system calls by {calls}", faults.name());
            (Verdict::Works, format!("attached and detached; {rungs}"))
        }
        Err(error) => (Verdict::Fails, format!("{error:#}")),
    };
    Check { name: "kernel side", verdict, detail, exit: Exit::Kernel }
}
