//! A loaded program and a perf event into one link that a file descriptor owns.
//!
//! aya attaches tracepoints by looking for a mounted tracefs. allocscope reads tracepoint ids through
//! [`super::Tracefs`], which needs no mount, and makes the link itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// linux/perf_event.h
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// A sample tells the size of the page that its address lies in.
const PERF_SAMPLE_DATA_PAGE_SIZE: u64 = 1 << 22;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;
/// Size of `struct perf_event_attr` in its fifth version, which every kernel since 4.1 takes.
const PERF_ATTR_SIZE: usize = 112;
/// linux/bpf.h
const BPF_LINK_CREATE: i32 = 28;
const BPF_PERF_EVENT: u32 = 41;

/// `union bpf_attr`, its part for BPF_LINK_CREATE (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    bpf_cookie: u64,
    unused: [u64; 5],
}

/// Attaches `program` to the tracepoint with this id, for all processes and CPUs.
///
/// # Errors
/// What the kernel says: EPERM or EACCES without privileges, EINVAL before kernel 5.15.
pub fn attach_tracepoint(program: BorrowedFd<'_>, tracepoint_id: u64) -> io::Result<OwnedFd> {
    // A BPF program on a tracepoint runs on every CPU, whichever the event names.
    link(program, &open(PERF_TYPE_TRACEPOINT, tracepoint_id, 0, 0, 0)?)
}

/// Attaches `program` to each occurrence of a software event on a CPU, with the size of the page that it is about
/// where that is asked for.
///
/// # Errors
/// As [`attach_tracepoint`].
pub fn attach_software(
    program: BorrowedFd<'_>,
    event: u64,
    cpu: u32,
    with_page_size: bool,
) -> io::Result<OwnedFd> {
    let sample_type = if with_page_size { PERF_SAMPLE_DATA_PAGE_SIZE } else { 0 };
    link(program, &open(PERF_TYPE_SOFTWARE, event, 1, sample_type, cpu)?)
}

fn link(program: BorrowedFd<'_>, event: &OwnedFd) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: event.as_raw_fd() as u32,
        attach_type: BPF_PERF_EVENT,
        ..LinkCreate::default()
    };
    // SAFETY: the attribute is live for the call, its size is passed, and the result is checked.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<LinkCreate>()) };
    owned(fd)
}

/// All processes on a CPU.
fn open(kind: u32, config: u64, period: u64, sample_type: u64, cpu: u32) -> io::Result<OwnedFd> {
    let mut attr = [0u8; PERF_ATTR_SIZE];
    attr[0..4].copy_from_slice(&kind.to_ne_bytes());
    attr[4..8].copy_from_slice(&(PERF_ATTR_SIZE as u32).to_ne_bytes());
    for (at, value) in [(8, config), (16, period), (24, sample_type)] {
        attr[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    // SAFETY: as above.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
