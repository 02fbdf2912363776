//! `inspect`: which allocator, which sites at what price, what would be missed; the subject is left alone.

use crate::allocator::native::Depth;
use crate::config::{Format, InspectConfig, Subject};
use crate::failure::{Exit, Failure};
use crate::session::examine::{ExaminedFile, Examiner};
use crate::session::uprobe_prices;
use crate::site::{CallSite, Miss, Plan, ProviderSite, Site, SmallCalls};
use crate::target;
use allocscope_common::config::DEFAULT_MIN_SIZE;
use allocscope_common::counter::ProbeClass;
use allocscope_common::site_id::{ResultPlace, Role, StepClass};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Nanoseconds of a hit, of the classes that were measured.
type Prices = BTreeMap<ProbeClass, f64>;

/// Prints the plan for a process or a file.
///
/// # Errors
/// A process or file that cannot be read, with its [`Exit`] code.
pub fn run(config: InspectConfig) -> Result<u8> {
    let filtered = Depth::Filtered { min_bytes: DEFAULT_MIN_SIZE };
    let depth = if config.allow_small_cost { filtered } else { Depth::LargePath };
    let go_runtime = config.go_runtime;
    let examiner = Examiner { debug_dirs: config.debug_dirs.clone(), depth, go_runtime };
    let (subject, files) = match &config.subject {
        Subject::Pid(pid) => inspect_process(*pid, &examiner)?,
        Subject::File(path) => (path.display().to_string(), inspect_file(path, &examiner)?),
    };
    let prices = if files.iter().any(|file| is_attached(&file.plan)) { prices() } else { None };
    let view = View::new(&subject, &files, prices.as_ref());
    let mut out = std::io::stdout().lock();
    match config.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&view)?)?,
        Format::Table => write!(out, "{}", view.text())?,
    }
    Ok(0)
}

/// Whether there is anything that would be attached here.
fn is_attached(plan: &Plan) -> bool {
    !plan.is_empty() && !plan.is_foreign
}

/// Measuring them means to probe a function of our own, which not everyone may.
fn prices() -> Option<Prices> {
    let prices = uprobe_prices().inspect_err(|error| log::info!("prices are not measured: {error:#}"));
    prices.ok().map(|prices| prices.ns)
}

fn inspect_process(pid: u32, examiner: &Examiner) -> Result<(String, Vec<ExaminedFile>)> {
    let info = target::describe(pid).map_err(Failure::from)?;
    let files = examiner.process(pid).map_err(Failure::from)?;
    let files = files.map_err(|error| unreadable(&info.exe, &error.to_string()))?;
    Ok((format!("{} ({pid}): {}", info.comm, info.exe.display()), files))
}

fn inspect_file(path: &Path, examiner: &Examiner) -> Result<Vec<ExaminedFile>> {
    let mut file = examiner.file(path).map_err(|error| unreadable(path, &error.to_string()))?;
    if file.plan.is_empty() && file.plan.misses.is_empty() {
        file.plan.misses.push(in_library(&file.allocator));
    }
    Ok(vec![file])
}

/// A file alone does not tell which libraries its processes will map.
fn in_library(allocator: &str) -> Miss {
    let detail = format!(
        "the allocator, {allocator}, is a library's: `allocscope inspect PID` shows the sites in a running process"
    );
    Miss { reason: "allocator_in_library", detail }
}

fn unreadable(path: &Path, why: &str) -> anyhow::Error {
    Failure::error(Exit::BadBinary, format!("{} cannot be examined: {why}", path.display()))
}

/// What is printed.
#[derive(Serialize)]
struct View {
    subject: String,
    allocator: String,
    tier: &'static str,
    stripped: bool,
    build_id: Option<String>,
    sites: Vec<SiteView>,
    /// Whether any of the sites would be attached on this machine.
    #[serde(skip)]
    is_attached: bool,
    cost: Option<CostView>,
    misses: Vec<MissView>,
}

#[derive(Serialize)]
struct SiteView {
    file: String,
    function: String,
    role: &'static str,
    function_offset: u64,
    file_offset: u64,
    instruction: String,
    class: &'static str,
    result: &'static str,
    found_by: &'static str,
    /// Where its returns are seen in processes with a seccomp filter.
    callers: usize,
    predicted_ns: Option<f64>,
}

/// What the plan costs the process.
#[derive(Serialize)]
struct CostView {
    /// Each large allocation, with its release where that is probed.
    large_ns: f64,
    /// A small one that its allocator's cache or free list serves, with its release.
    small_ns: f64,
    /// A small one that they do not serve; the same for allocators whose probed path small ones never take.
    small_uncached_ns: f64,
}

#[derive(Serialize)]
struct MissView {
    reason: &'static str,
    detail: String,
}

