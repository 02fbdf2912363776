//! Code bytes into probe sites: where exactly, at what price, or why not.

pub mod arm64;
pub mod classify;
pub mod decode;
pub mod entry;
pub mod flow;
pub mod go;
pub mod result;

use allocscope_common::native_id::NativeId;
use allocscope_common::provider::ProviderId;
use allocscope_common::site_id::{SiteId, StepClass};

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

/// Where the calls of one function of a native allocator are seen, at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSite {
    /// What the kernel side needs to know; becomes the attach cookie.
    pub id: NativeId,
    /// The function's symbol, or the name of the one it was recognised as.
    pub function: String,
    /// How the function was found.
    pub found_by: FoundBy,
    /// Which small allocations pass it.
    pub small: SmallCalls,
    /// Bytes from the function's first instruction.
    pub function_offset: u64,
    /// The instruction's offset in the file: what the kernel attaches by.
    pub file_offset: u64,
    /// The instruction, disassembled.
    pub instruction: String,
    /// Behind its calls in all its callers, for processes that a return probe could hurt; empty where not all are
    /// known.
    pub exits: Vec<Exit>,
}

/// Where a program tells of its own memory, by a statically defined probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderSite {
    /// What the kernel side needs to know; becomes the attach cookie.
    pub id: ProviderId,
    /// The offset in the file of its `nop`, which every kernel emulates.
    pub file_offset: u64,
    /// The offset of an instruction that says the same and that newer kernels make a call of.
    pub called_offset: Option<u64>,
    /// The offset of the counter of those who listen: the program tells nothing while it is 0. The kernel raises it.
    pub semaphore_offset: Option<u64>,
}

impl ProviderSite {
    /// Where it is attached and as what, by whether the kernel makes calls.
    pub fn placed(&self, makes_calls: bool) -> (u64, ProviderId) {
        match self.called_offset {
            Some(offset) if makes_calls => (offset, ProviderId { step: StepClass::Called, ..self.id }),
            _ => (self.file_offset, self.id),
        }
    }
}

/// Where a call is seen to have returned, in its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The instruction's offset in the file.
    pub file_offset: u64,
    /// How the kernel runs the instruction.
    pub step: StepClass,
}

/// Which small allocations pass a probed place, and pay for a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmallCalls {
    /// None.
    Never,
    /// Those that no cache or free list of the allocator serves.
    Uncached,
    /// All.
    Always,
}

/// How a function was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// A symbol of the binary.
    Symbol,
    /// A symbol of the binary's separate debug file.
    DebugFile,
    /// The code of exported functions was followed to it, or its own was recognised.
    Code,
}

impl FoundBy {
    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::DebugFile => "debug file",
            Self::Code => "code",
        }
    }
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
    /// Where probes go for short whiles only.
    pub sampled: Vec<Site>,
    /// Functions whose calls are seen at both ends.
    pub calls: Vec<CallSite>,
    /// Where the program tells of its own memory.
    pub provider: Vec<ProviderSite>,
    /// What is missed.
    pub misses: Vec<Miss>,
    /// Whether it is for another machine than probes are attached on: it is told, and never attached.
    pub is_foreign: bool,
}

impl Plan {
    /// A plan without any probe.
    pub fn missed(miss: Miss) -> Self {
        Self { misses: vec![miss], ..Self::default() }
    }

    /// How many places are probed.
    pub fn len(&self) -> usize {
        self.sites.len() + self.calls.len() + self.provider.len()
    }

    /// Where the probes go, as offsets in the file.
    pub fn file_offsets(&self) -> impl Iterator<Item = u64> + '_ {
        let sites = self.sites.iter().map(|site| site.file_offset);
        let exits = self.calls.iter().flat_map(|call| call.exits.iter().map(|exit| exit.file_offset));
        let told =
            self.provider.iter().flat_map(|site| [Some(site.file_offset), site.called_offset]).flatten();
        sites.chain(self.calls.iter().map(|call| call.file_offset)).chain(exits).chain(told)
    }

    /// Whether nothing is probed but what the program itself tells.
    pub fn is_told_only(&self) -> bool {
        self.sites.is_empty() && self.calls.is_empty() && !self.provider.is_empty()
    }

    /// Whether small allocations pass a probe each time.
    pub fn slows_small(&self) -> bool {
        self.calls.iter().any(|call| call.small == SmallCalls::Always)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
