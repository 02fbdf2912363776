//! A Go binary into its version and the probe sites of its large-object path.

pub mod buildinfo;
mod functions;
mod layout;
pub mod pclntab;
pub mod runtime;
pub mod version;

use allocscope_common::site_id::{Function, Role};

use self::buildinfo::BuildInfo;
use self::functions::Functions;
use self::runtime::RuntimePlan;
use self::version::GoVersion;
use super::elf::{Image, Machine};
use crate::site::go::{CallSites, Code, ExitChoice, Mark, Refusal, plan_call, plan_call_in};
use crate::site::{Miss, Plan, Site, arm64};

/// Since 1.24 it serves every object above the threshold and none below. Its time includes the span, the
/// start of a collection and the object's clearing.
const MALLOC_LARGE: &str = "runtime.mallocgcLarge";
const MALLOC_LARGE_MINOR: u16 = 24;
/// What it calls to start a collection, seldom, and to clear the memory of objects where it was used before.
const GC_START: &str = "runtime.gcStart";
const CLEAR: &str = "runtime.memclrNoHeapPointersChunked";

/// Since this version functions take their arguments in registers on AArch64 too (release notes of Go 1.18); on x86-64
/// since 1.17, the first that is supported.
const AARCH64_MINOR: u16 = 18;

/// Before 1.24 a branch of `mallocgc`, which serves small objects as well, calls this for the span of a large
/// one. Its time includes the span and (before 1.22, `runtime/mbitmap*.go`) the bitmap of 1/64 to 1/32 of the
/// object's size; the start of a collection and the object's clearing come later.
const ALLOC_LARGE: &str = "runtime.(*mcache).allocLarge";
const MALLOC: &str = "runtime.mallocgc";

/// Takes the next 8 MiB for an arena, whose objects bypass the large path. It is in binaries that use arenas
/// only: they are an experiment (`GOEXPERIMENT=arenas`). Its time includes the start of a collection.
const ARENA_CHUNK: &str = "runtime.newUserArenaChunk";

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

/// Plans the probes of a Go executable; `with_runtime` those for `--go-runtime` as well.
pub fn examine(image: &Image<'_>, with_runtime: bool) -> GoExamination {
    let info = BuildInfo::find(image);
    let version = info.as_ref().and_then(|info| GoVersion::parse(&info.version));
    let mut misses: Vec<_> = c_code_miss(image).into_iter().collect();
    let functions = Functions::of(image);
    let planned = check_supported(info.as_ref(), version.as_ref(), image.machine())
        .and_then(|version| layout::check(image, version).map(|()| version))
        .and_then(|version| plan_large_path(&functions, version));
    let (mut sites, exit) = match planned {
        Ok(planned) => (planned.sites, Some(planned.exit)),
        Err(miss) => {
            misses.push(miss);
            (Vec::new(), None)
        }
    };
    // Where the large path is not understood, nothing of the runtime is.
    if exit.is_some() {
        match plan_arenas(&functions) {
            Ok(arenas) => sites.extend(arenas),
            Err(miss) => misses.push(miss),
        }
    }
    let mut plan = Plan { sites, misses, ..Plan::default() };
    if let (Some(version), Some(_)) = (&version, exit) {
        add_runtime(&mut plan, &functions, version, with_runtime);
    }
    GoExamination { version, exit, plan }
}

/// What a large allocation's time goes to, and, where wanted, what the runtime does.
fn add_runtime(plan: &mut Plan, functions: &Functions<'_>, version: &GoVersion, with_runtime: bool) {
    let above = runtime::malloc_above(functions, version);
    let is_large = |site: &&mut Site| site.id.function != Function::GoArenaChunk;
    for site in plan.sites.iter_mut().filter(is_large).filter(|site| site.id.role == Role::Entry) {
        site.id.result_offset = above;
    }
    for site in plan.sites.iter_mut().filter(|site| site.id.role == Role::Exit) {
        site.id.goid_offset = version.goid_offset();
    }
    let found = RuntimePlan::of(functions, version);
    plan.sites.extend(found.causes);
    plan.misses.extend(found.cause_misses);
    if with_runtime {
        plan.sites.extend(found.runtime);
        plan.sampled = found.sampled;
        plan.misses.extend(found.runtime_misses);
    }
}

