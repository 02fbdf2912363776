//! An executable's symbols and the names of mapped libraries into the allocator a process really uses.

use std::fmt;
use std::ops::ControlFlow;

use super::elf::Image;
use super::go::pclntab::LineTable;
use super::wording::{text, turned};

/// The allocator or runtime that serves a process's heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allocator {
    /// The Go runtime.
    Go,
    /// GNU libc malloc.
    Glibc,
    /// musl libc malloc.
    Musl,
    /// jemalloc, linked or preloaded.
    Jemalloc,
    /// mimalloc, linked or preloaded.
    Mimalloc,
    /// tcmalloc of gperftools or Google.
    Tcmalloc,
    /// Another one, which defines `malloc` itself.
    Other,
    /// None that was found.
    Unknown,
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "go",
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Jemalloc => "jemalloc",
            Self::Mimalloc => "mimalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Other => "other",
            Self::Unknown => "unknown",
        })
    }
}

/// Starts of library file names. Replacement allocators come before the libc that they sit on.
const LIBRARIES: [(&str, Allocator); 8] = [
    ("libjemalloc", Allocator::Jemalloc),
    ("libmimalloc", Allocator::Mimalloc),
    ("libtcmalloc", Allocator::Tcmalloc),
    ("ld-musl-", Allocator::Musl),
    ("libc.musl-", Allocator::Musl),
    ("libc.so.6", Allocator::Glibc),
    ("libc-2.", Allocator::Glibc),
    ("ld-linux-", Allocator::Glibc),
];

/// Symbols that only the allocator itself defines, in the order of [`LIBRARIES`]. The prefix of
/// jemalloc's is `_rjem_` in Rust builds; musl's are those of its two allocators. `__libc_malloc` is
/// not here: musl and tcmalloc define it too.
const SYMBOLS: [(&str, Allocator); 12] = [
    ("mallocx", Allocator::Jemalloc),
    ("je_mallocx", Allocator::Jemalloc),
    ("_rjem_mallocx", Allocator::Jemalloc),
    ("_rjem_je_large_palloc", Allocator::Jemalloc),
    ("je_large_palloc", Allocator::Jemalloc),
    ("mi_malloc", Allocator::Mimalloc),
    ("_mi_malloc_generic", Allocator::Mimalloc),
    ("tc_malloc", Allocator::Tcmalloc),
    ("TCMallocInternalMalloc", Allocator::Tcmalloc),
    ("__malloc_alloc_meta", Allocator::Musl),
    ("__expand_heap", Allocator::Musl),
    ("_int_malloc", Allocator::Glibc),
];

/// Decides by the strongest evidence first: the Go runtime, an allocator inside the executable or
/// mapped as a library, then the C library.
///
/// A Go program that also runs C code is a Go program here. `mapped_libraries` are paths or names.
pub fn detect(image: &Image<'_>, mapped_libraries: &[String]) -> Allocator {
    if is_go(image) {
        return Allocator::Go;
    }
    let needed = image.needed_libraries();
    let by_symbol = own_allocator(image);
    let by_library = by_libraries(mapped_libraries.iter().chain(&needed));
    let is_libc = |found: &Allocator| matches!(found, Allocator::Glibc | Allocator::Musl);
    by_symbol.filter(|found| !is_libc(found)).or(by_library).or(by_symbol).unwrap_or(Allocator::Unknown)
}

/// Whether the executable holds a Go runtime: by the linker's sections or, where there are no sections
/// at all, by the line table, which survives every kind of stripping.
pub fn is_go(image: &Image<'_>) -> bool {
    if image.has_sections() {
        [".go.buildinfo", ".note.go.buildid", ".gopclntab", ".data.rel.ro.gopclntab"]
            .iter()
            .any(|name| image.section_part(name).is_some())
    } else {
        LineTable::find(image).is_some()
    }
}

fn by_libraries<'a>(libraries: impl Iterator<Item = &'a String>) -> Option<Allocator> {
    Some(LIBRARIES.get(libraries.filter_map(|path| rank(path)).min()?)?.1)
}

/// Whose library a file is, by its name.
pub fn library_kind(path: &str) -> Option<Allocator> {
    let (start, kind) = LIBRARIES.get(rank(path)?)?;
    // The dynamic linker of glibc holds no malloc that programs use; that of musl is its libc.
    (*start != "ld-linux-").then_some(*kind)
}

