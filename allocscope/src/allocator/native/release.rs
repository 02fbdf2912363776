//! An allocator into the function that its large objects, and none of its small ones, are given back through.
//!
//! Of glibc and mimalloc there is none, so their objects end when their addresses serve again. `mi_free` serves all
//! sizes, and so does glibc's `_int_free`, which holds the thread cache: a Python program that parses JSON passed it
//! 192,744 times for 283 blocks of 32 KiB or more, `git log --stat` 12,777 times for 1,266. What only
//! large blocks pass (`munmap_chunk`, `systrim`, `heap_trim`) is a system call's work, which is seen.

use allocscope_common::key;
use allocscope_common::native_id::NativeResult;

use super::super::detect::Allocator;
use super::{LargePath, jemalloc, linked};
use crate::site::SmallCalls;

/// `large_dalloc(tsdn_t *, edata_t *)`: each object that thread caches do not take (jemalloc 5, large.c).
const JEMALLOC: LargePath = LargePath {
    allocator: key::Allocator::Jemalloc,
    symbols: &["je_large_dalloc", "_rjem_je_large_dalloc", "large_dalloc"],
    size: (1, 0),
    result: NativeResult::FreedExtent,
    min_kib: 0,
    small: SmallCalls::Never,
    follow: &[jemalloc::large_dalloc, linked::jemalloc::large_dalloc],
};

/// `tcmalloc::PageHeap::Delete(Span *)` of gperftools: objects above 256 KiB, and spans that its caches give back.
const TCMALLOC: LargePath = LargePath {
    allocator: key::Allocator::Tcmalloc,
    symbols: &["_ZN8tcmalloc8PageHeap6DeleteEPNS_4SpanE"],
    size: (1, 0),
    result: NativeResult::FreedSpan,
    min_kib: 0,
    small: SmallCalls::Uncached,
    follow: &[],
};

/// Where an allocator's large objects are given back; `None` where small ones pass the same places.
pub fn large_path(kind: Allocator) -> Option<&'static LargePath> {
    match kind {
        Allocator::Jemalloc => Some(&JEMALLOC),
        Allocator::Tcmalloc => Some(&TCMALLOC),
        _ => None,
    }
}
