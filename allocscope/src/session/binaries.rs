//! Binaries and their probes: one set of probes for each file, shared by the processes that run it.
//!
//! An executable is probed in whoever runs it, so that its next process is covered from its exec. A library
//! of an allocator is mapped by half of the machine, so it is probed in the traced process only where that is one.
//!
//! Of several, each by a session of its own, every hit would be each session's: the kernel (6.13 to 6.18) asks those for
//! other processes as well, and makes a return trap where one of them is asked, some 0.7 us for a small call that
//! wants none, and 0.1 us for each process. So one session is in all processes then; whose hits are of no interest pay for
//! one trap each. Where there are no sessions, return probes must not get into processes that nobody looked at, and
//! each traced process has its own.

use super::examine::{Examiner, allocator_libraries, mapped_names, other_libraries};
use super::examined::Examined;
use crate::aggregate::{Coverage, Tier};
use crate::allocator::detect::Allocator;
use crate::allocator::{Examination, OtherLibrary};
use crate::probe::{AttachedSites, Loaded, PoolProbes, PoolSites, Returns, Scope};
use crate::site::{Miss, Plan, SmallCalls};
use crate::target::{self, MappedFile, OpenedBinary, Seccomp};
use allocscope_common::site_id::StepClass;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A file, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId {
    dev: u64,
    ino: u64,
}

/// Probes of a file, in one process or in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ProbedId {
    file: FileId,
    /// 0 stands for all processes.
    pid: u32,
    returns: Returns,
}

/// The files whose probes a process uses: give them back with [`Binaries::release`].
#[derive(Debug)]
pub struct Used {
    ids: Vec<ProbedId>,
    /// Files that were looked at and have no probes of their own.
    bare: BTreeSet<FileId>,
    returns: Returns,
}

impl Used {
    /// None.
    pub fn nothing() -> Self {
        Self::by(Returns::AtCallers)
    }

    fn by(returns: Returns) -> Self {
        Self { ids: Vec::new(), bare: BTreeSet::new(), returns }
    }
}

/// What is attached to a process.
pub struct Attached {
    /// Its files.
    pub used: Used,
    /// What of it is traced.
    pub coverage: Coverage,
    /// Whether return probes cannot hurt it.
    pub return_safe: bool,
    /// Whether its executable is probed since now only.
    pub is_new: bool,
}

/// How widely probes are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Executables are probed in the traced process only.
    pub one_process: bool,
    /// Libraries are probed in all processes.
    pub libraries_of_all: bool,
}

/// The binaries of the traced processes.
pub struct Binaries {
    reach: Reach,
    examiner: Examiner,
    executables: Examined<Examination>,
    libraries: Examined<Plan>,
    others: Examined<OtherLibrary>,
    known: BTreeMap<ProbedId, Binary>,
}

struct Binary {
    users: usize,
    part: Part,
    /// The dearest hit of a small call, where all of them pass a probe.
    small: Option<StepClass>,
    sites: AttachedSites,
    /// Its `sync.Pool.Get`, where that is to be sampled.
    pool: Option<PoolSites>,
}

/// What one file contributes to a process' coverage.
#[derive(Clone, Debug)]
struct Part {
    attached: usize,
    planned: usize,
    tier: Tier,
    misses: Vec<Miss>,
}

impl Default for Part {
    fn default() -> Self {
        Self { attached: 0, planned: 0, tier: Tier::Kernel, misses: Vec::new() }
    }
}

impl Binaries {
    /// None yet.
    pub fn new(reach: Reach, examiner: Examiner) -> Self {
        Self {
            reach,
            examiner,
            executables: Examined::default(),
            libraries: Examined::default(),
            others: Examined::default(),
            known: BTreeMap::new(),
        }
    }

    /// Examines what process `pid` runs and maps, and attaches probes, once for each file.
    pub fn attach(&mut self, loaded: &mut Loaded, pid: u32, returns: Returns) -> Attached {
        let opened = match target::executable(pid) {
            Ok(opened) => opened,
            Err(error) => {
                let miss = Miss { reason: "binary_unreadable", detail: error.to_string() };
                let coverage = uncovered(vec![miss]);
                return Attached { used: Used::nothing(), coverage, return_safe: false, is_new: false };
            }
        };
        let mut used = Used::by(returns);
        let libraries = mapped_names(pid);
        let examine = || self.examiner.executable(&opened.file, &libraries);
        let examined = self.executables.get_or_examine(&opened.file, &libraries, examine);
        let (kind, allocator, plan) = match examined {
            Ok(found) => (found.kind, found.allocator, found.plan),
            Err(error) => {
                let detail = format!("{}: {error}", opened.path.display());
                let miss = Miss { reason: "binary_unreadable", detail };
                (Allocator::Unknown, Allocator::Unknown.to_string(), Plan::missed(miss))
            }
        };
        let mut coverage = Coverage { allocator, ..uncovered(Vec::new()) };
        let scope_pid = if self.reach.one_process { pid } else { 0 };
        let known = self.known.len();
        let part = self.probe(loaded, &opened, scope_pid, &mut used, plan);
        let is_new = self.known.len() > known && part.attached > 0;
        add(&mut coverage, part);
        coverage.own_heap = kind == Allocator::Go && coverage.tier == Tier::LargePath;
        if kind != Allocator::Go {
            self.attach_libraries(loaded, pid, &mut used, &mut coverage);
        }
        let return_safe = returns == Returns::ByProbe && kind != Allocator::Go;
        Attached { used, coverage, return_safe, is_new }
    }

