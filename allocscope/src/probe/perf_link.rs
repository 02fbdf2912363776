//! A loaded program and a perf event into one link that a file descriptor owns.
//!
//! aya attaches tracepoints by looking for a mounted tracefs. allocscope reads tracepoint ids through
//! [`super::Tracefs`], which needs no mount, and makes the link itself.

use std::ffi::CString;
use std::fs::File;
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
// Places of fields in it; of a uprobe the last two are its file's path and the offset.
const CONFIG: usize = 8;
const PERIOD: usize = 16;
const SAMPLE_TYPE: usize = 24;
const PATH: usize = 56;
const OFFSET: usize = 64;
/// What uprobes are as perf events.
const UPROBE_TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";
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

/// Where a uprobe goes.
pub struct UprobePlace<'f> {
    /// The file that is probed.
    pub file: &'f File,
    /// Where in it.
    pub offset: u64,
    /// Where in it the kernel counts those who are attached, as long as they are; 0 for nowhere.
    pub counter: u64,
    /// What the program is told.
    pub cookie: u64,
}

/// Attaches `program` to a place in a file, in one process or in all.
///
/// # Errors
/// As [`attach_tracepoint`]; EINVAL where others are attached there with another counter.
pub fn attach_uprobe(program: BorrowedFd<'_>, at: &UprobePlace<'_>, pid: Option<u32>) -> io::Result<OwnedFd> {
    let kind = std::fs::read_to_string(UPROBE_TYPE)?.trim().parse().map_err(io::Error::other)?;
    // A 32-bit field of the event (`/sys/bus/event_source/devices/uprobe/format/ref_ctr_offset`).
    let counter = u32::try_from(at.counter).map_err(io::Error::other)?;
    let path = CString::new(format!("/proc/self/fd/{}", at.file.as_raw_fd()))?;
    let mut attr = Attr::new(kind);
    attr.set(CONFIG, u64::from(counter) << 32);
    attr.set(PATH, path.as_ptr() as u64);
    attr.set(OFFSET, at.offset);
    let (pid, cpu) = pid.map_or((-1, 0), |pid| (pid as i32, -1));
    link_with(program, &attr.open(pid, cpu)?, at.cookie)
}

fn link(program: BorrowedFd<'_>, event: &OwnedFd) -> io::Result<OwnedFd> {
    link_with(program, event, 0)
}

fn link_with(program: BorrowedFd<'_>, event: &OwnedFd, bpf_cookie: u64) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: event.as_raw_fd() as u32,
        attach_type: BPF_PERF_EVENT,
        bpf_cookie,
        ..LinkCreate::default()
    };
    // SAFETY: the attribute is live for the call, its size is passed, and the result is checked.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<LinkCreate>()) };
    owned(fd)
}

/// All processes on a CPU.
fn open(kind: u32, config: u64, period: u64, sample_type: u64, cpu: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::new(kind);
    for (at, value) in [(CONFIG, config), (PERIOD, period), (SAMPLE_TYPE, sample_type)] {
        attr.set(at, value);
    }
    attr.open(-1, cpu as i32)
}

/// `struct perf_event_attr`.
struct Attr([u8; PERF_ATTR_SIZE]);

impl Attr {
    fn new(kind: u32) -> Self {
        let mut bytes = [0; PERF_ATTR_SIZE];
        bytes[0..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(PERF_ATTR_SIZE as u32).to_ne_bytes());
        Self(bytes)
    }

    fn set(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    /// What the attribute points to is live.
    fn open(&self, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
        let (attr, none) = (self.0.as_ptr(), -1);
        // SAFETY: as above; a path in it outlives the call, as the caller sees to.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, attr, pid, cpu, none, PERF_FLAG_FD_CLOEXEC) };
        owned(fd)
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
