//! Signals of scarce memory into how much of what pools hold idle is given back.
//!
//! What holds memory implements [`Release`]; what knows how scarce memory is implements [`Signal`]. [`Pressure`] asks all
//! signals, goes by the one that lets the least stay, and asks those that hold memory for the rest. It decides from
//! readings alone; [`Host`] takes them from the kernel's files. No thread runs unless a [`Ticker`] is asked for.
//!
//! | signal | lets stay |
//! |---|---|
//! | [`MemoryShare`] | from the high mark of a limit (machine, cgroups up the tree) on, nothing above the low mark |
//! | [`MemoryStall`] | while tasks wait for memory (PSI), half at each step |
//! | [`StackDepth`] | pages by frames at allocations, as allocscope's histogram has them |

mod band;
mod cgroup;
mod depth;
mod frames;
mod host;
mod policy;
mod share;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod ticker;

pub use band::Band;
pub use depth::{StackDepth, Steps, page_bytes};
pub use frames::{Frames, FramesError, STACK_FRAMES};
pub use host::Host;
pub use policy::{Heard, Pressure, PressureBuilder, PressureCounters, Step};
pub use share::{DEFAULT_SHARE, Level, Levels, MemoryShare};
pub use stall::{DEFAULT_STALL, MemoryStall, Stall};
pub use ticker::Ticker;

use std::time::Duration;

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PressureError {
    /// Marks are not `0 <= low < high <= 1`.
    Band,
    /// Steps do not ascend in frames, ascend in pages, are none or too many.
    Steps,
    /// A share is not between 0 and 1.
    Share,
}

impl std::fmt::Display for PressureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Band => "marks must be 0 <= low < high <= 1",
            Self::Steps => "one to 16 steps must ascend in frames and not ascend in pages",
            Self::Share => "a share must be between 0 and 1",
        })
    }
}

impl std::error::Error for PressureError {}

/// Something that holds memory which nobody uses now and which it can give back.
pub trait Release {
    /// Bytes held idle.
    fn idle_bytes(&self) -> usize;

    /// Gives back about so many of them; says how many bytes it were. May give back more by less than one item (a
    /// buffer is given back whole).
    fn release(&self, bytes: usize) -> usize;

    /// The same with the way in which pages go back to the kernel, for what has pages of its own.
    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        let _ = advice;
        self.release(bytes)
    }
}

impl<R: Release + ?Sized> Release for &R {
    fn idle_bytes(&self) -> usize {
        (**self).idle_bytes()
    }

    fn release(&self, bytes: usize) -> usize {
        (**self).release(bytes)
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        (**self).release_with(bytes, advice)
    }
}

impl<R: Release + ?Sized> Release for std::sync::Arc<R> {
    fn idle_bytes(&self) -> usize {
        (**self).idle_bytes()
    }

    fn release(&self, bytes: usize) -> usize {
        (**self).release(bytes)
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        (**self).release_with(bytes, advice)
    }
}

/// How pages go back to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Advice {
    /// `MADV_FREE`: the kernel takes the pages when it needs them; until then they count as used, and using them
    /// again costs no fault.
    Free,
    /// `MADV_DONTNEED`: the pages are gone at once, as does the share of memory that they were.
    #[default]
    DontNeed,
}

/// What a signal is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The moment, since whatever moment the caller counts from.
    pub now: Duration,
    /// Bytes held idle by all that can give back.
    pub idle_bytes: usize,
    /// Bytes below which giving back is not worth it.
    pub least_bytes: usize,
}

/// How much of what is idle may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The signal knows nothing (the kernel does not tell, no reading yet, too old a reading), and why.
    Unknown(&'static str),
    /// All of it.
    All,
    /// At most so many bytes.
    Bytes(usize),
}

/// Something that knows how scarce memory is.
pub trait Signal: Send {
    /// Its name, as counters tell it.
    fn name(&self) -> &'static str;

    /// Takes a new reading; the only place where a signal touches the world.
    fn look(&mut self, now: Duration);

    /// What may stay by the last reading, and how the rest goes back.
    fn keep(&mut self, asked: &Asked) -> Keep;

    /// How pages should go back while this signal asks for it.
    fn advice(&self) -> Advice {
        Advice::DontNeed
    }
}
