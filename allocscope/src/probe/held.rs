//! A link's descriptor into a name that keeps the link, and whose removal does not wait.
//!
//! Who closes the last descriptor of a link waits until no CPU can be in its program any more: 20 to 45 ms for
//! the uprobes of a file, twice that for a tracepoint, half of it under a lock that all perf events share
//! (6.18: 15 tracepoints and two libraries take 0.65 s, however many threads close them). Who removes the last
//! name of a link leaves that to a worker of the kernel: code is as it was and programs are off within 3 ms,
//! and the empty events go behind that. So links are pinned, in a BPF file system that nobody else can reach
//! and that goes with its descriptor, however this process ends.
//!
//! It is safer as well: where a process is killed while a thread of it closes a link, the kernel (6.18) gives up
//! restoring the target's code, says `failed to unregister, leaking uprobe`, and leaves the breakpoint there for
//! good. Its workers are not killed. Without a BPF file system links are closed one after the other, and never by
//! a thread that the end of the program would interrupt.

use super::detached;
use anyhow::{Context, Result};
use aya::programs::links::FdLink;
use aya::programs::uprobe::UProbeLink;
use aya_obj::generated::bpf_cmd;
use std::any::Any;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Where links are kept.
pub struct Holder {
    /// Of the file system; where there is none, links are kept by their descriptors.
    mount: Option<Arc<OwnedFd>>,
    names: u64,
}

/// A live link. Dropping it detaches what it attached, without a wait.
#[expect(dead_code, reason = "a link is kept to be dropped")]
pub enum HeldLink {
    /// By its only name.
    Named(Name),
    /// By its descriptor: whatever detaches when it is dropped, with a wait.
    Open(Box<dyn Any>),
}

/// The only name of a link.
pub struct Name {
    mount: Arc<OwnedFd>,
    name: String,
}

/// `union bpf_attr`, its part for BPF_OBJ_PIN (linux/bpf.h).
#[repr(C)]
struct ObjectPin {
    path: u64,
    fd: u32,
    file_flags: u32,
}

impl Holder {
    /// Mounts the file system.
    pub fn new() -> Self {
        let mount = detached::mount(c"bpf")
            .inspect_err(|error| log::info!("links detach with a wait: no BPF file system: {error}"));
        Self { mount: mount.ok().map(Arc::new), names: 0 }
    }

    /// Keeps a link.
    pub fn hold(&mut self, link: OwnedFd) -> HeldLink {
        let Some(name) = self.next_name() else { return HeldLink::Open(Box::new(link)) };
        match pin(&link, &name.path()) {
            Ok(()) => HeldLink::Named(name),
            Err(error) => {
                log::info!("a link detaches with a wait: it cannot be pinned: {error}");
                HeldLink::Open(Box::new(link))
            }
        }
    }

    /// Keeps a link that aya made of a perf event.
    ///
    /// # Errors
    /// Where it cannot be pinned: the link is detached then.
    pub fn hold_perf(&mut self, link: UProbeLink) -> Result<HeldLink> {
        if self.mount.is_none() {
            return Ok(HeldLink::Open(Box::new(link)));
        }
        self.hold_link(FdLink::try_from(link).context("the kernel made no link of a perf event")?)
    }

    /// Keeps a link that aya made.
    ///
    /// # Errors
    /// As above.
    pub fn hold_link(&mut self, link: FdLink) -> Result<HeldLink> {
        let Some(name) = self.next_name() else { return Ok(HeldLink::Open(Box::new(link))) };
        drop(link.pin(name.path()).context("a link cannot be pinned")?);
        Ok(HeldLink::Named(name))
    }

    fn next_name(&mut self) -> Option<Name> {
        let mount = self.mount.clone()?;
        self.names += 1;
        Some(Name { mount, name: self.names.to_string() })
    }
}

impl Name {
    fn path(&self) -> String {
        format!("/proc/self/fd/{}/{}", self.mount.as_raw_fd(), self.name)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let Ok(name) = CString::new(self.name.as_bytes()) else { return };
        // SAFETY: the descriptor and the string are live. Where the name is not there, nothing is lost.
        unsafe { libc::unlinkat(self.mount.as_raw_fd(), name.as_ptr(), 0) };
    }
}

fn pin(link: &OwnedFd, path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    let attr = ObjectPin { path: path.as_ptr() as u64, fd: link.as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: the attribute and its path outlive the call, its size is passed, and the result is checked.
    let pinned = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_OBJ_PIN as u32, &raw const attr, size_of::<ObjectPin>())
    };
    if pinned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
