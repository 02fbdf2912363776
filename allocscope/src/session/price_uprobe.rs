//! The price of a uprobe hit of each class, measured on two functions of our own.

use super::price::fastest;
use crate::probe::{AttachedSites, Loaded, Scope};
use crate::site::Site;
use allocscope_common::counter::ProbeClass;
use allocscope_common::site_id::{Function, ResultPlace, Role, SiteId, StepClass};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::time::Instant;

/// Calls in a batch.
const CALLS: usize = 32;

/// Nanoseconds per hit.
pub fn measure(loaded: &mut Loaded) -> Result<Vec<(ProbeClass, f64)>> {
    let binary = File::open("/proc/self/exe")?;
    let subjects =
        [(ProbeClass::UprobeEmulated, StepClass::Emulated), (ProbeClass::UprobeStepped, StepClass::Stepped)];
    let mut prices = Vec::new();
    let mut done = Vec::new();
    for (class, step) in subjects {
        let function = subject(step)?;
        let before = fastest(|| call_ns(function));
        let site = own_site(function, step)?;
        let attached = AttachedSites::attach(loaded, &binary, &[site], Scope::Process(std::process::id()));
        if let Some(miss) = attached.misses.first() {
            bail!("{}", miss.detail);
        }
        prices.push((class, fastest(|| call_ns(function)) - before));
        done.push(attached);
    }
    // Each takes the kernel a tenth of a second to detach; nobody has to wait for that.
    std::thread::spawn(move || drop(done));
    Ok(prices)
}

fn own_site(function: usize, step: StepClass) -> Result<Site> {
    let id = SiteId {
        function: Function::Own,
        role: Role::Entry,
        step,
        result: ResultPlace::Unknown,
        frame_bytes: 0,
        result_offset: 0,
    };
    Ok(Site {
        id,
        function: "allocscope's own".to_owned(),
        function_offset: 0,
        file_offset: file_offset(function)?,
        instruction: String::new(),
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

/// Nanoseconds per call. The registers hold what Go's would: a large size in rbx and a readable `g` in
/// r14, so that the program behind the probe does its whole work.
#[cfg(target_arch = "x86_64")]
fn call_ns(function: usize) -> f64 {
    let g = [0u64; 8];
    let begin = Instant::now();
    for _ in 0..CALLS {
        // SAFETY: the function takes nothing, keeps every register but rax, and uses 8 bytes of stack;
        // rbx and r14 are put back. Without `nostack` the compiler keeps nothing below the stack pointer.
        unsafe {
            std::arch::asm!(
                "push rbx", "push r14", "mov rbx, rdx", "mov r14, rsi", "call rcx", "pop r14", "pop rbx",
                // Named: of its own choice the compiler could take r14, which is overwritten before the call.
                in("rdx") u64::MAX >> 1,
                in("rsi") g.as_ptr(),
                in("rcx") function,
                out("rax") _,
            );
        }
    }
    begin.elapsed().as_nanos() as f64 / CALLS as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn subject(_step: StepClass) -> Result<usize> {
    bail!("not measured on this architecture")
}

#[cfg(not(target_arch = "x86_64"))]
fn call_ns(_function: usize) -> f64 {
    0.0
}
