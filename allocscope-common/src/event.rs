//! Ring records: a process event each, and nothing more frequent.

use crate::key::named;
use core::fmt;

/// What happened to a process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessEventKind {
    /// It was forked from a traced process or, where all are followed, from any. It has a slot
    /// already where `slot` is not [`NO_SLOT`].
    Fork = 1,
    /// It called exec.
    Exec = 2,
    /// Its first thread exited; the process ends when its last thread does.
    Exit = 3,
    /// It mapped code from a file: a library, perhaps an allocator's.
    Map = 4,
    /// It is about to filter its system calls.
    Filter = 5,
}

named!(ProcessEventKind { Fork => "fork", Exec => "exec", Exit => "exit", Map => "map", Filter => "filter" });

/// In place of a slot: the process has none.
pub const NO_SLOT: u32 = u32::MAX;

/// A process event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEvent {
    /// [`ProcessEventKind`] as a number.
    pub kind: u32,
    /// The process it happened to.
    pub tgid: u32,
    /// For a fork, the parent's tgid; else 0.
    pub parent_tgid: u32,
    /// The process' slot, or [`NO_SLOT`].
    pub slot: u32,
    /// The short name of the process that ran into the event (for a fork, the parent's), ended by a 0: by
    /// the time that the event is read, the process may be gone.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<ProcessEvent>() == 32);
