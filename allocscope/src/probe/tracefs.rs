//! Tracepoint names into ids.
//!
//! Where tracefs is mounted, that mount is read. Where it is not, a detached mount is made that only
//! this process can see and that goes with its descriptor: allocscope leaves no mount behind.

use anyhow::{Context, Result, anyhow};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// linux/mount.h
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;

/// An open tracefs.
pub struct Tracefs {
    root: OwnedFd,
}

impl Tracefs {
    /// Opens tracefs.
    ///
    /// # Errors
    /// Where it is not mounted and cannot be: no CAP_SYS_ADMIN, or a kernel before 5.2.
    pub fn open() -> Result<Self> {
        for mount in MOUNTS {
            if std::fs::metadata(format!("{mount}/events")).is_ok() {
                return Ok(Self { root: File::open(mount)?.into() });
            }
        }
        Ok(Self { root: mount_detached().context("tracefs is not mounted and cannot be")? })
    }

    /// The id of tracepoint `name` in `category`.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoint, or tracefs may not be read.
    pub fn id(&self, category: &str, name: &str) -> Result<u64> {
        let path = format!("/proc/self/fd/{}/events/{category}/{name}/id", self.root.as_raw_fd());
        let mut text = String::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| format!("the kernel has no tracepoint {category}:{name}"))?;
        text.trim().parse().map_err(|_| anyhow!("tracepoint {category}:{name} has no numeric id"))
    }
}

fn mount_detached() -> io::Result<OwnedFd> {
    let context = descriptor(
        // SAFETY: the string is a constant with its end; the result is checked.
        unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), FSOPEN_CLOEXEC) },
    )?;
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: the command takes no key and no value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; the result is checked.
    let mount =
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })?;
    open_root(&mount)
}

/// A readable descriptor of the mount's root: fsmount returns one for paths only.
fn open_root(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let here: &CStr = c".";
    // SAFETY: the descriptor and the string are live; the result is checked.
    descriptor(i64::from(unsafe {
        libc::openat(mount.as_raw_fd(), here.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
    }))
}

fn descriptor(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
