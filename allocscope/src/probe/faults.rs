//! Page faults: the start by the best rung that loads, the end where the kernel counts them.

use super::kernel_types::KERNEL;
use super::perf_link::{attach_software, attach_tracepoint};
use super::{Loaded, Tracefs};
use crate::config::PageFaults;
use crate::failure::{Exit, Failure};
use anyhow::{Context, Result, anyhow, bail};
use aya::maps::PerCpuArray;
use aya::programs::perf_event::SoftwareEvent;
use aya::programs::{BtfTracePoint, PerfEvent, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// How page faults are seen, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultRung {
    /// Counted at their start, by a typed tracepoint, and not timed: +5 to 8 % of a 4 KiB fault.
    Counted,
    /// The start by a typed tracepoint, the end by that of memory cgroups' events (kernel 6.15).
    Memcg,
    /// The start by a typed tracepoint, the end by a software event, here and in what follows.
    BtfTracepoint,
    /// The start by a raw tracepoint.
    RawTracepoint,
    /// The start by a perf tracepoint.
    PerfTracepoint,
    /// No start at all (arm64 has no such tracepoints): faults are counted, not timed.
    Untimed,
}

impl FaultRung {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counted => "tp_btf, counted",
            Self::Memcg => "tp_btf and memcg",
            Self::BtfTracepoint => "tp_btf",
            Self::RawTracepoint => "raw_tp",
            Self::PerfTracepoint => "tracepoint",
            Self::Untimed => "untimed",
        }
    }
}

pub(super) struct FaultLinks {
    pub(super) rung: FaultRung,
    _links: Vec<OwnedFd>,
}

/// What is told of a kernel that cannot do better.
type Refusals = Vec<String>;

impl FaultLinks {
    pub(super) fn attach(loaded: &mut Loaded, tracefs: &Tracefs) -> Result<Self> {
        let mut refusals = Refusals::new();
        if loaded.page_faults == PageFaults::Counted
            && let Some(links) = done(attach_counting(loaded), &mut refusals)
        {
            return Ok(Self { rung: FaultRung::Counted, _links: links });
        }
        if let Some(refusal) = refusals.first() {
            log::warn!("page faults are timed, not only counted: {refusal}");
        }
        if let Some(links) = done(attach_memcg(loaded), &mut refusals) {
            return Ok(Self { rung: FaultRung::Memcg, _links: links });
        }
        let mut links = attach_end(loaded, "fault_minor", SoftwareEvent::PageFaultsMin)?;
        links.extend(attach_end(loaded, "fault_major", SoftwareEvent::PageFaultsMaj)?);
        let rung = attach_start(loaded, tracefs, &mut refusals, &mut links);
        Ok(Self { rung, _links: links })
    }
}

fn attach_start(
    loaded: &mut Loaded,
    tracefs: &Tracefs,
    refusals: &mut Refusals,
    links: &mut Vec<OwnedFd>,
) -> FaultRung {
    if done(attach_starts(loaded, START), refusals).is_some() {
        return FaultRung::BtfTracepoint;
    }
    if done(attach_raw(loaded), refusals).is_some() {
        return FaultRung::RawTracepoint;
    }
    if let Some(starts) = done(attach_perf(loaded, tracefs), refusals) {
        links.extend(starts);
        return FaultRung::PerfTracepoint;
    }
    log::warn!("page faults are counted but not timed: {}", refusals.join("; "));
    FaultRung::Untimed
}

fn done<T>(attached: Result<T>, refusals: &mut Refusals) -> Option<T> {
    attached.inspect_err(|error| refusals.push(format!("{error:#}"))).ok()
}

/// A program for each of `page_fault_user` and `page_fault_kernel`.
const START: [&str; 2] = ["fault_user_btf", "fault_kernel_btf"];
const COUNT: [&str; 2] = ["fault_user_count", "fault_kernel_count"];

fn attach_counting(loaded: &mut Loaded) -> Result<Vec<OwnedFd>> {
    load_starts(loaded, COUNT)?;
    let links = attach_end(loaded, "fault_turned_major", SoftwareEvent::PageFaultsMaj)?;
    attach_starts(loaded, COUNT)?;
    Ok(links)
}

/// All is loaded before anything is attached: a part of it would count wrongly. The end is attached first, so that no
/// fault is begun whose end is not seen.
fn attach_memcg(loaded: &mut Loaded) -> Result<Vec<OwnedFd>> {
    load_starts(loaded, START)?;
    load_btf(loaded, "fault_counted", "count_memcg_events")?;
    try_memcg(loaded)?;
    let links = attach_end(loaded, "fault_turned_major", SoftwareEvent::PageFaultsMaj)?;
    attach_btf(loaded, "fault_counted", "count_memcg_events")?;
    attach_starts(loaded, START)?;
    Ok(links)
}