fn check_supported<'v>(
    info: Option<&BuildInfo>,
    version: Option<&'v GoVersion>,
    machine: Machine,
) -> Result<&'v GoVersion, Miss> {
    let version = version.ok_or_else(|| match info.map(|info| info.version.as_str()) {
        Some(text) if !text.is_empty() => {
            miss("go_version_unknown", format!("the toolchain calls itself {text:?}, which is no Go release"))
        }
        Some(_) => miss(
            "go_version_unknown",
            "the build information is of Go before 1.18 and points to no version; 1.17 to 1.27 are supported",
        ),
        None => miss("go_version_unknown", "the binary has no Go build information"),
    })?;
    if !version.is_supported() {
        let detail = format!("built by {version}; 1.17 to 1.27 are supported");
        return Err(miss("go_version_unsupported", detail));
    }
    if machine == Machine::Aarch64 && version.minor < AARCH64_MINOR {
        let detail = format!("built by {version}; for AArch64 1.18 to 1.27 are supported");
        return Err(miss("go_version_unsupported", detail));
    }
    Ok(version)
}

fn plan_large_path(functions: &Functions<'_>, version: &GoVersion) -> Result<CallSites, Miss> {
    if version.minor >= MALLOC_LARGE_MINOR {
        plan_malloc_large(functions)
    } else {
        plan_alloc_large(functions)
    }
}

/// No sites where the program has no arenas.
fn plan_arenas(functions: &Functions<'_>) -> Result<Vec<Site>, Miss> {
    if functions.start(ARENA_CHUNK).is_err() {
        return Ok(Vec::new());
    }
    let code = functions.code(Function::GoArenaChunk, ARENA_CHUNK)?;
    let marks = [Mark { role: Role::GcStart, callee: functions.start(GC_START)? }];
    plan_inside(functions.machine(), code.as_code(), &marks)
        .map(|planned| planned.sites)
        .map_err(|refusal| miss("go_code_not_understood", format!("{ARENA_CHUNK} is not probed: {refusal}")))
}

fn plan_malloc_large(functions: &Functions<'_>) -> Result<CallSites, Miss> {
    let code = functions.code(Function::GoMallocLarge, MALLOC_LARGE)?;
    let mark = |role, name| functions.start(name).map(|callee| Mark { role, callee });
    let marks = [mark(Role::GcStart, GC_START)?, mark(Role::Zeroing, CLEAR)?];
    plan_inside(functions.machine(), code.as_code(), &marks)
        .map_err(|refusal| miss("go_code_not_understood", format!("{MALLOC_LARGE} is not probed: {refusal}")))
}

/// On x86-64 at the returns, which cost more there, only where the caller is not understood.
fn plan_alloc_large(functions: &Functions<'_>) -> Result<CallSites, Miss> {
    let code = functions.code(Function::GoAllocLarge, ALLOC_LARGE)?;
    let at_returns = || plan_inside(functions.machine(), code.as_code(), &[]);
    let planned = match functions.machine() {
        Machine::X86_64 => {
            let caller = functions.code(Function::GoAllocLarge, MALLOC)?;
            plan_call_in(caller.as_code(), code.as_code()).or_else(|_| at_returns())
        }
        Machine::Aarch64 => at_returns(),
    };
    planned
        .map_err(|refusal| miss("go_code_not_understood", format!("{ALLOC_LARGE} is not probed: {refusal}")))
}

