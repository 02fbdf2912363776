//! ELF bytes into the allocators and runtimes in use and the functions of their large-object paths.

pub mod detect;
pub mod elf;
pub mod frames;
pub mod go;
pub mod native;

use std::fmt::Write as _;

use self::detect::Allocator;
use self::elf::{Image, ImageError};
use self::go::version::GoVersion;
use crate::site::Plan;
use crate::site::go::ExitChoice;

/// What is known about a process from its executable and the libraries it maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// The allocator or runtime.
    pub kind: Allocator,
    /// The same for people and labels, with a version where it is known: `go1.22.10`, `glibc`.
    pub allocator: String,
    /// The Go toolchain's version.
    pub go_version: Option<GoVersion>,
    /// Whether the executable has no symbol table.
    pub stripped: bool,
    /// The GNU build-id in hexadecimal.
    pub build_id: Option<String>,
    /// How the end of a call is seen, where there are sites.
    pub exit: Option<ExitChoice>,
    /// The probe sites, and what they do not cover.
    pub plan: Plan,
}

impl Examination {
    /// How deep the allocator is seen into: `large-path` with sites in its large-object path, else
    /// `kernel`, which is mmap, brk and page faults.
    pub fn tier(&self) -> &'static str {
        if self.plan.is_empty() { "kernel" } else { "large-path" }
    }
}

/// Examines the bytes of an executable. `mapped_libraries` are the paths of what the process maps;
/// without a process the libraries the executable asks for are used. `debug_file` finds the separate
/// debug file of a build-id.
pub fn examine(
    exe: &[u8],
    mapped_libraries: &[String],
    debug_file: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Result<Examination, ImageError> {
    let image = Image::parse(exe)?;
    let kind = detect::detect(&image, mapped_libraries);
    let (go_version, exit, plan) = if kind == Allocator::Go {
        let found = go::examine(&image);
        (found.version, found.exit, found.plan)
    } else {
        (None, None, native_plan(&image, kind, debug_file))
    };
    Ok(Examination {
        kind,
        allocator: go_version.as_ref().map_or_else(|| kind.to_string(), ToString::to_string),
        go_version,
        stripped: !image.has_symbol_table(),
        build_id: image.build_id().map(hexadecimal),
        exit,
        plan,
    })
}

/// Plans the probes of an allocator's library.
pub fn examine_library(
    library: &[u8],
    kind: Allocator,
    debug_file: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Result<Plan, ImageError> {
    let image = Image::parse(library)?;
    Ok(plan_with_debug_file(&image, kind, debug_file))
}

/// Of an allocator that the executable itself holds; one in a library is planned with that.
fn native_plan(image: &Image<'_>, kind: Allocator, debug_file: impl FnOnce(&str) -> Option<Vec<u8>>) -> Plan {
    match detect::own_allocator(image) {
        Some(own) => plan_with_debug_file(image, own, debug_file),
        // A static executable without symbols, or one that only says which library it wants.
        None if kind == Allocator::Unknown || !image.is_dynamic() => native::plan(image, None, kind),
        None => Plan::default(),
    }
}

fn plan_with_debug_file(
    image: &Image<'_>,
    kind: Allocator,
    debug_file: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Plan {
    let build_id = image.build_id().map(hexadecimal);
    let debug = build_id.as_deref().and_then(debug_file);
    let debug_image = debug.as_deref().and_then(|bytes| Image::parse(bytes).ok());
    // A debug file of another build has other addresses.
    let same_build = |debug: &Image<'_>| debug.build_id().map(hexadecimal) == build_id;
    native::plan(image, debug_image.as_ref().filter(|debug| same_build(debug)), kind)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_test_binary_is_left_to_its_library() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = examine(&file, &[], |_| None).unwrap();
        assert_eq!((found.allocator.as_str(), found.tier(), found.stripped), ("glibc", "kernel", false));
        assert!(found.plan.misses.is_empty() && found.plan.is_empty());
    }

    #[test]
    fn a_go_binary_is_labelled_with_its_version() {
        let found =
            examine(&go::tests::go_file("go1.22.10 X:arenas"), &["/lib/libc.so.6".into()], |_| None).unwrap();
        assert_eq!(
            (found.kind, found.allocator.as_str(), found.tier()),
            (Allocator::Go, "go1.22.10", "large-path")
        );
        assert!(found.stripped && found.build_id.is_none());
    }

    #[test]
    fn a_truncated_real_file_does_not_panic() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let lengths = (0..4096).step_by(61).chain((1..16).map(|part| file.len() / 16 * part));
        for len in lengths {
            assert!(examine(&file[..len], &[], |_| None).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn damaged_headers_do_not_panic(flips in proptest::collection::vec((0usize..1024, any::<u8>()), 1..6)) {
            let mut file = std::fs::read("/proc/self/exe").unwrap();
            for (at, byte) in flips {
                file[at] = byte;
            }
            let _ = examine(&file, &[], |_| None);
        }
    }

    #[test]
    fn other_files_are_errors() {
        assert_eq!(examine(b"", &[], |_| None).err(), Some(ImageError::NotElf));
        assert_eq!(examine(b"\x7fELF", &[], |_| None).err(), Some(ImageError::Truncated));
    }
}
