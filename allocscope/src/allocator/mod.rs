//! ELF bytes into the allocators and runtimes in use and the functions of their large-object paths.

pub mod argument;
pub mod detect;
pub mod elf;
pub mod frames;
pub mod go;
pub mod native;
pub mod provider;
pub mod source;
mod wording;

use std::fmt::Write as _;

use self::detect::Allocator;
use self::elf::{Image, ImageError};
use self::go::version::GoVersion;
use self::native::Depth;
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
    /// How deep the allocator is seen into: `large-path` with sites in its large-object path, `provider` where the
    /// program tells of its own memory only, else `kernel`, which is mmap, brk and page faults.
    pub fn tier(&self) -> &'static str {
        if self.plan.is_empty() || self.plan.is_foreign {
            "kernel"
        } else if self.plan.is_told_only() {
            "provider"
        } else {
            "large-path"
        }
    }
}

/// What an examination goes by beside the file itself.
pub struct Request<'a> {
    /// The paths of what the process maps; without a process the libraries the executable asks for count.
    pub libraries: &'a [String],
    /// Finds the separate debug file of a build-id.
    pub debug_file: &'a dyn Fn(&str) -> Option<Box<dyn ByteSource>>,
    /// Which functions of native allocators are probed.
    pub depth: Depth,
    /// Whether Go's runtime is probed beside its large-object path.
    pub go_runtime: bool,
}

impl Default for Request<'_> {
    /// No process, no debug files, large paths.
    fn default() -> Self {
        Self { libraries: &[], debug_file: &|_| None, depth: Depth::default(), go_runtime: false }
    }
}

/// Examines an executable, of which it reads no more than it needs.
pub fn examine(exe: impl ByteSource, request: &Request<'_>) -> Result<Examination, ImageError> {
    let image = Image::parse(exe)?;
    let kind = detect::detect(&image, request.libraries);
    let (go_version, exit, plan) = if kind == Allocator::Go {
        let found = go::examine(&image, request.go_runtime);
        (found.version, found.exit, found.plan)
    } else {
        (None, None, native_plan(&image, kind, request))
    };
    let plan = for_this_machine(&image, with_provider(&image, plan));
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

/// Plans the probes of an allocator's library.
pub fn examine_library(
    library: impl ByteSource,
    kind: Allocator,
    request: &Request<'_>,
) -> Result<Plan, ImageError> {
    let image = Image::parse(library)?;
    let plan = with_provider(&image, plan_with_debug_file(&image, kind, request));
    Ok(for_this_machine(&image, plan))
}

/// A library whose name is not one of an allocator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherLibrary {
    /// Whether it is an allocator's all the same.
    pub is_allocator: bool,
    /// Its probe sites.
    pub plan: Plan,
}

/// Plans the probes of a library whose name is not one of an allocator's: those that its program tells of its own memory
/// by, and those of its malloc if it has one.
pub fn examine_other(library: impl ByteSource, request: &Request<'_>) -> Result<OtherLibrary, ImageError> {
    let image = Image::parse(library)?;
    let is_allocator = detect::exports_malloc(&image);
    let own = if is_allocator {
        native::plan(&image, None, Allocator::Other, request.depth)
    } else {
        Plan::default()
    };
    Ok(OtherLibrary { is_allocator, plan: for_this_machine(&image, with_provider(&image, own)) })
}

fn with_provider(image: &Image<'_>, mut plan: Plan) -> Plan {
    provider::add(image, &mut plan);
    plan
}

/// A plan for code that cannot run here, or that the kernel side could not read the registers of, is for reports.
fn for_this_machine(image: &Image<'_>, mut plan: Plan) -> Plan {
    plan.is_foreign = !image.machine().is_probed_here();
    if plan.is_foreign {
        let machine = image.machine();
        let detail = format!(
            "the binary is for {machine}: its sites are told, and probes are attached to x86-64 on x86-64 only"
        );
        plan.misses.push(Miss { reason: "machine_differs", detail });
    }
    plan
}

/// Of an allocator that the executable itself holds; one in a library is planned with that.
fn native_plan(image: &Image<'_>, kind: Allocator, request: &Request<'_>) -> Plan {
    match detect::own_allocator(image) {
        Some(own) => plan_with_debug_file(image, own, request),
        // A static executable without symbols.
        None if kind == Allocator::Unknown || !image.is_dynamic() => {
            native::plan(image, None, kind, request.depth)
        }
        None => Plan::default(),
    }
}

fn plan_with_debug_file(image: &Image<'_>, kind: Allocator, request: &Request<'_>) -> Plan {
    let build_id = image.build_id();
    let debug = build_id.as_deref().map(hexadecimal).and_then(|id| (request.debug_file)(&id));
    let debug_image = debug.and_then(|source| Image::parse(source).ok());
    // A debug file of another build has other addresses.
    let debug_image = debug_image.filter(|debug| debug.build_id() == build_id);
    native::plan(image, debug_image.as_ref(), kind, request.depth)
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
        let found = examine(&file, &Request::default()).unwrap();
        assert_eq!((found.allocator.as_str(), found.tier(), found.stripped), ("glibc", "provider", false));
        // Its pools tell of their memory, in the tests of `pool`.
        assert!(found.plan.misses.is_empty() && found.plan.is_told_only());
    }

    #[test]
    fn a_go_binary_is_labelled_with_its_version() {
        let found = {
            let libraries = ["/lib/libc.so.6".to_owned()];
            let request = Request { libraries: &libraries, ..Request::default() };
            examine(&go::tests::go_file("go1.22.10 X:arenas"), &request).unwrap()
        };
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
            assert!(examine(&file[..len], &Request::default()).is_err());
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
            let _ = examine(&file, &Request::default());
        }
    }

    #[test]
    fn other_files_are_errors() {
        assert_eq!(examine(b"", &Request::default()).err(), Some(ImageError::NotElf));
        assert_eq!(examine(b"\x7fELF", &Request::default()).err(), Some(ImageError::Truncated));
    }
}
