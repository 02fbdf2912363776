//! Whether this kernel makes a call of a probed 5-byte `nop` (Linux 6.18) that does no harm, found by probing one of our
//! own.
//!
//! Where it makes none, it single-steps that instruction, some twenty times dearer in a virtual machine than emulating
//! the `nop` in front of it, or knows another one by now. Where it makes one, a child made by `fork` has the call in its
//! code, and must have what is called as well: Linux 6.18.44 does not copy that mapping (`[uprobes-trampoline]` is
//! `VM_DONTCOPY`), and the child's next pass ends it by SIGSEGV. So a child of ours is made to pass there.

use super::{Loaded, Scope};
use crate::site::ProviderSite;

/// Whether it does, tried once.
pub fn makes_calls(loaded: &mut Loaded) -> bool {
    if let Some(known) = loaded.makes_calls {
        return known;
    }
    let tried = own::try_out(loaded).inspect_err(|error| log::info!("probes are not made calls: {error:#}"));
    let found = tried.unwrap_or(false);
    loaded.makes_calls = Some(found);
    found
}

/// The place of our own that it is tried on: its address, and how it is attached to.
///
/// # Errors
/// Where that is not to be found, or there is none on this architecture.
pub fn own_place() -> anyhow::Result<(usize, ProviderSite)> {
    own::place()
}

#[cfg(target_arch = "x86_64")]
mod own {
    use super::super::ladder::attach_provider;
    use super::{Loaded, ProviderSite, Scope};
    use allocscope_common::provider::{ProviderEvent, ProviderId};
    use allocscope_common::site_id::StepClass;
    use anyhow::{Context, Result};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use std::fs::File;

    /// The first byte of `call rel32`.
    const CALL: u8 = 0xe8;
    /// The kernel makes the call after it has seen the instruction hit.
    const HITS: usize = 3;

    /// Nothing lies below the stack pointer at a function's entry. Aligned, so that no page ends inside.
    #[unsafe(naked)]
    unsafe extern "sysv64" fn subject() {
        std::arch::naked_asm!(".balign 8", ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret")
    }

    pub fn place() -> Result<(usize, ProviderSite)> {
        let address = subject as *const () as usize;
        let maps = procfs::process::Process::myself()?.maps()?;
        let holds = |map: &&procfs::process::MemoryMap| {
            map.address.0 <= address as u64 && (address as u64) < map.address.1
        };
        let map = maps.iter().find(holds).context("the function is in no mapping")?;
        let file_offset = address as u64 - map.address.0 + map.offset;
        let id = ProviderId { event: ProviderEvent::PoolSteal, step: StepClass::Emulated, weight: None };
        let site = ProviderSite { id, file_offset, called_offset: Some(file_offset), semaphore_offset: None };
        Ok((address, site))
    }

    pub fn try_out(loaded: &mut Loaded) -> Result<bool> {
        let (address, site) = place()?;
        let binary = File::open("/proc/self/exe")?;
        let own = Scope::Process(std::process::id());
        let _links = attach_provider(loaded, &binary, &[site], own, true)?;
        for _ in 0..HITS {
            // SAFETY: the function takes nothing and does nothing.
            unsafe { subject() };
        }
        // SAFETY: the first byte of the function, which is code that can be read.
        let is_call = unsafe { (address as *const u8).read_volatile() } == CALL;
        Ok(is_call && child_lives_on()?)
    }

    /// Ends a process that has crashed; it does only what is safe in a signal handler.
    extern "C" fn crashed(_signal: libc::c_int) {
        // SAFETY: it ends the process, and comes back to nobody.
        unsafe { libc::_exit(1) }
    }

    /// Whether a child made by `fork` gets through the function.
    fn child_lives_on() -> Result<bool> {
        // SAFETY: the child of a process with threads may only do what is safe in a signal handler: it does.
        match unsafe { fork() }.context("a child cannot be made")? {
            ForkResult::Child => {
                // A crash is what is looked for here, not news: one that is handled leaves no memory image, and no line
                // in the kernel's log.
                // SAFETY: system calls, the function, which does nothing, and the end of the process.
                unsafe {
                    libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
                    libc::signal(libc::SIGSEGV, crashed as *const () as libc::sighandler_t);
                    subject();
                    libc::_exit(0)
                }
            }
            ForkResult::Parent { child } => {
                let status = waitpid(child, None).context("the child's end is not told")?;
                Ok(matches!(status, WaitStatus::Exited(_, 0)))
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod own {
    use super::{Loaded, ProviderSite};
    use anyhow::{Result, bail};

    pub fn place() -> Result<(usize, ProviderSite)> {
        bail!("there are no such instructions on this architecture")
    }

    pub fn try_out(_loaded: &mut Loaded) -> Result<bool> {
        Ok(false)
    }
}
