//! Code bytes into probe sites: where exactly, at what price, or why not.

pub mod classify;
pub mod decode;
pub mod flow;
pub mod go;
pub mod result;

use allocscope_common::site_id::SiteId;

/// Where one probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What the kernel side needs to know; becomes the attach cookie.
    pub id: SiteId,
    /// The function's symbol.
    pub function: String,
    /// Bytes from the function's first instruction.
    pub function_offset: u64,
    /// The instruction's offset in the file: what the kernel attaches by.
    pub file_offset: u64,
    /// The instruction, disassembled.
    pub instruction: String,
}

/// Something that will not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The bounded name of the reason, a metric label value such as `go_version_unknown`.
    pub reason: &'static str,
    /// One sentence for people.
    pub detail: String,
}

/// The sites for one binary, and what they do not cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Where the probes go.
    pub sites: Vec<Site>,
    /// What is missed.
    pub misses: Vec<Miss>,
}
