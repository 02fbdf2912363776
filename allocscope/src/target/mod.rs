//! /proc into what is known of a process.

use std::path::PathBuf;

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
