//! Page faults: the start by the best rung that loads, the end by software events on each CPU.

use super::btf::kernel_member_at;
use super::perf_link::{attach_software, attach_tracepoint};
use super::{Loaded, Tracefs};
use crate::failure::{Exit, Failure};
use anyhow::{Context, Result, anyhow};
use aya::Btf;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, PerfEvent, RawTracePoint, TracePoint};
use std::os::fd::{AsFd, OwnedFd};

/// How the start of a page fault is seen, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultRung {
    /// Typed tracepoint: +3 to 6 % of a 4 KiB fault.
    BtfTracepoint,
    /// Raw tracepoint.
    RawTracepoint,
    /// Perf tracepoint: +14 %.
    PerfTracepoint,
    /// Not at all (arm64 has no such tracepoints): faults are counted, not timed.
    Untimed,
}

impl FaultRung {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BtfTracepoint => "tp_btf",
            Self::RawTracepoint => "raw_tp",
            Self::PerfTracepoint => "tracepoint",
            Self::Untimed => "untimed",
        }
    }
}

pub(super) struct FaultLinks {
    pub(super) rung: FaultRung,
    _tracepoints: Vec<OwnedFd>,
    _ends: Vec<OwnedFd>,
}

impl FaultLinks {
    pub(super) fn attach(loaded: &mut Loaded, tracefs: &Tracefs) -> Result<Self> {
        let mut ends = attach_end(loaded, "fault_minor", SoftwareEvent::PageFaultsMin)?;
        ends.extend(attach_end(loaded, "fault_major", SoftwareEvent::PageFaultsMaj)?);
        let (rung, tracepoints) = Self::attach_start(loaded, tracefs);
        Ok(Self { rung, _tracepoints: tracepoints, _ends: ends })
    }

    fn attach_start(loaded: &mut Loaded, tracefs: &Tracefs) -> (FaultRung, Vec<OwnedFd>) {
        let mut refusals = Vec::new();
        match attach_btf(loaded) {
            Ok(()) => return (FaultRung::BtfTracepoint, Vec::new()),
            Err(error) => refusals.push(format!("{error:#}")),
        }
        match attach_raw(loaded) {
            Ok(()) => return (FaultRung::RawTracepoint, Vec::new()),
            Err(error) => refusals.push(format!("{error:#}")),
        }
        match attach_perf(loaded, tracefs) {
            Ok(links) => return (FaultRung::PerfTracepoint, links),
            Err(error) => refusals.push(format!("{error:#}")),
        }
        log::warn!("page faults are counted but not timed: {}", refusals.join("; "));
        (FaultRung::Untimed, Vec::new())
    }
}

fn attach_btf(loaded: &mut Loaded) -> Result<()> {
    let btf = Btf::from_sys_fs().context("the kernel has no BTF")?;
    for (program, tracepoint) in
        [("fault_user_btf", "page_fault_user"), ("fault_kernel_btf", "page_fault_kernel")]
    {
        let program: &mut BtfTracePoint = loaded.program(program)?;
        program.load(tracepoint, &btf)?;
        program.attach()?;
    }
    Ok(())
}

fn attach_raw(loaded: &mut Loaded) -> Result<()> {
    let program: &mut RawTracePoint = loaded.program("fault_raw")?;
    program.load()?;
    program.attach("page_fault_user")?;
    program.attach("page_fault_kernel")?;
    Ok(())
}

fn attach_perf(loaded: &mut Loaded, tracefs: &Tracefs) -> Result<Vec<OwnedFd>> {
    let program: &mut TracePoint = loaded.program("fault_perf")?;
    program.load()?;
    let fd = program.fd()?.as_fd();
    ["page_fault_user", "page_fault_kernel"]
        .iter()
        .map(|name| Ok(attach_tracepoint(fd, tracefs.id("exceptions", name)?)?))
        .collect()
}

/// The end: one event for each CPU, all processes; the program filters.
fn attach_end(loaded: &mut Loaded, program: &str, event: SoftwareEvent) -> Result<Vec<OwnedFd>> {
    let cpus = aya::util::online_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
    let tells_page_size = loaded.page_size_at != 0;
    let program: &mut PerfEvent = loaded.program(program)?;
    let attach = |program: &mut PerfEvent| -> Result<Vec<OwnedFd>> {
        program.load()?;
        if tells_page_size {
            let (program, event) = (program.fd()?.as_fd(), event as u64);
            return Ok(cpus
                .iter()
                .map(|&cpu| attach_software(program, event, cpu))
                .collect::<Result<_, _>>()?);
        }
        for cpu in cpus {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            program.attach(PerfEventConfig::Software(event), scope, SamplePolicy::Period(1), false)?;
        }
        Ok(Vec::new())
    };
    attach(program).map_err(|error| {
        Failure::error(
            Exit::Kernel,
            format!("page faults cannot be counted ({error:#}); run `allocscope doctor`"),
        )
    })
}

/// Where the size of the page is in a sample that the kernel hands to a program; `None` where it does not tell: before
/// 6.3, which prepares no sample before the program runs, and without type information.
pub(super) fn page_size_at() -> Option<u64> {
    let release = nix::sys::utsname::uname().ok()?.release().to_str()?.to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    if version < (6, 3) {
        return None;
    }
    kernel_member_at("perf_sample_data", "data_page_size").map(u64::from)
}

impl Loaded {
    /// A program by name and type.
    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program>,
        <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error:
            std::error::Error + Send + Sync + 'static,
    {
        let program =
            self.ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
        program.try_into().with_context(|| format!("program {name} is of another type"))
    }
}