/// Whether a file is neither an allocator's library by its name, nor the dynamic linker, which has a malloc of its own
/// for itself.
pub fn is_other_library(path: &str) -> bool {
    rank(path).is_none()
}

/// A library's place in [`LIBRARIES`].
fn rank(path: &str) -> Option<usize> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    // Debian's musl is called as any other C library is, in a folder of its own that `ld-musl-` links to.
    let name = if name == "libc.so" && folder.ends_with("-linux-musl") { "ld-musl-" } else { name };
    LIBRARIES.iter().position(|(start, _)| name.starts_with(start))
}

/// The allocator that the image itself defines, if any: by its symbols or, where those were stripped, by the
/// texts of its messages.
pub fn own_allocator(image: &Image<'_>) -> Option<Allocator> {
    by_symbols(image)
        .or_else(|| if image.has_symbol_table() { None } else { by_messages(image) })
        .or_else(|| exports_malloc(image).then_some(Allocator::Other))
}

/// Whether an image's `malloc` may take the place of the C library's: who defines it for others is asked by them, and by
/// the C library itself.
pub fn exports_malloc(image: &Image<'_>) -> bool {
    image.exported_functions(&["malloc", "free"]).iter().all(Option::is_some)
}

/// What each allocator says when something is wrong. A program that only talks of it has no reason to hold
/// these very words.
const MESSAGES: [(&[u8], Allocator); 3] = [
    (&turned(*b"<jemalloc>: Error in munmap(): "), Allocator::Jemalloc),
    (&turned(*b"mimalloc: warning: "), Allocator::Mimalloc),
    (&turned(*b"malloc(): corrupted top size"), Allocator::Glibc),
];
/// Of an image's data, in bytes, that is looked through for them.
const MAX_SCAN_BYTES: u64 = 64 << 20;

fn by_messages(image: &Image<'_>) -> Option<Allocator> {
    let mut left = MAX_SCAN_BYTES;
    let messages = MESSAGES.map(|(turned, _)| text(turned));
    let needles = messages.each_ref().map(Vec::as_slice);
    image.data_segments().find_map(|(_, data)| {
        let part = data.first(left);
        left -= part.len();
        let found = part.search(&needles, |_, index| ControlFlow::Break(index));
        Some(MESSAGES.get(found?)?.1)
    })
}

fn by_symbols(image: &Image<'_>) -> Option<Allocator> {
    let rank = image.first_defined(&SYMBOLS.map(|(symbol, _)| symbol))?;
    Some(SYMBOLS.get(rank)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::elf::tests::tiny_image;

    #[test]
    fn libraries_name_the_allocator_and_replacements_win() {
        let file = tiny_image(&[0xc3]);
        let image = Image::parse(&file).unwrap();
        let found = |names: &[&str]| detect(&image, &names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>());
        assert_eq!(found(&["/usr/lib/x86_64-linux-gnu/libc.so.6"]), Allocator::Glibc);
        assert_eq!(found(&["/lib/libc-2.31.so"]), Allocator::Glibc);
        assert_eq!(found(&["/lib/ld-musl-x86_64.so.1"]), Allocator::Musl);
        assert_eq!(found(&["/usr/lib/x86_64-linux-musl/libc.so"]), Allocator::Musl);
        assert_eq!(found(&["/system/lib64/libc.so"]), Allocator::Unknown);
        assert_eq!(found(&["/lib/libc.so.6", "/usr/lib/libjemalloc.so.2"]), Allocator::Jemalloc);
        assert_eq!(found(&["libmimalloc.so.2.0", "libc.so.6"]), Allocator::Mimalloc);
        assert_eq!(found(&["libtcmalloc_minimal.so.4", "libc.so.6"]), Allocator::Tcmalloc);
        assert_eq!(found(&["libm.so.6"]), Allocator::Unknown);
    }

    #[test]
    fn this_program_holds_no_allocators_messages() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(by_messages(&Image::parse(&file).unwrap()), None);
    }

    #[test]
    fn this_test_binary_runs_on_glibc() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(detect(&Image::parse(&file).unwrap(), &[]), Allocator::Glibc);
    }
}
