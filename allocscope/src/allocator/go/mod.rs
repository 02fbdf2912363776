//! A Go binary into its version and the probe sites of its large-object path.

pub mod buildinfo;
pub mod pclntab;
pub mod version;

use std::ops::Range;

use allocscope_common::site_id::Function;

use self::buildinfo::BuildInfo;
use self::pclntab::LineTable;
use self::version::GoVersion;
use super::elf::{Image, Machine};
use crate::site::go::{CallSites, Code, ExitChoice, LastCall, plan_call};
use crate::site::{Miss, Plan};

/// Serves every object above 32 KiB and none below.
const ALLOC_LARGE: &str = "runtime.(*mcache).allocLarge";

/// Since 1.22 the last call of `allocLarge`, `(*mspan).initHeapBits`, takes constant time for a large
/// object. Before, it cleared a bitmap of 1/64 (1.19: 1/32) of the object's size, and still does in
/// a 1.22 built with the experiment below (`runtime/mbitmap*.go`).
const CHEAP_LAST_CALL_MINOR: u16 = 22;
const OLD_BITMAP_EXPERIMENT: &str = "noallocheaders";

/// What a Go executable says about itself, and the probes that follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GoExamination {
    /// The toolchain's version, where it is known.
    pub version: Option<GoVersion>,
    /// Which exit was chosen, where there are sites.
    pub exit: Option<ExitChoice>,
    /// Sites and misses.
    pub plan: Plan,
}

/// Plans the probes of a Go executable.
pub fn examine(image: &Image<'_>) -> GoExamination {
    let info = BuildInfo::find(image);
    let version = info.as_ref().and_then(|info| GoVersion::parse(&info.version));
    let mut misses: Vec<_> = c_code_miss(image).into_iter().collect();
    let planned = match plan_large_path(image, info.as_ref(), version.as_ref()) {
        Ok(planned) => Some(planned),
        Err(miss) => {
            misses.push(miss);
            None
        }
    };
    let exit = planned.as_ref().map(|planned| planned.exit);
    let sites = planned.map(|planned| planned.sites).unwrap_or_default();
    GoExamination { version, exit, plan: Plan { sites, misses, ..Plan::default() } }
}

fn plan_large_path(
    image: &Image<'_>,
    info: Option<&BuildInfo>,
    version: Option<&GoVersion>,
) -> Result<CallSites, Miss> {
    if image.machine() != Machine::X86_64 {
        return Err(miss(
            "machine_unsupported",
            "probe sites are planned for x86-64 only, and this is an AArch64 binary",
        ));
    }
    let version = version.ok_or_else(|| match info.map(|info| info.version.as_str()) {
        Some(text) if !text.is_empty() => {
            miss("go_version_unknown", format!("the toolchain calls itself {text:?}, which is no Go release"))
        }
        Some(_) => miss("go_version_unsupported", "built by Go before 1.18; 1.19 to 1.27 are supported"),
        None => miss("go_version_unknown", "the binary has no Go build information"),
    })?;
    if !version.is_supported() {
        return Err(miss(
            "go_version_unsupported",
            format!("built by {version}; 1.19 to 1.27 are supported"),
        ));
    }
    let code = locate(image)?;
    plan_call(code, last_call_of(version, info))
        .map_err(|refusal| miss("go_code_not_understood", format!("{ALLOC_LARGE} is not probed: {refusal}")))
}

fn last_call_of(version: &GoVersion, info: Option<&BuildInfo>) -> LastCall {
    let old_bitmap = info.is_some_and(|info| info.version.contains(OLD_BITMAP_EXPERIMENT));
    if version.minor >= CHEAP_LAST_CALL_MINOR && !old_bitmap {
        LastCall::Negligible
    } else {
        LastCall::Counts
    }
}

/// The code of `allocLarge`: by the symbol table where there is one, else by the line table.
fn locate<'a>(image: &Image<'a>) -> Result<Code<'a>, Miss> {
    let not_found = |why| miss("go_function_not_found", format!("{ALLOC_LARGE} cannot be located: {why}"));
    let range = match image.function_symbol(ALLOC_LARGE) {
        Some(range) => range,
        None => {
            let lines = LineTable::find(image)
                .ok_or_else(|| not_found("the binary has neither its symbol nor a line table"))?;
            let text = lines.text_start(image).ok_or_else(|| {
                not_found("the binary does not say where the code of its line table starts")
            })?;
            lines.function(text, ALLOC_LARGE).ok_or_else(|| not_found("it is not in the line table"))?
        }
    };
    code_of(image, range).ok_or_else(|| not_found("its address is not in the binary's code"))
}

fn code_of<'a>(image: &Image<'a>, range: Range<u64>) -> Option<Code<'a>> {
    let bytes = image.code(range.start, range.end.checked_sub(range.start)?)?;
    let file_offset = image.file_offset_of(range.start)?;
    Some(Code { id: Function::GoAllocLarge, symbol: ALLOC_LARGE, bytes, start: range.start, file_offset })
}