    /// Attaches to the allocators' libraries that process `pid` has mapped since. Returns whether there were any.
    pub fn attach_libraries(
        &mut self,
        loaded: &mut Loaded,
        pid: u32,
        used: &mut Used,
        coverage: &mut Coverage,
    ) -> bool {
        let libraries = allocator_libraries(pid).unwrap_or_default();
        let mut any = false;
        for (kind, mapped) in libraries {
            let file = FileId { dev: mapped.dev, ino: mapped.ino };
            if used.ids.iter().any(|known| known.file == file) {
                continue;
            }
            any = true;
            if replaces_libc(kind) {
                coverage.allocator = kind.to_string();
            }
            let part = self.probe_library(loaded, pid, kind, &mapped, used);
            add(coverage, part);
        }
        self.attach_others(loaded, pid, used, coverage) || any
    }

    /// Attaches to what other libraries tell of their own memory, and to a malloc of their own. One that cannot be read
    /// tells nothing.
    fn attach_others(
        &mut self,
        loaded: &mut Loaded,
        pid: u32,
        used: &mut Used,
        coverage: &mut Coverage,
    ) -> bool {
        let mut any = false;
        for mapped in other_libraries(pid).unwrap_or_default() {
            let file = FileId { dev: mapped.dev, ino: mapped.ino };
            if used.ids.iter().any(|known| known.file == file) || !used.bare.insert(file) {
                continue;
            }
            let opened = target::open_mapped(pid, &mapped);
            let Ok(opened) = opened.inspect_err(|error| log::info!("{error}")) else { continue };
            let examined = self.others.get_or_examine(&opened.file, "", || self.examiner.other(&opened));
            let told = |error: &std::io::Error| log::info!("{}: {error}", opened.path.display());
            let Ok(OtherLibrary { is_allocator, plan }) = examined.inspect_err(told) else { continue };
            if plan.is_empty() && plan.misses.is_empty() {
                continue;
            }
            any = true;
            if is_allocator {
                coverage.allocator = Allocator::Other.to_string();
            }
            wait_until_loaded(pid, &mapped, &plan);
            let scope_pid = if self.reach.libraries_of_all { 0 } else { pid };
            let part = self.probe(loaded, &opened, scope_pid, used, plan);
            add(coverage, part);
        }
        any
    }

    fn probe_library(
        &mut self,
        loaded: &mut Loaded,
        pid: u32,
        kind: Allocator,
        mapped: &MappedFile,
        used: &mut Used,
    ) -> Part {
        let scope_pid = if self.reach.libraries_of_all { 0 } else { pid };
        let opened = match target::open_mapped(pid, mapped) {
            Ok(opened) => opened,
            Err(error) => {
                let miss = Miss { reason: "library_unreadable", detail: error.to_string() };
                return Part { misses: vec![miss], ..Part::default() };
            }
        };
        let examine = || self.examiner.library(&opened, kind);
        let plan = self.libraries.get_or_examine(&opened.file, &kind, examine).unwrap_or_else(Plan::missed);
        wait_until_loaded(pid, mapped, &plan);
        self.probe(loaded, &opened, scope_pid, used, plan)
    }

    /// Attaches to a file, or joins those who have.
    fn probe(
        &mut self,
        loaded: &mut Loaded,
        opened: &OpenedBinary,
        pid: u32,
        used: &mut Used,
        plan: Plan,
    ) -> Part {
        let file = FileId { dev: opened.dev, ino: opened.ino };
        let id = ProbedId { file, pid, returns: used.returns };
        // On some file systems a mapping tells another device than the file does.
        if used.ids.contains(&id) {
            return Part::default();
        }
        used.ids.push(id);
        if let Some(binary) = self.known.get_mut(&id) {
            binary.users += 1;
            return binary.part.clone();
        }
        let scope = if pid == 0 { Scope::Everyone } else { Scope::Process(pid) };
        let sites = AttachedSites::attach(loaded, &opened.file, &plan, scope, used.returns);
        let misses = plan.misses.iter().chain(&sites.misses).cloned().collect();
        let part = Part { attached: sites.len(), planned: plan.len(), tier: tier_of(&plan), misses };
        let pool = PoolSites::of(&opened.file, plan.sampled, scope, !sites.is_empty());
        let small = plan.calls.iter().filter(|call| call.small == SmallCalls::Always);
        let small = small.map(|call| call.id.step).max();
        self.known.insert(id, Binary { users: 1, part: part.clone(), small, sites, pool });
        part
    }

