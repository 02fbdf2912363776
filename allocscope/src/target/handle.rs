//! A process id into a handle that no later process can take over: a pidfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::proc_file::{open_process, sort_io_error};
use super::status::refuse_thread;
use super::{ProcessId, TargetError, identify};

/// A process that stays this process: readable (as `AsyncFd` waits for it) once it has ended.
#[derive(Debug)]
pub struct ProcessHandle {
    id: ProcessId,
    fd: OwnedFd,
}

impl ProcessHandle {
    /// Takes hold of a process, if it still is the one meant.
    ///
    /// # Errors
    /// [`TargetError::NoSuchProcess`] if it has ended or its pid has been given to another.
    pub fn open(id: ProcessId) -> Result<Self, TargetError> {
        let pid = id.pid;
        let raw =
            i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(TargetError::NoSuchProcess { pid })?;
        let opened = pidfd_open(raw, PidfdFlags::empty());
        if opened.is_err() {
            // The kernel's error for a thread's id differs between versions.
            refuse_thread(pid, &open_process(pid)?)?;
        }
        let fd = opened.map_err(|error| sort_io_error(pid, io::Error::from(error)))?;
        // Only after the open: from here on the pid cannot be given away unnoticed.
        if identify(pid)? != id {
            return Err(TargetError::NoSuchProcess { pid });
        }
        Ok(Self { id, fd })
    }

    /// Which process.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it has ended; does not wait. A zombie has ended.
    ///
    /// # Errors
    /// Where the kernel cannot poll, such as for want of memory.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!polled[0].revents().is_empty())
    }

    /// The handle for a task to wait with: `readable().await` returns once the process has ended. Needs to be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime cannot register one more descriptor.
    pub fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the handle owns its descriptor, never changes it and closes it only when it is dropped.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for ProcessHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Sleeper;
    use super::*;

    #[test]
    fn tells_when_a_process_has_ended() {
        let mut sleeper = Sleeper::start();
        let handle = ProcessHandle::open(identify(sleeper.pid()).unwrap()).unwrap();
        assert!(!handle.has_ended().unwrap());
        sleeper.child.kill().unwrap();
        sleeper.wait_until_zombie();
        assert!(handle.has_ended().unwrap());
        sleeper.child.wait().unwrap();
        assert!(handle.has_ended().unwrap());
        assert!(matches!(ProcessHandle::open(handle.id()), Err(TargetError::NoSuchProcess { .. })));
    }

    #[test]
    fn a_reused_pid_is_not_taken() {
        let sleeper = Sleeper::start();
        let mut id = identify(sleeper.pid()).unwrap();
        id.start_ticks -= 1;
        assert!(matches!(ProcessHandle::open(id), Err(TargetError::NoSuchProcess { .. })));
    }

    #[test]
    fn pids_that_cannot_be() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let id = ProcessId { pid, start_ticks: 1 };
            assert!(matches!(ProcessHandle::open(id), Err(TargetError::NoSuchProcess { .. })), "{pid}");
        }
    }

    #[tokio::test]
    async fn can_be_awaited() {
        let mut sleeper = Sleeper::start();
        let handle = ProcessHandle::open(identify(sleeper.pid()).unwrap()).unwrap();
        let waiting = handle.watch().unwrap();
        sleeper.child.kill().unwrap();
        let ready = tokio::time::timeout(std::time::Duration::from_secs(10), waiting.readable()).await;
        assert!(ready.unwrap().is_ok());
    }
}
