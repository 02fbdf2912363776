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

/// Since 1.22 the last call of `allocLarge`, `(*mspan).initHeapBits`, does nothing for a large object
/// without inline bitmap. Before, it cleared a bitmap of 1/64 (1.19: 1/32) of the object's size.
const CHEAP_LAST_CALL_MINOR: u16 = 22;

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
    let mut misses: Vec<_> = c_code_miss(image, info.as_ref()).into_iter().collect();
    let planned = match plan_large_path(image, info.as_ref(), version.as_ref()) {
        Ok(planned) => Some(planned),
        Err(miss) => {
            misses.push(miss);
            None
        }
    };
    let exit = planned.as_ref().map(|planned| planned.exit);
    let sites = planned.map(|planned| planned.sites).unwrap_or_default();
    GoExamination { version, exit, plan: Plan { sites, misses } }
}

fn plan_large_path(
    image: &Image<'_>,
    info: Option<&BuildInfo>,
    version: Option<&GoVersion>,
) -> Result<CallSites, Miss> {
    if image.machine() != Machine::X86_64 {
        return Err(miss("machine_unsupported", "probe sites are planned for x86-64 only, and this is an AArch64 binary"));
    }
    let version = version.ok_or_else(|| match info.map(|info| info.version.as_str()) {
        Some(text) if !text.is_empty() => {
            miss("go_version_unknown", format!("the toolchain calls itself {text:?}, which is no Go release"))
        }
        Some(_) => miss("go_version_unsupported", "built by Go before 1.18; 1.19 to 1.27 are supported"),
        None => miss("go_version_unknown", "the binary has no Go build information"),
    })?;
    if !version.is_supported() {
        return Err(miss("go_version_unsupported", format!("built by {version}; 1.19 to 1.27 are supported")));
    }
    let code = locate(image)
        .ok_or_else(|| miss("go_function_not_found", format!("{ALLOC_LARGE} is in neither symbol nor line table")))?;
    let last_call =
        if version.minor >= CHEAP_LAST_CALL_MINOR { LastCall::Negligible } else { LastCall::Counts };
    plan_call(code, last_call)
        .map_err(|refusal| miss("go_code_not_understood", format!("{ALLOC_LARGE} is not probed: {refusal}")))
}

/// The code of `allocLarge`: by the symbol table where there is one, else by the line table.
fn locate<'a>(image: &Image<'a>) -> Option<Code<'a>> {
    let code_of = |range: Range<u64>| {
        let bytes = image.code(range.start, range.end.checked_sub(range.start)?)?;
        let file_offset = image.file_offset_of(range.start)?;
        Some(Code { id: Function::GoAllocLarge, symbol: ALLOC_LARGE, bytes, start: range.start, file_offset })
    };
    image
        .function_symbol(ALLOC_LARGE)
        .or_else(|| LineTable::find(image)?.function(image, ALLOC_LARGE))
        .and_then(code_of)
}

fn c_code_miss(image: &Image<'_>, info: Option<&BuildInfo>) -> Option<Miss> {
    let runs_c = image.needed_libraries().iter().any(|name| name.starts_with("libc."))
        || (info?.setting("CGO_ENABLED") == Some("1") && info?.setting("-buildmode") == Some("c-archive"));
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