fn plan_inside(machine: Machine, code: Code<'_>, marks: &[Mark]) -> Result<CallSites, Refusal> {
    match machine {
        Machine::X86_64 => plan_call(code, marks),
        Machine::Aarch64 => arm64::go::plan_call(code, marks),
    }
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
    use crate::site::go::tests::{GO_1_22_10, GO_1_22_10_MALLOCGC, GO_1_25_5_MALLOCGC_LARGE, bytes};
    use allocscope_common::site_id::{ResultPlace, StepClass};
    use proptest::prelude::*;

    const TEXT: u64 = 0x41_1000;
    const DATA: u64 = buildinfo::tests::ADDRESS;

    /// The offset of `mallocgc`'s call of `allocLarge` in 1.22.10.
    const CALL: usize = 0x592;

    /// A Go binary without sections: 16 bytes of other code, `allocLarge` and `mallocgc` of 1.22.10, line table
    /// and build information.
    pub(crate) fn go_file(version: &str) -> Vec<u8> {
        let (code, functions) = alloc_large();
        file_of(version, &code, &functions)
    }

    /// The same with the line table and the build information that Go 1.17 has.
    pub(crate) fn old_go_file(version: &str) -> Vec<u8> {
        let (code, functions) = alloc_large();
        let mut data = buildinfo::tests::old_blob(version, DATA + 32);
        data.resize(data.len().next_multiple_of(32), 0);
        data.extend(pclntab::tests::old_table_of(TEXT, &functions, code.len() as u32));
        image_of(&[(TEXT, 5, &code), (DATA, 6, &data)])
    }

    fn alloc_large() -> (Vec<u8>, [(&'static str, u32); 3]) {
        let callee = bytes(GO_1_22_10);
        let mut caller = bytes(GO_1_22_10_MALLOCGC);
        let [start, end] = [16, 16 + callee.len()];
        let distance = start as i32 - (end + CALL + 5) as i32;
        caller[CALL + 1..CALL + 5].copy_from_slice(&distance.to_le_bytes());
        let code = [vec![0xc3; start], callee, caller, vec![0xcc; 11]].concat();
        (code, [("runtime.other", 0), (ALLOC_LARGE, start as u32), (MALLOC, end as u32)])
    }

    fn file_of(version: &str, code: &[u8], functions: &[(&str, u32)]) -> Vec<u8> {
        let mut data = buildinfo::tests::blob(version, "build\tGOARCH=amd64\n");
        data.resize(data.len().next_multiple_of(32), 0);
        data.extend(pclntab::tests::table_of(TEXT, functions, code.len() as u32));
        image_of(&[(TEXT, 5, code), (DATA, 6, &data)])
    }

    /// `mallocgcLarge` of 1.25.5, and two more functions that it calls.
    fn go_1_25_file() -> Vec<u8> {
        let mut body = bytes(GO_1_25_5_MALLOCGC_LARGE);
        let end = body.len();
        for (call, callee) in [(0x182, end), (0x1a5, end + 1)] {
            let distance = callee as i32 - (call as i32 + 5);
            body[call + 1..call + 5].copy_from_slice(&distance.to_le_bytes());
        }
        let code = [body, vec![0xc3, 0xc3, 0xcc]].concat();
        let functions = [(MALLOC_LARGE, 0), (GC_START, end as u32), (CLEAR, end as u32 + 1)];
        file_of("go1.25.5", &code, &functions)
    }

    fn examine_file(file: &[u8]) -> GoExamination {
        examine(&Image::parse(file).unwrap(), false)
    }

    #[test]
    fn tables_of_1_17_give_the_same_sites() {
        let (old, new) = (examine_file(&old_go_file("go1.17.13")), examine_file(&go_file("go1.22.10")));
        assert_eq!(old.version.unwrap().name, "go1.17.13");
        assert_eq!(old.plan.sites.len(), 2);
        let places = |plan: Plan| -> Vec<_> {
            plan.sites
                .into_iter()
                .map(|site| (site.function, site.function_offset, site.file_offset))
                .collect()
        };
        assert_eq!(places(old.plan), places(new.plan));
    }

    #[test]
    fn functions_of_1_17_take_no_registers_on_aarch64() {
        let mut file = old_go_file("go1.17.13");
        file[18] = 183;
        let found = examine_file(&file);
        assert_eq!((found.plan.sites.len(), found.plan.misses.len()), (0, 1));
        assert!(found.plan.misses[0].detail.contains("AArch64"), "{}", found.plan.misses[0].detail);
    }

    #[test]
    fn a_stripped_binary_without_sections_gets_its_sites() {
        let found = examine_file(&go_file("go1.22.10"));
        assert_eq!(found.version.unwrap().name, "go1.22.10");
        // The file has none of the functions that tell what the time goes to.
        assert!(found.plan.misses.iter().all(|miss| miss.reason == "go_function_not_found"));
        assert_eq!((found.plan.misses.len(), found.exit), (4, Some(ExitChoice::Caller)));
        let [entry, exit] = &found.plan.sites[..] else { panic!("{:?}", found.plan.sites) };
        let code_offset = 64 + 2 * 56 + 16;
        let caller_offset = code_offset + bytes(GO_1_22_10).len() as u64;
        assert_eq!((entry.function.as_str(), exit.function.as_str()), (ALLOC_LARGE, MALLOC));
        assert_eq!((entry.function_offset, entry.file_offset), (0xa, code_offset + 0xa));
        assert_eq!((exit.function_offset, exit.file_offset), (0x5b6, caller_offset + 0x5b6));
        assert_eq!((entry.id.role, exit.id.role), (Role::Entry, Role::Exit));
        assert_eq!((exit.id.step, exit.id.result), (StepClass::Emulated, ResultPlace::Register));
    }

    #[test]
    fn the_returns_are_probed_where_the_caller_is_not_understood() {
        let mut file = go_file("go1.22.10");
        let call = 64 + 2 * 56 + 16 + bytes(GO_1_22_10).len() + CALL;
        assert_eq!(file[call], 0xe8);
        file[call + 1] ^= 1;
        let found = examine_file(&file);
        assert_eq!((found.exit, found.plan.sites.len()), (Some(ExitChoice::Returns), 2));
    }

    #[test]
    fn since_1_24_the_start_of_a_collection_and_clearing_are_marked() {
        let found = examine_file(&go_1_25_file());
        let roles: Vec<_> =
            found.plan.sites.iter().map(|site| (site.id.role, site.function_offset)).collect();
        let marks = [(Role::GcStart, 0x182), (Role::Zeroing, 0x1a5)];
        assert_eq!(roles, [vec![(Role::Entry, 0xa), (Role::Exit, 0x224)], marks.to_vec()].concat());
        assert!(found.plan.sites.iter().all(|site| site.id.function == Function::GoMallocLarge));
    }

    #[test]
    fn unknown_versions_get_no_site() {
        for (version, reason) in [
            ("go1.16.15", "go_version_unsupported"),
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
        let mut file = go_file("go1.23.9");
        let at = file.windows(8).position(|w| w == [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]).unwrap() + 24;
        file[at..at + 8].fill(0);
        let miss = &examine_file(&file).plan.misses[0];
        assert_eq!(miss.reason, "go_function_not_found");
        assert!(miss.detail.contains("where the code of its line table starts"), "{}", miss.detail);
    }

    #[test]
    fn truncated_files_do_not_panic() {
        for file in [go_file("go1.22.10"), old_go_file("go1.17.13")] {
            for len in 0..file.len() {
                let _ = crate::allocator::examine(&file[..len], &Default::default());
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_files_do_not_panic(old: bool, flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
            let mut file = if old { old_go_file("go1.17.13") } else { go_file("go1.22.10") };
            for (at, byte) in flips {
                let len = file.len();
                file[at % len] = byte;
            }
            if let Ok(found) = crate::allocator::examine(&file, &Default::default()) {
                for site in &found.plan.sites {
                    prop_assert!(site.file_offset < file.len() as u64);
                }
            }
        }
    }
}