/// Pages that are touched to see whether the kernel counts faults for memory cgroups.
const TRIAL_PAGES: usize = 4;

/// The tracepoint is there also where memory cgroups are not (`cgroup_disable=memory`): then it is never passed.
fn try_memcg(loaded: &mut Loaded) -> Result<()> {
    if KERNEL.page_fault.is_none() {
        bail!("the kernel does not tell its event PGFAULT");
    }
    attach_btf(loaded, "fault_trial", "count_memcg_events")?;
    let before = trials(loaded)?;
    touch_pages(TRIAL_PAGES)?;
    let seen = trials(loaded)?.saturating_sub(before);
    let program: &mut BtfTracePoint = loaded.program("fault_trial")?;
    program.unload()?;
    if seen < TRIAL_PAGES as u64 {
        bail!("the kernel does not count page faults for memory cgroups");
    }
    Ok(())
}

fn trials(loaded: &Loaded) -> Result<u64> {
    let map = loaded.ebpf.map("FAULT_TRIALS").context("the object has no map FAULT_TRIALS")?;
    Ok(PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?.iter().sum())
}

/// Touches so many pages of this process for the first time.
fn touch_pages(pages: usize) -> Result<()> {
    let (page, flags) = (4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let len = pages * page;
    // SAFETY: a new mapping; nothing else is affected.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("no page can be mapped");
    }
    for number in 0..pages {
        // SAFETY: within the mapping, which nothing else knows.
        unsafe { start.cast::<u8>().add(number * page).write_volatile(1) };
    }
    // SAFETY: the mapping made above, used by nothing else.
    unsafe { libc::munmap(start, len) };
    Ok(())
}

fn load_starts(loaded: &mut Loaded, programs: [&str; 2]) -> Result<()> {
    load_btf(loaded, programs[0], "page_fault_user")?;
    load_btf(loaded, programs[1], "page_fault_kernel")
}

fn attach_starts(loaded: &mut Loaded, programs: [&str; 2]) -> Result<()> {
    attach_btf(loaded, programs[0], "page_fault_user")?;
    attach_btf(loaded, programs[1], "page_fault_kernel")
}

/// Loads a program behind a typed tracepoint, unless it is loaded.
fn load_btf(loaded: &mut Loaded, program: &str, tracepoint: &str) -> Result<()> {
    let btf = loaded.kernel_types()?;
    let program: &mut BtfTracePoint = loaded.program(program)?;
    if program.fd().is_err() {
        program.load(tracepoint, &btf).with_context(|| format!("tp_btf {tracepoint}"))?;
    }
    Ok(())
}

fn attach_btf(loaded: &mut Loaded, program: &str, tracepoint: &str) -> Result<()> {
    load_btf(loaded, program, tracepoint)?;
    let program: &mut BtfTracePoint = loaded.program(program)?;
    program.attach()?;
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
    let tells_page_size = loaded.page_size_at != 0;
    let program: &mut PerfEvent = loaded.program(program)?;
    attach_on_each_cpu(program, event, tells_page_size).map_err(|error| {
        Failure::error(
            Exit::Kernel,
            format!("page faults cannot be counted ({error:#}); run `allocscope doctor`"),
        )
    })
}

fn attach_on_each_cpu(
    program: &mut PerfEvent,
    event: SoftwareEvent,
    tells_page_size: bool,
) -> Result<Vec<OwnedFd>> {
    program.load()?;
    let fd = program.fd()?.as_fd();
    let cpus = aya::util::online_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
    Ok(cpus
        .iter()
        .map(|&cpu| attach_software(fd, event as u64, cpu, tells_page_size))
        .collect::<Result<_, _>>()?)
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
    KERNEL.page_size_at.map(u64::from)
}

impl Loaded {
    /// The kernel's types, which are read once: they are megabytes.
    pub(super) fn kernel_types(&mut self) -> Result<Rc<Btf>> {
        if let Some(types) = &self.kernel_types {
            return Ok(Rc::clone(types));
        }
        let types = Rc::new(Btf::from_sys_fs().context("the kernel has no BTF")?);
        self.kernel_types = Some(Rc::clone(&types));
        Ok(types)
    }

    /// A program by name and type.
    pub(super) fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program>,
        <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error:
            std::error::Error + Send + Sync + 'static,
    {
        program_of(&mut self.ebpf, name)
    }
}

/// A program by name and type.
pub(super) fn program_of<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error: std::error::Error + Send + Sync + 'static,
{
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name} is of another type"))
}