fn c_code_miss(image: &Image<'_>) -> Option<Miss> {
    let runs_c = image.needed_libraries().iter().any(|name| name.starts_with("libc."));
    runs_c.then(|| {
        miss(
            "c_allocations_not_probed",
            "the binary links the C library: what C code allocates is seen as mmap, brk and page faults only",
        )
    })
}

fn miss(reason: &'static str, detail: impl Into<String>) -> Miss {
    Miss { reason, detail: detail.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::allocator::elf::tests::image_of;
    use allocscope_common::site_id::{ResultPlace, Role, StepClass};
    use proptest::prelude::*;

    const TEXT: u64 = 0x41_1000;

    /// A Go binary without sections: `allocLarge` of 1.22.10 behind 16 bytes of other code, its line
    /// table and build information.
    pub(crate) fn go_file(version: &str) -> Vec<u8> {
        let body = crate::site::go::tests::bytes(crate::site::go::tests::GO_1_22_10);
        let end = 16 + body.len() as u32;
        let code = [vec![0xc3; 16], body, vec![0xcc; 11]].concat();
        let mut data = buildinfo::tests::blob(version, "build\tGOARCH=amd64\n");
        data.resize(data.len().next_multiple_of(32), 0);
        data.extend(pclntab::tests::table_of(TEXT, &[("runtime.other", 0), (ALLOC_LARGE, 16)], end + 11));
        image_of(&[(TEXT, 5, &code), (0x50_0000, 6, &data)])
    }

    fn examine_file(file: &[u8]) -> GoExamination {
        examine(&Image::parse(file).unwrap())
    }

    #[test]
    fn a_stripped_binary_without_sections_gets_its_sites() {
        let found = examine_file(&go_file("go1.22.10"));
        assert_eq!(found.version.unwrap().name, "go1.22.10");
        assert_eq!((found.plan.misses.len(), found.exit), (0, Some(ExitChoice::LastCall)));
        let [entry, exit] = &found.plan.sites[..] else { panic!("{:?}", found.plan.sites) };
        let code_offset = 64 + 2 * 56 + 16;
        assert_eq!((entry.function_offset, entry.file_offset), (0xa, code_offset + 0xa));
        assert_eq!((exit.function_offset, exit.file_offset), (0x160, code_offset + 0x160));
        assert_eq!((entry.id.role, exit.id.role), (Role::Entry, Role::Exit));
        assert_eq!((exit.id.step, exit.id.result), (StepClass::Emulated, ResultPlace::Stack));
    }

    #[test]
    fn the_last_call_counts_before_1_22() {
        for version in ["go1.21.13", "go1.22.10 X:noallocheaders"] {
            assert_eq!(examine_file(&go_file(version)).exit, Some(ExitChoice::Returns));
        }
    }

    #[test]
    fn unknown_versions_get_no_site() {
        for (version, reason) in [
            ("go1.18.10", "go_version_unsupported"),
            ("go1.28", "go_version_unsupported"),
            ("devel +1a2b3c4", "go_version_unknown"),
            ("go", "go_version_unknown"),
        ] {
            let found = examine_file(&go_file(version));
            assert_eq!(found.plan.sites, []);
            assert_eq!(found.plan.misses[0].reason, reason, "{version}");
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_a_miss() {
        let mut file = go_file("go1.22.10");
        let at = file.windows(10).position(|w| w == b"allocLarge").unwrap();
        file[at] = b'x';
        assert_eq!(examine_file(&file).plan.misses[0].reason, "go_function_not_found");
    }

    #[test]
    fn a_line_table_without_its_text_start_is_a_miss() {
        let mut file = go_file("go1.27.3");
        let at = file.windows(8).position(|w| w == [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]).unwrap() + 24;
        file[at..at + 8].fill(0);
        let miss = &examine_file(&file).plan.misses[0];
        assert_eq!(miss.reason, "go_function_not_found");
        assert!(miss.detail.contains("where the code of its line table starts"), "{}", miss.detail);
    }

    #[test]
    fn truncated_files_do_not_panic() {
        let file = go_file("go1.22.10");
        for len in 0..file.len() {
            let _ = crate::allocator::examine(&file[..len], &[], |_| None);
        }
    }

    proptest! {
        #[test]
        fn hostile_files_do_not_panic(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
            let mut file = go_file("go1.22.10");
            for (at, byte) in flips {
                let len = file.len();
                file[at % len] = byte;
            }
            if let Ok(found) = crate::allocator::examine(&file, &[], |_| None) {
                for site in &found.plan.sites {
                    prop_assert!(site.file_offset < file.len() as u64);
                }
            }
        }
    }
}
