//! An allocator's exported functions into probes of each, which small calls pass as well: the tier `filtered`.

use std::collections::BTreeSet;

use allocscope_common::key;
use allocscope_common::native_id::{Argument, NO_ARGUMENT, NativeId, NativeResult};

use super::super::detect::Allocator;
use super::super::elf::Image;
use super::entry_in;
use crate::site::{CallSite, FoundBy, Miss, Plan, SmallCalls};

/// A function of the C library's allocation family: its name, the argument with the size or with what is given
/// back, the one to multiply it with, and what it returns.
struct Exported(&'static str, Argument, Argument, NativeResult);

/// stdlib.h and malloc.h. `operator new` is not here: it throws, and a return probe in the way of an exception
/// ends the program.
const FAMILY: [Exported; 10] = [
    MALLOC,
    Exported("calloc", 1, 0, NativeResult::Pointer),
    Exported("realloc", 1, NO_ARGUMENT, NativeResult::Pointer),
    Exported("reallocarray", 2, 1, NativeResult::Pointer),
    Exported("aligned_alloc", 1, NO_ARGUMENT, NativeResult::Pointer),
    Exported("memalign", 1, NO_ARGUMENT, NativeResult::Pointer),
    Exported("valloc", 0, NO_ARGUMENT, NativeResult::Pointer),
    Exported("pvalloc", 0, NO_ARGUMENT, NativeResult::Pointer),
    Exported("posix_memalign", 2, NO_ARGUMENT, NativeResult::Status),
    Exported("free", 0, NO_ARGUMENT, NativeResult::FreedPointer),
];

const MALLOC: Exported = Exported("malloc", 0, NO_ARGUMENT, NativeResult::Pointer);

/// Those whose first argument is memory that they may move.
const RESIZING: [&str; 2] = ["realloc", "reallocarray"];

/// Where the result of `posix_memalign` goes, and what `realloc` is given.
const FIRST: Argument = 0;

/// Plans a probe of each function that `image` defines; two names of one function are one. What `malloc` does is seen at
/// `in_place_of_malloc` if there is such a place.
pub fn plan(image: &Image<'_>, kind: Allocator, in_place_of_malloc: Option<CallSite>) -> Plan {
    let Some(allocator) = name_of(kind) else {
        let detail = format!("no allocator that could be filtered was found ({kind})");
        return Plan::missed(Miss { reason: "allocator_path_not_probed", detail });
    };
    let left_alone = in_place_of_malloc.as_ref().and_then(|_| image.function_named(MALLOC.0));
    let mut seen: BTreeSet<u64> = left_alone.iter().map(|range| range.start).collect();
    let mut plan = Plan { calls: Vec::from_iter(in_place_of_malloc), ..Plan::default() };
    for exported in &FAMILY {
        let Some(range) = image.function_named(exported.0) else { continue };
        if !seen.insert(range.start) {
            continue;
        }
        match call_site(image, allocator, exported, range.start, range.end.saturating_sub(range.start)) {
            Ok(call) => plan.calls.push(call),
            Err(why) => plan.misses.push(Miss {
                reason: "allocator_path_not_found",
                detail: format!("{kind}'s {} is not probed: {why}", exported.0),
            }),
        }
    }
    if matches!(kind, Allocator::Jemalloc | Allocator::Mimalloc | Allocator::Tcmalloc | Allocator::Other) {
        plan.misses.push(Miss {
            reason: "operator_new_not_probed",
            detail: format!("{kind}: an operator new of its own throws, and gets no return probe"),
        });
    }
    plan
}

fn name_of(kind: Allocator) -> Option<key::Allocator> {
    match kind {
        Allocator::Glibc => Some(key::Allocator::Glibc),
        Allocator::Jemalloc => Some(key::Allocator::Jemalloc),
        Allocator::Mimalloc => Some(key::Allocator::Mimalloc),
        Allocator::Tcmalloc => Some(key::Allocator::Tcmalloc),
        Allocator::Musl => Some(key::Allocator::Musl),
        Allocator::Other => Some(key::Allocator::Other),
        Allocator::Go | Allocator::Unknown => None,
    }
}

fn call_site(
    image: &Image<'_>,
    allocator: key::Allocator,
    exported: &Exported,
    start: u64,
    length: u64,
) -> Result<CallSite, String> {
    let &Exported(name, size, times, result) = exported;
    let outside = || "it does not lie in the binary's code".to_owned();
    let code = image.code(start, length).ok_or_else(outside)?;
    let file_offset = image.file_offset_of(start).ok_or_else(outside)?;
    let resizes = RESIZING.contains(&name);
    let first = if resizes || result == NativeResult::Status { FIRST } else { NO_ARGUMENT };
    let kept: Vec<Argument> =
        [size, times, first].into_iter().filter(|&argument| argument != NO_ARGUMENT).collect();
    let entry = entry_in(image, &code, start, &kept).map_err(|refusal| refusal.to_string())?;
    // A glibc pointer has its chunk's header in front of it, whichever function returned it.
    let result = match (allocator, result) {
        (key::Allocator::Glibc, NativeResult::Pointer) => NativeResult::GlibcChunk,
        (_, result) => result,
    };
    let (step, hands_on) = (entry.step, entry.hands_on);
    let id = NativeId { allocator, step, size, times, shift: 0, resizes, hands_on, result, min_kib: 0 };
    Ok(CallSite {
        id,
        function: name.to_owned(),
        found_by: FoundBy::Symbol,
        small: SmallCalls::Always,
        function_offset: entry.offset,
        file_offset: file_offset.saturating_add(entry.offset),
        instruction: entry.instruction,
        exits: Vec::new(),
    })
}
