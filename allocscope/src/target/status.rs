//! /proc/PID/status into the few lines that matter: which process a thread is of, which pids it has in
//! other namespaces, and whether system calls are filtered.

use std::str;

use procfs::process::Process;

use super::TargetError;
use super::proc_file::{open_process, read, sort_error};

/// Bytes of a status file that are read: some 60 lines, the longest being the list of groups.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

/// Threads whose filter is looked at.
const MAX_THREADS: usize = 4096;

/// Whether a process' system calls are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seccomp {
    /// No.
    Disabled,
    /// To the four calls of strict mode.
    Strict,
    /// By BPF filters.
    Filter,
}

/// The strictest mode of any thread of a process: a filter can be set on one thread alone. An unknown
/// mode counts as [`Seccomp::Filter`]. At most 4,096 threads are looked at.
///
/// # Errors
/// Where the process is gone or may not be looked at.
pub fn seccomp_mode(pid: u32) -> Result<Seccomp, TargetError> {
    let process = open_process(pid)?;
    let main = seccomp_of(&read(pid, &process, "status", MAX_STATUS_BYTES)?);
    let tasks = process.tasks().map_err(|error| sort_error(pid, error))?;
    let threads = tasks.filter_map(Result::ok).take(MAX_THREADS);
    let modes = threads.filter_map(|task| {
        let name = format!("task/{}/status", task.tid);
        read(pid, &process, &name, MAX_STATUS_BYTES).ok()
    });
    Ok(modes.map(|status| seccomp_of(&status)).fold(main, Ord::max))
}

/// A process' pids, from allocscope's namespace inwards: one number for a process in the same one, more
/// for a process in a container with a pid namespace of its own.
///
/// # Errors
/// Where the process is gone or may not be looked at.
pub fn namespace_pids(pid: u32) -> Result<Vec<u32>, TargetError> {
    let status = read(pid, &open_process(pid)?, "status", MAX_STATUS_BYTES)?;
    Ok(numbers(field(&status, "NSpid").unwrap_or_default()))
}

/// Whether a process lives in a pid namespace below allocscope's, and so thinks it has another pid.
///
/// # Errors
/// Where the process is gone or may not be looked at.
pub fn is_in_other_pid_namespace(pid: u32) -> Result<bool, TargetError> {
    Ok(namespace_pids(pid)?.len() > 1)
}

/// Fails if `pid` is a thread's id rather than a process': /proc has a hidden folder for every thread.
pub(super) fn refuse_thread(pid: u32, process: &Process) -> Result<(), TargetError> {
    let status = read(pid, process, "status", MAX_STATUS_BYTES)?;
    match numbers(field(&status, "Tgid").unwrap_or_default()).first() {
        Some(&leader) if leader != pid => Err(TargetError::Thread { tid: pid, process: leader }),
        _ => Ok(()),
    }
}

/// A line's value. The process' own name is on the first line, but the kernel escapes line ends in it, so
/// no name can pretend to be another line.
fn field<'a>(status: &'a [u8], name: &str) -> Option<&'a str> {
    status.split(|&byte| byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        str::from_utf8(value).ok().map(str::trim)
    })
}

fn numbers(value: &str) -> Vec<u32> {
    value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Kernels built without seccomp have no such line.
fn seccomp_of(status: &[u8]) -> Seccomp {
    match field(status, "Seccomp") {
        None | Some("0") => Seccomp::Disabled,
        Some("1") => Seccomp::Strict,
        Some(_) => Seccomp::Filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let status =
            b"Name:\tTgid:\\nSeccomp:\t2\xff\nTgid:\t12\nNSpid:\t12\t3\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(numbers(field(status, "Tgid").unwrap()), [12]);
        assert_eq!(numbers(field(status, "NSpid").unwrap()), [12, 3]);
        assert_eq!(field(status, "Name"), None);
        assert_eq!(seccomp_of(status), Seccomp::Filter);
        assert_eq!(seccomp_of(b"Name:\tx\n"), Seccomp::Disabled);
        assert_eq!(seccomp_of(b""), Seccomp::Disabled);
    }

    #[test]
    fn own_process() {
        let pid = std::process::id();
        assert_eq!(namespace_pids(pid).unwrap().first(), Some(&pid));
        seccomp_mode(pid).unwrap();
    }

    #[test]
    fn a_filter_on_one_thread_alone_counts() {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            allow_everything_by_filter();
            ready.send(()).unwrap();
            stopped.recv().ok();
        });
        is_ready.recv().unwrap();
        assert_eq!(seccomp_mode(std::process::id()).unwrap(), Seccomp::Filter);
        drop(stop);
        thread.join().unwrap();
    }

    /// Sets a filter on the calling thread that lets every call pass.
    fn allow_everything_by_filter() {
        let mut allow = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        };
        let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
        // SAFETY: both calls concern this thread only, and `program` points to one instruction that outlives
        // the second.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
        }
    }

    #[test]
    fn nobody() {
        assert!(matches!(seccomp_mode(u32::MAX), Err(TargetError::NoSuchProcess { .. })));
        assert!(matches!(is_in_other_pid_namespace(0), Err(TargetError::NoSuchProcess { .. })));
    }
}
