//! Files of one process' folder in /proc into bytes, with the errors sorted.

use std::io::{self, Read};

use nix::errno::Errno;
use procfs::ProcError;
use procfs::process::Process;

use super::TargetError;

/// Opens a process' folder. What is read through it later is of this process or fails, even if the pid
/// has been given to another by then.
pub(super) fn open_process(pid: u32) -> Result<Process, TargetError> {
    let signed = i32::try_from(pid).map_err(|_| TargetError::NoSuchProcess { pid })?;
    Process::new(signed).map_err(|error| sort_error(pid, error))
}

/// The first `limit` bytes of a file in the folder.
pub(super) fn read(pid: u32, process: &Process, name: &str, limit: u64) -> Result<Vec<u8>, TargetError> {
    let file = process.open_relative(name).map_err(|error| sort_error(pid, error))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|error| sort_io_error(pid, error))?;
    Ok(bytes)
}

/// What procfs could not do, told by what it means for the process.
pub(super) fn sort_error(pid: u32, error: ProcError) -> TargetError {
    match error {
        ProcError::NotFound(_) => TargetError::NoSuchProcess { pid },
        ProcError::PermissionDenied(_) => TargetError::Denied { pid },
        ProcError::Io(source, _) => sort_io_error(pid, source),
        other => TargetError::Io { pid, source: io::Error::other(other.to_string()) },
    }
}

/// The same for plain reads. A process that ends while one of its files is read gives ESRCH, not ENOENT.
pub(super) fn sort_io_error(pid: u32, source: io::Error) -> TargetError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => TargetError::NoSuchProcess { pid },
        Some(Errno::EACCES | Errno::EPERM) => TargetError::Denied { pid },
        _ => TargetError::Io { pid, source },
    }
}