impl View {
    fn new(subject: &str, files: &[ExaminedFile], prices: Option<&Prices>) -> Self {
        let first = files.first();
        let planned = files.iter().any(|file| is_attached(&file.plan));
        Self {
            subject: subject.to_owned(),
            allocator: first.map(|file| file.allocator.clone()).unwrap_or_default(),
            tier: tier(files),
            stripped: first.is_some_and(|file| file.stripped),
            build_id: first.and_then(|file| file.build_id.clone()),
            sites: files.iter().flat_map(|file| site_views(file, prices)).collect(),
            is_attached: planned,
            cost: prices.and_then(|prices| cost(files, prices)),
            misses: files
                .iter()
                .flat_map(|file| &file.plan.misses)
                .map(|miss| MissView { reason: miss.reason, detail: miss.detail.clone() })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let stripped = if self.stripped { ", stripped" } else { "" };
        let mut text =
            format!("{}\nallocator {}{stripped}, tier {}\n", self.subject, self.allocator, self.tier);
        if let Some(build_id) = &self.build_id {
            text += &format!("build id  {build_id}\n");
        }
        for site in &self.sites {
            text += &site.text();
        }
        if self.sites.is_empty() {
            text += "sites     none; mmap, munmap, mremap, madvise, brk and page faults are traced\n";
        }
        if let Some(cost) = &self.cost {
            text += &format!(
                "cost      {:.2} us a large allocation with its release, {:.0} ns a small one ({:.0} ns where no cache serves it)\n",
                cost.large_ns / 1e3,
                cost.small_ns,
                cost.small_uncached_ns
            );
        } else if self.is_attached {
            text += "cost      not measured: that needs root\n";
        }
        for miss in &self.misses {
            text += &format!("missed    {}: {}\n", miss.reason, miss.detail);
        }
        text
    }
}

impl SiteView {
    fn text(&self) -> String {
        let price = self.predicted_ns.map(|ns| format!(", {ns:.0} ns")).unwrap_or_default();
        let result = if self.result.is_empty() { String::new() } else { format!(", result {}", self.result) };
        let found = if self.found_by.is_empty() { String::new() } else { format!(", by {}", self.found_by) };
        format!(
            "{:<9} {}+{:#x}  {} {:#x}  {}  {}{price}{result}{found}\n",
            self.role,
            self.function,
            self.function_offset,
            self.file,
            self.file_offset,
            self.instruction,
            self.class,
        )
    }
}

fn site_views(file: &ExaminedFile, prices: Option<&Prices>) -> Vec<SiteView> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let prices = prices.filter(|_| is_attached(&file.plan));
    let sites = file.plan.sites.iter().chain(&file.plan.sampled).map(|site| site_view(&name, site, prices));
    let calls = file.plan.calls.iter().map(|call| call_view(&name, call, prices));
    sites.chain(calls).chain(file.plan.provider.iter().map(|site| told_view(&name, site, prices))).collect()
}

/// Where the price of a call is known, this kernel makes one.
fn told_view(file: &str, site: &ProviderSite, prices: Option<&Prices>) -> SiteView {
    let makes_calls = prices.is_some_and(|prices| prices.contains_key(&ProbeClass::UprobeCalled));
    let (file_offset, id) = site.placed(makes_calls);
    SiteView {
        file: file.to_owned(),
        function: id.event.name().to_owned(),
        role: "provider",
        function_offset: 0,
        file_offset,
        instruction: "nop".to_owned(),
        class: step_name(id.step),
        result: "",
        found_by: "note",
        callers: 0,
        predicted_ns: prices.and_then(|prices| prices.get(&class_of(id.step)).copied()),
    }
}

fn site_view(file: &str, site: &Site, prices: Option<&Prices>) -> SiteView {
    SiteView {
        file: file.to_owned(),
        function: site.function.clone(),
        role: role_name(site.id.role),
        function_offset: site.function_offset,
        file_offset: site.file_offset,
        instruction: site.instruction.clone(),
        class: step_name(site.id.step),
        result: match (site.id.role, site.id.result) {
            (Role::Exit, ResultPlace::Register) => "in a register",
            (Role::Exit, ResultPlace::Stack) => "on the stack",
            (Role::Exit, ResultPlace::Unknown) => "unknown",
            _ => "",
        },
        found_by: "",
        callers: 0,
        predicted_ns: prices.and_then(|prices| prices.get(&class_of(site.id.step)).copied()),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Entry => "entry",
        Role::Exit => "exit",
        Role::GcStart => "gc start",
        Role::Zeroing => "zeroing",
        Role::Assist => "gc assist",
        Role::AssistEnd => "gc assist ends",
        Role::Grow => "heap grows",
        Role::Reclaim => "pages are swept",
        Role::Grown => "heap has grown",
        Role::Reclaimed => "pages were swept",
        Role::Sweep => "spans are swept",
        Role::Swept => "spans were swept",
        Role::StopBegin => "world stops",
        Role::Stopped => "world stopped",
        Role::Restart => "world restarts",
        Role::Started => "world runs",
        Role::Cycle => "gc cycle",
        Role::Scavenge => "scavenge",
        Role::PoolSlowGet => "slow pool get",
        Role::PoolNew => "pool new",
        Role::PoolCleanup => "pool cleanup",
        Role::PoolGet => "pool get, sampled",
    }
}

