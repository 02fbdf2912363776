//! A kind of file system into a mount of it that only this process can reach.
//!
//! The mount has no place in any namespace and goes with its descriptor: nothing of it outlives the process.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// linux/mount.h
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;

/// Mounts `file_system`; the descriptor stands for the mount's root, for paths only.
///
/// # Errors
/// Where it may not be mounted: no CAP_SYS_ADMIN, or a kernel before 5.2.
pub fn mount(file_system: &CStr) -> io::Result<OwnedFd> {
    let context = descriptor(
        // SAFETY: the string has its end; the result is checked.
        unsafe { libc::syscall(libc::SYS_fsopen, file_system.as_ptr(), FSOPEN_CLOEXEC) },
    )?;
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: the command takes no key and no value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; the result is checked.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// A descriptor that can be read, of the root of a mount.
///
/// # Errors
/// What the kernel says.
pub fn open_root(mount: &OwnedFd) -> io::Result<OwnedFd> {
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
