//! Ends of processes, and the kernel side's log, as they come in.

use crate::target::{ProcessHandle, ProcessId};
use aya::Ebpf;
use aya_log::EbpfLogger;
use std::collections::BTreeMap;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A task for each traced process that waits for its end.
pub struct Watches {
    sender: mpsc::UnboundedSender<u32>,
    ended: mpsc::UnboundedReceiver<u32>,
    tasks: BTreeMap<u32, Watch>,
}

struct Watch {
    id: ProcessId,
    task: JoinHandle<()>,
}

impl Watches {
    pub fn new() -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        Self { sender, ended, tasks: BTreeMap::new() }
    }

    /// Waits for the end of a process. One that is gone already ends at once.
    pub fn watch(&mut self, id: ProcessId) {
        if self.tasks.get(&id.pid).is_some_and(|watch| watch.id == id) {
            return;
        }
        let sender = self.sender.clone();
        let handle = ProcessHandle::open(id);
        let task = tokio::spawn(async move {
            // Where the handle cannot be had or polled, the process is taken for ended.
            if let Ok(handle) = handle
                && let Ok(fd) = handle.watch()
            {
                let _ = fd.readable().await;
            }
            let _ = sender.send(id.pid);
        });
        if let Some(old) = self.tasks.insert(id.pid, Watch { id, task }) {
            old.task.abort();
        }
    }

    /// Ends the wait for a process.
    pub fn forget(&mut self, pid: u32) {
        if let Some(watch) = self.tasks.remove(&pid) {
            watch.task.abort();
        }
    }

    /// The next process that ended. Cancel-safe.
    pub async fn ended(&mut self) -> u32 {
        loop {
            // The sender is kept here, so the channel never closes.
            if let Some(pid) = self.ended.recv().await
                && self.tasks.contains_key(&pid)
            {
                return pid;
            }
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for watch in self.tasks.values() {
            watch.task.abort();
        }
    }
}

/// The task that prints the kernel side's log.
pub struct KernelLog(JoinHandle<()>);

impl KernelLog {
    /// Starts printing; `None`, with a log line, where the log cannot be read.
    pub fn start(ebpf: &mut Ebpf) -> Option<Self> {
        let logger = match EbpfLogger::init(ebpf) {
            Ok(logger) => logger,
            Err(error) => {
                log::warn!("the kernel side's log cannot be read: {error}");
                return None;
            }
        };
        // SAFETY: the logger owns its descriptor, never changes it and closes it only when it is dropped.
        let mut fd = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }.ok()?;
        Some(Self(tokio::spawn(async move {
            while let Ok(mut guard) = fd.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })))
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}
