//! A stack without the allocator's own functions, which are the same for all: who asked for the memory comes first.

use super::Place;
use std::collections::HashMap;

/// Names of functions by place, the innermost first.
pub type PlaceNames = HashMap<Place, Vec<String>>;

/// How the names of functions begin that allocate for others: of Go's runtime, C libraries, jemalloc, mimalloc,
/// tcmalloc, C++ and Rust.
const PREFIXES: [&str; 46] = [
    "runtime.",
    "malloc",
    "calloc",
    "realloc",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "cfree",
    "__GI_",
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_memalign",
    "__libc_mallopt",
    "__posix_memalign",
    "_int_",
    "sysmalloc",
    "tcache_",
    "ptmalloc_init",
    "__glibc_morecore",
    "_mid_memalign",
    "alloc_mmap",
    "__malloc",
    "mmap",
    "__mmap",
    "mremap",
    "__mremap",
    "brk",
    "__brk",
    "sbrk",
    "__sbrk",
    "je_",
    "mallocx",
    "rallocx",
    "mi_",
    "_mi_",
    "tc_",
    "tcmalloc::",
    "operator new",
    "__rust_alloc",
    "__rdl_",
    "__rustc",
    "alloc::alloc::",
    "alloc::raw_vec::",
];

/// Parts of such names, of types whose functions are many.
const PARTS: [&str; 7] = [
    "alloc::alloc::Global",
    "std::allocator<",
    "__gnu_cxx::new_allocator",
    "std::__new_allocator<",
    "(anonymous namespace)::do_malloc",
    "as core::alloc::global::GlobalAlloc>",
    "std::allocator_traits<",
];

/// Whether a function allocates for others.
fn allocates(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || PARTS.iter().any(|part| name.contains(part))
}

/// The places on a stack, the innermost first, from the one on that asked for memory; of the first, how many functions
/// that are inlined there are the allocator's. A stack of such functions alone stays whole.
pub fn callers(places: &[Place], names: &PlaceNames) -> Vec<(Place, usize)> {
    for (index, place) in places.iter().enumerate() {
        let names = names.get(place).map_or(&[][..], Vec::as_slice);
        if let Some(first) = names.iter().position(|name| !allocates(name)) {
            let first = std::iter::once((*place, first));
            return first.chain(places.iter().skip(index + 1).map(|place| (*place, 0))).collect();
        }
    }
    places.iter().map(|place| (*place, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: u64) -> Place {
        Place { module: 0, address }
    }

    fn names(stack: &[&[&str]]) -> PlaceNames {
        let one = |(address, names): (usize, &&[&str])| {
            (place(address as u64), names.iter().map(|&name| name.to_owned()).collect())
        };
        stack.iter().enumerate().map(one).collect()
    }

    #[test]
    fn the_allocator_is_left_out_at_the_inner_end_only() {
        let places: Vec<_> = (0..4).map(place).collect();
        let go: [&[&str]; 4] =
            [&["runtime.mallocgcLarge"], &["runtime.makeslice"], &["main.load"], &["runtime.main"]];
        assert_eq!(callers(&places, &names(&go)), [(place(2), 0), (place(3), 0)]);
        let rust: [&[&str]; 4] = [&["malloc"], &["__rust_alloc", "shop::load"], &["shop::main"], &["main"]];
        assert_eq!(callers(&places, &names(&rust)), [(place(1), 1), (place(2), 0), (place(3), 0)]);
    }

    #[test]
    fn a_stack_of_nothing_else_stays_whole() {
        let places: Vec<_> = (0..2).map(place).collect();
        let names = names(&[&["malloc"], &["runtime.main"]]);
        assert_eq!(callers(&places, &names), [(place(0), 0), (place(1), 0)]);
        assert!(callers(&[], &names).is_empty());
    }
}