fn call_view(file: &str, call: &CallSite, prices: Option<&Prices>) -> SiteView {
    SiteView {
        file: file.to_owned(),
        function: call.function.clone(),
        role: "call",
        function_offset: call.function_offset,
        file_offset: call.file_offset,
        instruction: call.instruction.clone(),
        class: step_name(call.id.step),
        result: "by return probe",
        found_by: call.found_by.name(),
        callers: call.exits.len(),
        predicted_ns: prices.and_then(|prices| call_ns(call, prices)),
    }
}

fn step_name(step: StepClass) -> &'static str {
    match step {
        StepClass::Emulated => "emulated",
        StepClass::Stepped => "single-stepped",
        StepClass::Called => "called",
    }
}

fn class_of(step: StepClass) -> ProbeClass {
    match step {
        StepClass::Emulated => ProbeClass::UprobeEmulated,
        StepClass::Stepped => ProbeClass::UprobeStepped,
        StepClass::Called => ProbeClass::UprobeCalled,
    }
}

/// A recorded call: its entry and its return.
fn call_ns(call: &CallSite, prices: &Prices) -> Option<f64> {
    Some(prices.get(&class_of(call.id.step))? + prices.get(&ProbeClass::UprobeReturn)?)
}

/// A block comes by the first function, `malloc` or what it leads to, and goes by the one that releases.
fn calls_cost(calls: &[CallSite], prices: &Prices) -> Option<CostView> {
    let first = |releases| calls.iter().find(|call| call.id.result.is_release() == releases);
    let mut cost = CostView { large_ns: 0.0, small_ns: 0.0, small_uncached_ns: 0.0 };
    for call in [first(false), first(true)].into_iter().flatten() {
        let entry_ns = *prices.get(&class_of(call.id.step))?;
        let passes = |pays: bool| if pays { entry_ns } else { 0.0 };
        cost.large_ns += call_ns(call, prices)?;
        cost.small_ns += passes(call.small == SmallCalls::Always);
        cost.small_uncached_ns += passes(call.small != SmallCalls::Never);
    }
    Some(cost)
}

/// As [`crate::aggregate::Tier`] has it of what is attached.
fn tier(files: &[ExaminedFile]) -> &'static str {
    let mut plans = files.iter().map(|file| &file.plan).filter(|plan| is_attached(plan)).peekable();
    if plans.peek().is_none() {
        "kernel"
    } else if plans.clone().any(Plan::slows_small) {
        "filtered"
    } else if plans.all(Plan::is_told_only) {
        "provider"
    } else {
        "large-path"
    }
}

/// One entry and one exit a call: of several exits of a function, one runs.
fn cost(files: &[ExaminedFile], prices: &Prices) -> Option<CostView> {
    let costs = files.iter().filter(|file| is_attached(&file.plan)).map(|file| plan_cost(&file.plan, prices));
    // A process with two allocators pays for whichever serves it: the dearer one is told.
    costs.flatten().max_by(|one, other| one.large_ns.total_cmp(&other.large_ns))
}

fn plan_cost(plan: &Plan, prices: &Prices) -> Option<CostView> {
    if !plan.calls.is_empty() {
        return calls_cost(&plan.calls, prices);
    }
    if plan.is_told_only() {
        let makes_calls = prices.contains_key(&ProbeClass::UprobeCalled);
        // A sample is a price of its own, which few allocations pay.
        let told = plan.provider.iter().find(|site| !site.id.event.is_sample());
        let price = |site: &ProviderSite| prices.get(&class_of(site.placed(makes_calls).1.step)).copied();
        let large_ns = told.map_or(Some(0.0), price)?;
        return Some(CostView { large_ns, small_ns: 0.0, small_uncached_ns: 0.0 });
    }
    let dearest = |role: Role| {
        let of_role = plan.sites.iter().filter(|site| site.id.role == role);
        of_role.filter_map(|site| prices.get(&class_of(site.id.step)).copied()).max_by(f64::total_cmp)
    };
    let large_ns = dearest(Role::Entry)? + dearest(Role::Exit)?;
    Some(CostView { large_ns, small_ns: 0.0, small_uncached_ns: 0.0 })
}
