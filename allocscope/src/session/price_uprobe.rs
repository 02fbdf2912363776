//! The price of a uprobe hit of each class, measured on functions of our own.

use super::price::{fastest, traced};
use crate::config::AttachVia;
use crate::intake::Maps;
use crate::probe::{AttachedSites, LoadOptions, Loaded, Returns, Scope, load, makes_calls, own_place};
use crate::site::{CallSite, FoundBy, Plan, Site, SmallCalls};
use allocscope_common::counter::ProbeClass;
use allocscope_common::key::Allocator;
use allocscope_common::native_id::{NO_ARGUMENT, NativeId, NativeResult};
use allocscope_common::site_id::{Function, ResultPlace, Role, SiteId, StepClass};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::Instant;

/// Calls in a batch: a price is some tenths of a microsecond, or ten of them where instructions are stepped.
const CALLS: usize = 16;
const STEPPED_CALLS: usize = 2;

/// The name of our own functions.
const OWN: &str = "allocscope's own";

/// What uprobes are like on this machine.
pub struct UprobePrices {
    /// Nanoseconds per hit.
    pub ns: BTreeMap<ProbeClass, f64>,
    /// How they were attached.
    pub via: Option<AttachVia>,
}

/// Nanoseconds per hit, by loading the kernel side for nothing else.
///
/// # Errors
/// Where the kernel refuses.
pub fn uprobe_prices() -> Result<UprobePrices> {
    let mut loaded = load(&LoadOptions::default())?;
    let (mut maps, _events) = Maps::take(loaded.ebpf_mut(), 1)?;
    let mut prices = Ok(Vec::new());
    traced(&mut maps, || prices = measure(&mut loaded));
    Ok(UprobePrices { ns: prices?.into_iter().collect(), via: loaded.attached_via() })
}

/// Nanoseconds per hit. Where allocscope traces itself, the programs do their whole work.
pub fn measure(loaded: &mut Loaded) -> Result<Vec<(ProbeClass, f64)>> {
    let binary = File::open("/proc/self/exe")?;
    let emulated = subject(StepClass::Emulated)?;
    let stepped = subject(StepClass::Stepped)?;
    let site = |function, step| -> Result<Plan> {
        Ok(Plan { sites: vec![own_site(function, step)?], ..Plan::default() })
    };
    let entry = added_ns(loaded, &binary, emulated, CALLS, &site(emulated, StepClass::Emulated)?)?;
    let step = added_ns(loaded, &binary, stepped, STEPPED_CALLS, &site(stepped, StepClass::Stepped)?)?;
    let calls = Plan { calls: vec![own_call(emulated)?], ..Plan::default() };
    let both = added_ns(loaded, &binary, emulated, CALLS, &calls)?;
    let mut prices = vec![
        (ProbeClass::UprobeEmulated, entry),
        (ProbeClass::UprobeStepped, step),
        (ProbeClass::UprobeReturn, both - entry),
    ];
    if makes_calls(loaded) {
        let (address, site) = own_place()?;
        let told = Plan { provider: vec![site], ..Plan::default() };
        prices.push((ProbeClass::UprobeCalled, added_ns(loaded, &binary, address, CALLS, &told)?));
    }
    Ok(prices)
}

/// What a plan adds to a call of one of our own functions.
fn added_ns(loaded: &mut Loaded, binary: &File, function: usize, calls: usize, plan: &Plan) -> Result<f64> {
    let before = fastest(|| call_ns(function, calls));
    let attached = {
        let own = Scope::Process(std::process::id());
        AttachedSites::attach(loaded, binary, plan, own, Returns::ByProbe)
    };
    if let Some(miss) = attached.misses.first() {
        bail!("{}", miss.detail);
    }
    let added = fastest(|| call_ns(function, calls)) - before;
    Ok(added)
}

fn own_site(function: usize, step: StepClass) -> Result<Site> {
    let id = SiteId {
        function: Function::Own,
        role: Role::Entry,
        step,
        result: ResultPlace::Unknown,
        frame_bytes: 0,
        result_offset: 0,
        goid_offset: 0,
    };
    Ok(Site {
        id,
        function: OWN.to_owned(),
        function_offset: 0,
        file_offset: file_offset(function)?,
        instruction: String::new(),
    })
}

fn own_call(function: usize) -> Result<CallSite> {
    let id = NativeId {
        allocator: Allocator::Musl,
        step: StepClass::Emulated,
        // rdx, which holds a large size.
        size: 2,
        times: NO_ARGUMENT,
        shift: 0,
        resizes: false,
        hands_on: false,
        result: NativeResult::Pointer,
        min_kib: 0,
    };
    Ok(CallSite {
        id,
        function: OWN.to_owned(),
        found_by: FoundBy::Symbol,
        small: SmallCalls::Never,
        function_offset: 0,
        file_offset: file_offset(function)?,
        instruction: String::new(),
        exits: Vec::new(),
    })
}

/// Where an address of this program's code is in its file.
fn file_offset(address: usize) -> Result<u64> {
    let address = address as u64;
    let maps = procfs::process::Process::myself()?.maps()?;
    let map = maps.iter().find(|map| map.address.0 <= address && address < map.address.1);
    let map = map.context("the function is in no mapping")?;
    Ok(address - map.address.0 + map.offset)
}

#[cfg(target_arch = "x86_64")]
fn subject(step: StepClass) -> Result<usize> {
    Ok(match step {
        StepClass::Emulated => emulated_subject as *const () as usize,
        StepClass::Stepped => stepped_subject as *const () as usize,
        StepClass::Called => own_place()?.0,
    })
}

#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "sysv64" fn emulated_subject() {
    std::arch::naked_asm!("push rbp", "pop rbp", "ret")
}

#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "sysv64" fn stepped_subject() {
    std::arch::naked_asm!("mov rax, rdi", "nop dword ptr [rax + rax]", "ret")
}

/// Larger than any `--min-size`, and what a range can be filed for.
#[cfg(target_arch = "x86_64")]
const SIZE: u64 = 1 << 40;
/// Where the memory would be that our functions pretend to return.
#[cfg(target_arch = "x86_64")]
const ADDRESS: u64 = 1 << 44;

/// Nanoseconds per call. The registers hold what Go's would, a large size in rbx and a readable `g` in r14,
/// and what a native allocator's would, the size in rdx and an address in rax, so that the programs behind the
/// probes do their whole work.
#[cfg(target_arch = "x86_64")]
fn call_ns(function: usize, calls: usize) -> f64 {
    let g = [0u64; 8];
    let begin = Instant::now();
    for _ in 0..calls {
        // SAFETY: the function takes nothing, keeps every register but rax, and uses 8 bytes of stack;
        // rbx and r14 are put back. Without `nostack` the compiler keeps nothing below the stack pointer.
        unsafe {
            std::arch::asm!(
                "push rbx", "push r14", "mov rbx, rdx", "mov r14, rsi", "call rcx", "pop r14", "pop rbx",
                // Named: of its own choice the compiler could take r14, which is overwritten before the call.
                in("rdx") SIZE,
                in("rsi") g.as_ptr(),
                in("rcx") function,
                inout("rax") ADDRESS => _,
            );
        }
    }
    begin.elapsed().as_nanos() as f64 / calls as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn subject(_step: StepClass) -> Result<usize> {
    bail!("not measured on this architecture")
}

#[cfg(not(target_arch = "x86_64"))]
fn call_ns(_function: usize, _calls: usize) -> f64 {
    0.0
}