    /// Detaches the uprobes that a process uses, in whoever else uses them as well. Returns whether there were
    /// any.
    pub fn detach(&mut self, used: &Used) -> bool {
        let mut any = false;
        for id in &used.ids {
            let Some(binary) = self.known.get_mut(id).filter(|binary| !binary.sites.is_empty()) else {
                continue;
            };
            any = true;
            binary.part.attached = 0;
            drop((binary.pool.take(), std::mem::take(&mut binary.sites)));
        }
        any
    }

    /// The dearest hit of a small call, where all of them pass a probe somewhere.
    pub fn dearest_small_hit(&self) -> Option<StepClass> {
        self.known.values().filter(|binary| !binary.sites.is_empty()).filter_map(|binary| binary.small).max()
    }

    /// Probes every `sync.Pool.Get` of the binaries in use. Those that the kernel refuses are left.
    pub fn attach_pool_probes(&self, loaded: &mut Loaded) -> Vec<PoolProbes> {
        let pools = self.known.values().filter_map(|binary| binary.pool.as_ref());
        let attached = pools.map(|pool| pool.attach(loaded));
        let told = attached.inspect(|result| {
            if let Err(error) = result {
                log::info!("gets of sync.Pool are not sampled: {error:#}");
            }
        });
        told.flatten().collect()
    }

    /// Tells that a process no longer uses its binaries; the last one of each detaches its probes.
    pub fn release(&mut self, used: Used) {
        for id in used.ids {
            let Some(binary) = self.known.get_mut(&id) else { continue };
            binary.users -= 1;
            if binary.users == 0 {
                self.known.remove(&id);
            }
        }
    }
}

/// Whether a library's malloc takes the place of the C library's, which is mapped as well.
fn replaces_libc(kind: Allocator) -> bool {
    matches!(kind, Allocator::Jemalloc | Allocator::Mimalloc | Allocator::Tcmalloc)
}

/// How the returns of calls of process `pid` may be seen.
pub fn returns_of(pid: u32) -> Returns {
    if is_unfiltered(pid) { Returns::ByProbe } else { Returns::AtCallers }
}

/// Whether no seccomp filter is in force in process `pid`.
pub fn is_unfiltered(pid: u32) -> bool {
    target::seccomp_mode(pid).is_ok_and(|mode| mode == Seccomp::Disabled)
}

fn add(coverage: &mut Coverage, part: Part) {
    coverage.sites_attached += part.attached;
    coverage.sites_planned += part.planned;
    coverage.misses.extend(part.misses);
    if part.attached > 0 {
        coverage.tier = coverage.tier.max(part.tier);
    }
}

/// How deep a plan goes.
fn tier_of(plan: &Plan) -> Tier {
    if plan.is_told_only() {
        Tier::Provider
    } else if plan.slows_small() {
        Tier::Filtered
    } else {
        Tier::LargePath
    }
}

fn uncovered(misses: Vec<Miss>) -> Coverage {
    Coverage {
        allocator: Allocator::Unknown.to_string(),
        tier: Tier::Kernel,
        own_heap: false,
        sites_attached: 0,
        sites_planned: 0,
        misses,
    }
}

/// How often it is looked whether a library's semaphores are in their place, and how long in between.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Waits until a library that is being loaded has its semaphores where they stay: in one place that can be written to,
/// and the same one twice. Until then the kernel would raise them in a page that is not theirs: where two segments share
/// a page of the file, the first is writable too while it is relocated. Most are loaded at the first look.
fn wait_until_loaded(pid: u32, mapped: &MappedFile, plan: &Plan) {
    let Some(offset) = plan.provider.iter().find_map(|site| site.semaphore_offset) else { return };
    let mut before = Vec::new();
    for _ in 0..LOOKS {
        let Ok(places) = target::writable_places(pid, mapped, offset) else { return };
        if places.len() == 1 && places == before {
            return;
        }
        before = places;
        std::thread::sleep(BETWEEN_LOOKS);
    }
    log::info!("{}: process {pid} does not end to load it", mapped.path.display());
}
