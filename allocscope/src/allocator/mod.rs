//! ELF bytes into the allocators and runtimes in use and the functions of their large-object paths.

pub mod detect;
pub mod elf;
pub mod go;
pub mod source;

use std::fmt::Write as _;

use self::detect::Allocator;
use self::elf::{Image, ImageError};
use self::go::version::GoVersion;
use self::source::ByteSource;
use crate::site::go::ExitChoice;
use crate::site::{Miss, Plan};

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
        if self.plan.sites.is_empty() { "kernel" } else { "large-path" }
    }
}

/// Examines an executable, of which it reads no more than it needs. `mapped_libraries` are the paths of what the process maps;
/// without a process the libraries the executable asks for are used.
pub fn examine(exe: impl ByteSource, mapped_libraries: &[String]) -> Result<Examination, ImageError> {
    let image = Image::parse(exe)?;
    let kind = detect::detect(&image, mapped_libraries);
    let (go_version, exit, plan) = if kind == Allocator::Go {
        let found = go::examine(&image);
        (found.version, found.exit, found.plan)
    } else {
        (None, None, Plan { sites: Vec::new(), misses: vec![not_probed(kind)] })
    };
    Ok(Examination {
        kind,
        allocator: go_version.as_ref().map_or_else(|| kind.to_string(), ToString::to_string),
        go_version,
        stripped: !image.has_symbol_table(),
        build_id: image.build_id().as_deref().map(hexadecimal),
        exit,
        plan,
    })
}

fn not_probed(kind: Allocator) -> Miss {
    let subject = match kind {
        Allocator::Unknown => "no known allocator was found".to_owned(),
        _ => format!("no probe sites are known in {kind}"),
    };
    let detail = format!(
        "{subject}: a large allocation that its heap already holds memory for is not seen, only mmap, brk and page faults"
    );
    Miss { reason: "allocator_path_not_probed", detail }
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
    fn this_test_binary_is_left_to_the_kernel() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = examine(&file, &[]).unwrap();
        assert_eq!((found.allocator.as_str(), found.tier(), found.stripped), ("glibc", "kernel", false));
        assert_eq!(found.plan.misses.len(), 1);
        assert_eq!(found.plan.misses[0].reason, "allocator_path_not_probed");
    }

    #[test]
    fn a_go_binary_is_labelled_with_its_version() {
        let found = examine(&go::tests::go_file("go1.22.10 X:arenas"), &["/lib/libc.so.6".into()]).unwrap();
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
            assert!(examine(&file[..len], &[]).is_err());
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
            let _ = examine(&file, &[]);
        }
    }

    #[test]
    fn other_files_are_errors() {
        assert_eq!(examine(b"", &[]).err(), Some(ImageError::NotElf));
        assert_eq!(examine(b"\x7fELF", &[]).err(), Some(ImageError::Truncated));
    }
}
