//! /proc into what is known of a process. Its text is written by the traced processes in part, and a
//! process may be gone between any two reads: nothing here trusts either.

mod binary;
mod container;
mod error;
mod handle;
mod maps;
mod proc_file;
mod status;
#[cfg(test)]
mod testing;

use std::path::PathBuf;

use procfs::process::{Process, Stat, StatFlags};

use crate::config::Selection;
use proc_file::{open_process, sort_error};

pub use binary::{ElfClass, OpenedBinary, elf_class, executable};
pub use container::{cgroup_path, container_id};
pub use error::TargetError;
pub use handle::ProcessHandle;
pub use maps::{
    ExecutableRange, MappedFile, Mappings, heap_end, mapped_files, mappings, open_mapped, writable_places,
};
pub use status::{Seccomp, is_in_other_pid_namespace, namespace_pids, seccomp_mode};

/// The most processes that [`list`] yields.
pub const MAX_LISTED: usize = 65_536;

/// Bytes of a cgroup file that are read; a path in it is at most 4,096 bytes long.
const MAX_CGROUP_BYTES: u64 = 128 * 1024;

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The process' id in allocscope's pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

/// What is told of a process beside its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Which process.
    pub id: ProcessId,
    /// The kernel's short name for it, at most 15 bytes, made valid UTF-8.
    pub comm: String,
    /// What `/proc/PID/exe` points to, as the kernel tells it; may end in ` (deleted)`.
    pub exe: PathBuf,
    /// Its cgroup's path (version 2, or else the memory controller's); empty where it has none.
    pub cgroup: String,
    /// The container's id, as far as the cgroup's path tells it; else empty.
    pub container: String,
}

/// What there is to know of a process that can be traced. Reads everything through one open folder of
/// /proc, so that no two lines are of different processes.
///
/// # Errors
/// Each way in which a process cannot be traced is a [`TargetError`] of its own.
pub fn describe(pid: u32) -> Result<ProcessInfo, TargetError> {
    let process = open_process(pid)?;
    let stat = live_stat(pid, &process)?;
    if stat.flags().is_ok_and(|flags| flags.contains(StatFlags::PF_KTHREAD)) {
        return Err(TargetError::KernelThread { pid });
    }
    status::refuse_thread(pid, &process)?;
    let exe = process.exe().map_err(|error| sort_error(pid, error))?;
    binary::refuse_32_bit(pid, &process)?;
    let cgroup = cgroup_path(&proc_file::read(pid, &process, "cgroup", MAX_CGROUP_BYTES)?);
    Ok(ProcessInfo {
        id: ProcessId { pid, start_ticks: stat.starttime },
        comm: stat.comm,
        exe,
        container: container_id(&cgroup),
        cgroup,
    })
}

/// The ids of all processes that have a memory of their own: no kernel threads, no zombies; at most
/// [`MAX_LISTED`]. Each may be gone by the time it is looked at.
///
/// # Errors
/// [`TargetError::Io`] where /proc cannot be read at all.
pub fn list() -> Result<impl Iterator<Item = u32>, TargetError> {
    let processes = procfs::process::all_processes().map_err(|error| sort_error(0, error))?;
    Ok(processes.filter_map(Result::ok).filter_map(|process| traceable_pid(&process)).take(MAX_LISTED))
}

/// Whether a process is among those selected.
pub fn matches(selection: &Selection, info: &ProcessInfo) -> bool {
    match selection {
        Selection::Pids(pids) => pids.contains(&info.id.pid),
        Selection::Comm(regex) => regex.is_match(&info.comm),
        Selection::Exe(regex) => {
            let exe = info.exe.to_string_lossy();
            regex.is_match(exe.strip_suffix(binary::DELETED_SUFFIX).unwrap_or(&exe))
        }
        Selection::All => true,
    }
}

/// Which process a pid belongs to at this moment.
///
/// # Errors
/// [`TargetError::NoSuchProcess`], [`TargetError::Ended`].
pub fn identify(pid: u32) -> Result<ProcessId, TargetError> {
    let process = open_process(pid)?;
    Ok(ProcessId { pid, start_ticks: live_stat(pid, &process)?.starttime })
}

/// The stat line of a process that is not a zombie.
fn live_stat(pid: u32, process: &Process) -> Result<Stat, TargetError> {
    let stat = process.stat().map_err(|error| sort_error(pid, error))?;
    if has_ended(&stat) { Err(TargetError::Ended { pid }) } else { Ok(stat) }
}

