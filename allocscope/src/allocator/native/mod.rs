//! A native allocator's binary into the function that its large objects come from.
//!
//! The function is internal to the allocator, below its thread caches, so that small objects do not pass it.
//! Its address comes from the binary's symbols, else from its debug file's, else from the code of the exported
//! functions, which is followed to it; that names what was recognised and refuses where anything is in doubt.

mod exits;
mod exported;
mod follow;
mod glibc;
mod jemalloc;
mod mimalloc;
mod release;

use std::ops::Range;

use allocscope_common::key;
use allocscope_common::native_id::{Argument, NO_ARGUMENT, NativeId, NativeResult};
use allocscope_common::site_id::StepClass;

use self::follow::Follower;
use super::detect::Allocator;
use super::elf::{Image, Machine};
use super::frames::Frames;
use crate::site::entry::{Entry, Refusal, slide};
use crate::site::{CallSite, FoundBy, Miss, Plan, SmallCalls, arm64};

/// A function whose calls are an allocator's large objects, or their releases.
struct LargePath {
    /// How it is called in metrics.
    allocator: key::Allocator,
    /// Its symbol, under the prefixes that builds give it.
    symbols: &'static [&'static str],
    /// The argument with the size, and its unit as a power of two; or with what is given back.
    size: (Argument, u8),
    result: NativeResult,
    /// What it serves below this is not an object, in KiB.
    min_kib: u32,
    /// Which small objects pass it.
    small: SmallCalls,
    /// Finds it in a stripped library.
    follow: Option<fn(&Follower<'_>) -> Option<u64>>,
}

/// `_int_malloc(mstate, size_t bytes)`: what the thread cache has not; for malloc, calloc, realloc that moves
/// and the aligned family. What waits for an arena's lock lies outside (malloc.c).
const GLIBC: LargePath = LargePath {
    allocator: key::Allocator::Glibc,
    symbols: &["_int_malloc"],
    size: (1, 0),
    result: NativeResult::GlibcNewChunk,
    min_kib: 0,
    small: SmallCalls::Uncached,
    follow: Some(glibc::int_malloc),
};

/// `large_palloc(tsdn, arena, usize, alignment, zero)`: every object above the largest one that thread caches
/// hold, 32 KiB unless configured (jemalloc 5, large.c); `usize` is the size class.
const JEMALLOC: LargePath = LargePath {
    allocator: key::Allocator::Jemalloc,
    symbols: &["je_large_palloc", "_rjem_je_large_palloc", "large_palloc"],
    size: (2, 0),
    result: NativeResult::Pointer,
    min_kib: 0,
    small: SmallCalls::Never,
    follow: Some(jemalloc::large_palloc),
};

/// `_mi_malloc_generic(heap, size, zero, ...)`: every object above 1 KiB, and smaller ones when a page's free
/// list is empty (mimalloc 1.7 to 3, page.c); see `mimalloc.rs`.
const MIMALLOC: LargePath = LargePath {
    allocator: key::Allocator::Mimalloc,
    symbols: &["_mi_malloc_generic"],
    size: (1, 0),
    result: NativeResult::Pointer,
    min_kib: 0,
    small: SmallCalls::Uncached,
    follow: Some(mimalloc::malloc_generic),
};

/// `tcmalloc::PageHeap::New(Length n)` of gperftools: objects above 256 KiB (kMaxSize) in pages of 8 KiB, and
/// below that the spans that its caches are filled from, which are no objects.
const TCMALLOC: LargePath = LargePath {
    allocator: key::Allocator::Tcmalloc,
    symbols: &["_ZN8tcmalloc8PageHeap3NewEm"],
    size: (1, 13),
    result: NativeResult::TcmallocSpan,
    min_kib: 264,
    small: SmallCalls::Uncached,
    follow: None,
};

/// Plans the probes of the allocator `kind`, which `image` holds. `debug` is its separate debug file.
pub fn plan(image: &Image<'_>, debug: Option<&Image<'_>>, kind: Allocator, depth: Depth) -> Plan {
    match (large_path(kind), depth) {
        (Ok(path), _) if kind == Allocator::Mimalloc => mimalloc::plan(image, debug, path, depth),
        (_, Depth::Filtered { min_bytes }) => filtered(image, debug, kind, min_bytes),
        (Ok(path), Depth::LargePath) => plan_one(image, debug, kind, path),
        (Err(why), Depth::LargePath) => {
            Plan::missed(Miss { reason: "allocator_path_not_probed", detail: why })
        }
    }
}

/// glibc's `malloc` is left alone where all blocks of interest come from below its thread caches: what these serve, most
/// small blocks, then passes no probe on its way out.
fn filtered(image: &Image<'_>, debug: Option<&Image<'_>>, kind: Allocator, min_bytes: u64) -> Plan {
    let is_below = kind == Allocator::Glibc && min_bytes > glibc::MAX_CACHED_BYTES;
    let below_caches = is_below.then(|| call_site(image, debug, kind, &GLIBC).ok()).flatten();
    exported::plan(image, kind, below_caches)
}

