//! A native allocator's binary into the function that its large objects come from.
//!
//! The function is internal to the allocator, below its thread caches, so that small objects do not pass it.
//! Its address comes from the binary's symbols, else from its debug file's, else from the code of the exported
//! functions, which is followed to it, or where nothing is exported from what only its code holds; that names what was
//! recognised and refuses where anything is in doubt.

mod exits;
mod exported;
mod follow;
mod glibc;
mod jemalloc;
mod linked;
mod mimalloc;
mod release;
mod scan;

use std::cell::OnceCell;
use std::ops::Range;

use allocscope_common::key;
use allocscope_common::native_id::{Argument, NO_ARGUMENT, NativeId, NativeResult};
use allocscope_common::site_id::StepClass;

use self::follow::Follower;
use super::detect::Allocator;
use super::elf::{Image, Machine};
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
    /// Find it in a stripped library, or a stripped executable that the allocator is linked into; in this order.
    follow: &'static [fn(&Follower<'_>) -> Option<u64>],
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
    follow: &[glibc::int_malloc, linked::glibc::int_malloc],
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
    follow: &[jemalloc::large_palloc, linked::jemalloc::large_palloc],
};

/// `large_malloc(tsdn, arena, usize, zero)` where the compiler has put all of the other one into it, as clang guided
/// by profiles did for rustc 1.95.
const JEMALLOC_WHOLE: LargePath = LargePath {
    symbols: &["je_large_malloc", "_rjem_je_large_malloc", "large_malloc"],
    follow: &[],
    ..JEMALLOC
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
    follow: &[mimalloc::malloc_generic, linked::mimalloc::malloc_generic],
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
    follow: &[],
};

/// Plans the probes of the allocator `kind`, which `image` holds. `debug` is its separate debug file.
pub fn plan(image: &Image<'_>, debug: Option<&Image<'_>>, kind: Allocator, depth: Depth) -> Plan {
    let binary = Binary { image, debug, follower: OnceCell::new() };
    match (large_path(kind), depth) {
        (Ok(path), _) if kind == Allocator::Mimalloc => mimalloc::plan(&binary, path, depth),
        (_, Depth::Filtered { min_bytes }) => filtered(&binary, kind, min_bytes),
        (Ok(path), Depth::LargePath) => plan_one(&binary, kind, path),
        (Err(why), Depth::LargePath) => {
            Plan::missed(Miss { reason: "allocator_path_not_probed", detail: why })
        }
    }
}

/// glibc's `malloc` is left alone where all blocks of interest come from below its thread caches: what these serve, most
/// small blocks, then passes no probe on its way out.
fn filtered(binary: &Binary<'_>, kind: Allocator, min_bytes: u64) -> Plan {
    let is_below = kind == Allocator::Glibc && min_bytes > glibc::MAX_CACHED_BYTES;
    let below_caches = is_below.then(|| call_site(binary, kind, &GLIBC).ok()).flatten();
    let all = exported::plan(binary.image, kind, below_caches);
    // Without names, or under a prefix of the build's, its large path is still there.
    let path = large_path(kind).ok().filter(|_| all.calls.is_empty());
    path.map_or(all, |path| plan_one(binary, kind, path))
}

/// What holds an allocator.
struct Binary<'a> {
    image: &'a Image<'a>,
    debug: Option<&'a Image<'a>>,
    follower: OnceCell<Option<Follower<'a>>>,
}

impl<'a> Binary<'a> {
    /// Set up when its code is followed for the first time.
    fn follower(&self) -> Option<&Follower<'a>> {
        self.follower.get_or_init(|| Follower::new(self.image)).as_ref()
    }
}

fn plan_one(binary: &Binary<'_>, kind: Allocator, path: &LargePath) -> Plan {
    let call = match call_site(binary, kind, path) {
        Ok(call) => call,
        Err(why) => {
            let detail = format!("{why}: only mmap, brk and page faults are seen");
            return Plan::missed(Miss { reason: "allocator_path_not_found", detail });
        }
    };
    let mut plan = Plan { calls: vec![call], misses: blind_spots(kind), ..Plan::default() };
    if kind == Allocator::Jemalloc && jemalloc_is_whole(binary) {
        plan.calls.extend(call_site(binary, kind, &JEMALLOC_WHOLE));
        plan.misses.push(Miss { reason: "functions_not_seen", detail: INLINED.to_owned() });
    }
    match release::large_path(kind).map(|path| call_site(binary, kind, path)) {
        Some(Ok(release)) => plan.calls.push(release),
        Some(Err(why)) => {
            let detail = format!("{why}: when large objects are freed is not seen");
            plan.misses.push(Miss { reason: "release_not_seen", detail });
        }
        None => {}
    }
    plan
}

/// rustc's `malloc` made 1,420 objects above 32 KiB and called neither function for any of them.
const INLINED: &str = "in this build of jemalloc the compiler has put large_palloc into functions that call it: what \
     malloc, calloc and realloc allocate there is not seen, or in part";

/// Whether `large_malloc` has a name and does not lead to `large_palloc`: its objects would be missed, and else be
/// counted twice.
fn jemalloc_is_whole(binary: &Binary<'_>) -> bool {
    let Some((whole, _)) = locate(binary, &JEMALLOC_WHOLE) else { return false };
    let (Some((palloc, _)), Some(follower)) = (locate(binary, &JEMALLOC), binary.follower()) else {
        return false;
    };
    let callees = follower.function(whole.start).and_then(|range| follower.callees(&range));
    callees.is_some_and(|callees| !callees.contains_key(&palloc.start))
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
fn call_site(binary: &Binary<'_>, kind: Allocator, path: &LargePath) -> Result<CallSite, String> {
    let image = binary.image;
    let name = path.symbols.first().copied().unwrap_or_default();
    let not_found = |why: &str| format!("{kind}'s {name} {why}");
    let outside = || not_found("does not lie in the binary's code");
    let (range, found_by) = locate(binary, path).ok_or_else(|| not_found(unlocated(image)))?;
    let length = range.end.saturating_sub(range.start);
    let code = image.code(range.start, length).ok_or_else(outside)?;
    let file_offset = image.file_offset_of(range.start).ok_or_else(outside)?;
    let entry = entry_in(image, &code, range.start, &[path.size.0])
        .map_err(|refusal| not_found(&format!("is not understood ({refusal})")))?;
    let offsets = (entry.offset, file_offset.saturating_add(entry.offset));
    let call = call_site_at(path, name, found_by, offsets, entry.step, entry.instruction);
    let exits = binary.follower().and_then(|follower| exits::find(follower, range.start));
    Ok(CallSite { exits: exits.unwrap_or_default(), ..call })
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

/// The function's bounds: by name, else by its code.
fn locate(binary: &Binary<'_>, path: &LargePath) -> Option<(Range<u64>, FoundBy)> {
    let by_name = |image: &Image<'_>| path.symbols.iter().find_map(|name| image.function_named(name));
    if let Some(range) = by_name(binary.image) {
        return Some((range, FoundBy::Symbol));
    }
    // The debug file's symbols have the addresses of the binary that it was split from.
    if let Some(range) = binary.debug.and_then(by_name) {
        return Some((range, FoundBy::DebugFile));
    }
    if binary.image.machine() != Machine::X86_64 {
        return None;
    }
    let follower = binary.follower()?;
    let address = path.follow.iter().find_map(|follow| follow(follower))?;
    Some((follower.function(address)?, FoundBy::Code))
}