fn has_ended(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x')
}

fn traceable_pid(process: &Process) -> Option<u32> {
    let stat = process.stat().ok()?;
    let kernel_thread = stat.flags().is_ok_and(|flags| flags.contains(StatFlags::PF_KTHREAD));
    if kernel_thread || has_ended(&stat) { None } else { u32::try_from(process.pid()).ok() }
}

#[cfg(test)]
mod tests {
    use super::testing::Sleeper;
    use super::*;
    use crate::failure::{Exit, Failure};
    use regex::Regex;

    #[test]
    fn own_process() {
        let info = describe(std::process::id()).unwrap();
        assert_eq!(info.exe, std::env::current_exe().unwrap());
        assert_eq!(info.id, identify(std::process::id()).unwrap());
        assert!(info.id.start_ticks > 0);
        assert!(!info.comm.is_empty() && info.comm.len() <= 15);
    }

    #[test]
    fn a_child_until_it_is_killed_and_reaped() {
        let mut sleeper = Sleeper::start();
        let info = describe(sleeper.pid()).unwrap();
        assert_eq!(info.comm, "sleep");
        assert!(list().unwrap().any(|pid| pid == sleeper.pid()));
        sleeper.child.kill().unwrap();
        sleeper.wait_until_zombie();
        assert!(matches!(describe(sleeper.pid()), Err(TargetError::Ended { .. })));
        assert!(list().unwrap().all(|pid| pid != sleeper.pid()));
        sleeper.child.wait().unwrap();
        assert!(matches!(describe(sleeper.pid()), Err(TargetError::NoSuchProcess { .. })));
    }

    #[test]
    fn pids_that_cannot_be() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let error = describe(pid).unwrap_err();
            assert!(matches!(error, TargetError::NoSuchProcess { .. }), "{error:?}");
            assert_eq!(Failure::from(error).exit, Exit::NoSuchProcess);
        }
    }

    #[test]
    fn a_kernel_thread() {
        // Pid 2 is kthreadd, except in a pid namespace of one's own.
        if std::fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
            assert!(matches!(describe(2), Err(TargetError::KernelThread { pid: 2 })));
            assert!(list().unwrap().all(|pid| pid != 2));
        }
    }

    #[test]
    fn a_thread_of_a_process() {
        let (tid_sender, tid) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tid_sender.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            stopped.recv().ok();
        });
        let tid = tid.recv().unwrap();
        let error = describe(tid).unwrap_err();
        let process = std::process::id();
        assert!(matches!(error, TargetError::Thread { tid: t, process: p } if (t, p) == (tid, process)));
        let failure = Failure::from(error);
        assert!(failure.message.ends_with(&format!("use --pid {process}")), "{failure}");
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_may_not_be_looked_at() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let sleeper = Sleeper::start();
        let pid = sleeper.pid();
        let denied = std::thread::spawn(move || {
            // SAFETY: takes three numbers. The call itself, unlike the C library's function, is about this
            // thread only, which ends after the next line.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0);
            describe(pid)
        });
        let error = denied.join().unwrap().unwrap_err();
        assert!(matches!(error, TargetError::Denied { .. }), "{error:?}");
        assert_eq!(Failure::from(error).exit, Exit::Privilege);
    }

    #[test]
    fn a_name_that_is_not_utf8() {
        let sleeper = Sleeper::start_as(b"a) \xff\nZ (");
        let comm = describe(sleeper.pid()).unwrap().comm;
        assert_eq!(comm, "a) \u{fffd}\nZ (");
        assert!(list().unwrap().any(|pid| pid == sleeper.pid()));
    }

    #[test]
    fn selections() {
        let info = ProcessInfo {
            id: ProcessId { pid: 7, start_ticks: 1 },
            comm: "server".into(),
            exe: "/opt/shop/server (deleted)".into(),
            cgroup: String::new(),
            container: String::new(),
        };
        let regex = |text| Regex::new(text).unwrap();
        assert!(matches(&Selection::All, &info));
        assert!(matches(&Selection::Pids(vec![5, 7]), &info));
        assert!(!matches(&Selection::Pids(vec![5]), &info));
        assert!(matches(&Selection::Comm(regex("^serv")), &info));
        assert!(!matches(&Selection::Comm(regex("^shop")), &info));
        assert!(matches(&Selection::Exe(regex("^/opt/.*/server$")), &info));
    }
}