fn plan_one(image: &Image<'_>, debug: Option<&Image<'_>>, kind: Allocator, path: &LargePath) -> Plan {
    let call = match call_site(image, debug, kind, path) {
        Ok(call) => call,
        Err(why) => {
            let detail = format!("{why}: only mmap, brk and page faults are seen");
            return Plan::missed(Miss { reason: "allocator_path_not_found", detail });
        }
    };
    let mut plan = Plan { calls: vec![call], misses: blind_spots(kind), ..Plan::default() };
    match release::large_path(kind).map(|path| call_site(image, debug, kind, path)) {
        Some(Ok(release)) => plan.calls.push(release),
        Some(Err(why)) => {
            let detail = format!("{why}: when large objects are freed is not seen");
            plan.misses.push(Miss { reason: "release_not_seen", detail });
        }
        None => {}
    }
    plan
}

/// Which functions of an allocator are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Depth {
    /// The one that large objects come from: small ones pass no probe, or only when no cache serves them.
    #[default]
    LargePath,
    /// All that programs call, small ones too: the kernel side filters.
    Filtered {
        /// The smallest allocation of interest.
        min_bytes: u64,
    },
}

fn large_path(kind: Allocator) -> Result<&'static LargePath, String> {
    match kind {
        Allocator::Glibc => Ok(&GLIBC),
        Allocator::Jemalloc => Ok(&JEMALLOC),
        Allocator::Mimalloc => Ok(&MIMALLOC),
        Allocator::Tcmalloc => Ok(&TCMALLOC),
        Allocator::Musl => {
            Err("musl maps what is 128 KiB or larger, which is seen; what its heap serves is not".to_owned())
        }
        Allocator::Other => {
            Err("its malloc is none that is known, and what its heap serves is not seen, only mmap, \
             brk and page faults: --allow-small-cost probes its functions"
                .to_owned())
        }
        Allocator::Go | Allocator::Unknown => Err("no known allocator was found: a large allocation that a \
             heap already holds memory for is not seen, only mmap, brk and page faults"
            .to_owned()),
    }
}

/// What the probed function does not serve, though it is large.
fn blind_spots(kind: Allocator) -> Vec<Miss> {
    let detail = match kind {
        Allocator::Jemalloc => "jemalloc serves up to 32 KiB from its thread caches, which is not seen",
        Allocator::Tcmalloc => "tcmalloc serves up to 256 KiB from its caches, which is not seen",
        _ => return Vec::new(),
    };
    vec![Miss { reason: "cached_objects_not_seen", detail: detail.to_owned() }]
}

/// The error says which function and why.
fn call_site(
    image: &Image<'_>,
    debug: Option<&Image<'_>>,
    kind: Allocator,
    path: &LargePath,
) -> Result<CallSite, String> {
    let name = path.symbols.first().copied().unwrap_or_default();
    let not_found = |why: &str| format!("{kind}'s {name} {why}");
    let outside = || not_found("does not lie in the binary's code");
    let (range, found_by) = locate(image, debug, path).ok_or_else(|| not_found(unlocated(image)))?;
    let length = range.end.saturating_sub(range.start);
    let code = image.code(range.start, length).ok_or_else(outside)?;
    let file_offset = image.file_offset_of(range.start).ok_or_else(outside)?;
    let entry = entry_in(image, &code, range.start, &[path.size.0])
        .map_err(|refusal| not_found(&format!("is not understood ({refusal})")))?;
    let offsets = (entry.offset, file_offset.saturating_add(entry.offset));
    let call = call_site_at(path, name, found_by, offsets, entry.step, entry.instruction);
    Ok(CallSite { exits: exits::find(image, range.start), ..call })
}

fn unlocated(image: &Image<'_>) -> &'static str {
    match image.machine() {
        Machine::X86_64 => "cannot be located in its stripped binary",
        Machine::Aarch64 => {
            "cannot be located in its stripped binary, since only the code of x86-64 is followed to it"
        }
    }
}

/// Where the calls of a function begin, in the machine's code.
fn entry_in(image: &Image<'_>, code: &[u8], start: u64, arguments: &[Argument]) -> Result<Entry, Refusal> {
    match image.machine() {
        Machine::X86_64 => slide(code, start, arguments),
        Machine::Aarch64 => arm64::entry::slide(code, start, arguments),
    }
}

/// `offsets` are those in the function and in the file.
fn call_site_at(
    path: &LargePath,
    name: &str,
    found_by: FoundBy,
    offsets: (u64, u64),
    step: StepClass,
    instruction: String,
) -> CallSite {
    let id = NativeId {
        allocator: path.allocator,
        step,
        size: path.size.0,
        times: NO_ARGUMENT,
        shift: path.size.1,
        resizes: false,
        hands_on: false,
        result: path.result,
        min_kib: path.min_kib,
    };
    let (function_offset, file_offset) = offsets;
    CallSite {
        id,
        function: name.to_owned(),
        found_by,
        small: path.small,
        function_offset,
        file_offset,
        instruction,
        exits: Vec::new(),
    }
}

/// The function's bounds: by name, else by following code.
fn locate(image: &Image<'_>, debug: Option<&Image<'_>>, path: &LargePath) -> Option<(Range<u64>, FoundBy)> {
    let by_name = |image: &Image<'_>| path.symbols.iter().find_map(|name| image.function_named(name));
    if let Some(range) = by_name(image) {
        return Some((range, FoundBy::Symbol));
    }
    // The debug file's symbols have the addresses of the binary that it was split from.
    if let Some(range) = debug.and_then(by_name) {
        return Some((range, FoundBy::DebugFile));
    }
    if image.machine() != Machine::X86_64 {
        return None;
    }
    let frames = Frames::find(image)?;
    let address = path.follow?(&Follower { image, frames: &frames })?;
    Some((frames.function_from(address)?, FoundBy::Code))
}
