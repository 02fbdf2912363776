//! What allocscope reports about native programs' allocators, against what these programs know of themselves.
//!
//! `native/alloc.c` and `native/rounds.rs` allocate in every way there is, around each allocator's thresholds;
//! `native/truth.rs` has the rule by which each allocator's large path is counted.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "native/programs.rs"]
mod programs;
mod support;
#[path = "native/truth.rs"]
mod truth;

use allocscope::allocator::detect::Allocator;
use allocscope::allocator::native::Depth;
use allocscope::allocator::{Request, examine, examine_library};
use object::{Object, ObjectSegment, ObjectSymbol};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::report::Process;
use support::{Report, Running, allocscope, attach, go, program};
use truth::{Classes, Freed, Rule, Truth};

/// What must be 0 for counts to be exact.
const LOSSES: [&str; 4] = ["call_overwritten", "call_abandoned", "exit_unmatched", "result_unreadable"];
/// An allocator that allocscope has no knowledge of.
const UNKNOWN: &str = "libtbbmalloc_proxy.so.2";
const THREADS: &str = "4";
const ROUNDS: &str = "5";

/// A program, what it preloads, and its arguments.
struct Target {
    path: PathBuf,
    preload: Option<PathBuf>,
    arguments: Vec<String>,
}

impl Target {
    fn new(path: PathBuf, arguments: &[&str]) -> Self {
        Self { path, preload: None, arguments: arguments.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// Everything that `alloc` and the Rust programs do.
    fn all_sizes(path: PathBuf) -> Self {
        Self::new(path, &[THREADS, ROUNDS, "0"])
    }

    fn preloading(self, library: &str) -> Self {
        Self { preload: Some(programs::library(library)), ..self }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).envs(self.environment());
        command
    }

    /// What a library needs is beside it.
    fn environment(&self) -> Vec<(&'static str, &Path)> {
        let Some(library) = &self.preload else { return Vec::new() };
        vec![("LD_PRELOAD", library.as_path()), ("LD_LIBRARY_PATH", library.parent().unwrap())]
    }

    /// `allocscope run`, from the first instruction on.
    fn run(&self, rule: Rule) -> (Truth, Report) {
        let mut tracer = program(&format!("run --format json --min-size {} {}", rule.min_size, rule.flags));
        let environment = self.environment().into_iter();
        tracer.args(environment.map(|(name, value)| format!("--env={name}={}", value.display())));
        let ended = Running::start(tracer.arg("--").arg(&self.path).args(&self.arguments)).wait();
        assert_eq!(ended.code, Some(0), "{}: {ended}", self.path.display());
        (Truth::in_output(&ended.stdout), Report::last_in(&ended.stdout))
    }

    /// `allocscope attach`, while it waits for a line.
    fn attach(&self, rule: Rule) -> (Truth, Report) {
        let mut target = self.waiting();
        let tracer = attach(target.pid(), &format!("--min-size {} {}", rule.min_size, rule.flags));
        target.tell("");
        let ended = target.wait();
        assert_eq!(ended.code, Some(0), "{}: {ended}", self.path.display());
        let traced = tracer.wait();
        assert_eq!(traced.code, Some(0), "{traced}");
        (Truth::in_output(&ended.stdout), Report::last_in(&traced.stdout))
    }

    /// The same of `frees`.
    fn frees(&self, flags: &str) -> (Freed, Report) {
        let mut target = self.waiting();
        let tracer = attach(target.pid(), &format!("--min-size 40000 {flags}"));
        target.tell("");
        let ended = target.wait();
        assert_eq!(ended.code, Some(0), "{}: {ended}", self.path.display());
        (Freed::in_output(&ended.stdout), Report::last_in(&tracer.wait().stdout))
    }

    fn waiting(&self) -> Running {
        let target = Running::start(self.command().arg("wait"));
        target.until_waiting_for_input();
        target
    }

    /// By both ways of tracing: what the rule says, and nothing else.
    fn assert_exact(&self, rule: Rule) {
        let (mut truth, report) = self.run(rule);
        // These libraries are C++, whose runtime comes with them.
        if matches!(rule.allocator, "jemalloc" | "tcmalloc" | "other") && self.preload.is_some() {
            truth.calls.push(truth::reserve_of_cxx());
        }
        for (truth, report) in [(truth, report), self.attach(rule)] {
            let tier = if rule.flags.is_empty() { "large-path" } else { "filtered" };
            assert_eq!(report.process(truth.pid).0["coverage"]["tier"], tier, "{report}");
            compare(&truth, &report, rule);
        }
    }
}

fn compare(truth: &Truth, report: &Report, rule: Rule) {
    let process = report.process(truth.pid);
    let expected = truth.expected(rule);
    assert!(!expected.is_empty(), "{truth:?}");
    let counted = classes(process, rule);
    let what = format!("counted {counted:?}, expected {expected:?} by {}: {report}", rule.allocator);
    let all = |classes: &Classes| classes.values().map(|of| of.0).sum::<u64>();
    assert_eq!(all(&counted), all(&expected), "{what}");
    assert!(counted.keys().eq(expected.keys()), "{what}");
    for (class, (calls, bytes)) in &counted {
        let (expected, open) = (expected[class], truth.open(rule, *class));
        assert!(calls.abs_diff(expected.0) <= open.0, "{what}");
        assert!(bytes.abs_diff(expected.1) <= open.1, "{what}");
    }
    for reason in LOSSES {
        assert_eq!(report.lost(reason), 0, "{reason}: {report}");
    }
}

/// What was counted, in the classes that hold nothing smaller than the rule's smallest size or hold it as well.
fn classes(process: Process<'_>, rule: Rule) -> Classes {
    let least = 1 << rule.min_size.ilog2();
    let counts = |class| process.counts(rule.allocator, class);
    let of_rule = process.classes(rule.allocator).into_iter().filter(|class| *class >= least);
    let called = of_rule.filter(|class| counts(*class).calls > 0);
    called.map(|class| (class, (counts(class).calls, counts(class).bytes))).collect()
}

#[test]
fn glibc_is_counted() {
    Target::all_sizes(programs::alloc()).assert_exact(truth::GLIBC);
}

#[test]
fn glibc_in_a_static_program_is_counted() {
    assert_with_and_without_names(programs::static_alloc(), truth::GLIBC);
}

#[test]
fn preloaded_jemalloc_is_counted() {
    Target::all_sizes(programs::alloc()).preloading("libjemalloc.so.2").assert_exact(truth::JEMALLOC);
}

/// Unless small allocations may be slowed down, some functions are not seen; malloc is, and nothing twice.
#[test]
fn preloaded_mimallocs_malloc_is_counted() {
    let target = Target::all_sizes(programs::alloc()).preloading("libmimalloc.so.2.0");
    for (truth, report) in [target.run(truth::MIMALLOC_LARGE), target.attach(truth::MIMALLOC_LARGE)] {
        let process = report.process(truth.pid);
        assert_eq!(process.0["coverage"]["tier"], "large-path", "{report}");
        let counted = classes(process, truth::MIMALLOC_LARGE);
        let (all, malloc) = (truth.expected(truth::MIMALLOC_2_0), truth.expected(truth::MIMALLOC_LARGE));
        assert!(!malloc.is_empty());
        for (class, (calls, _)) in counted {
            let least = malloc.get(&class).map_or(0, |of| of.0);
            assert!(calls >= least && calls <= all[&class].0, "{calls} in {class}: {report}");
        }
        let misses = process.0["coverage"]["misses"].as_array().unwrap();
        assert!(misses.iter().any(|miss| miss["reason"] == "functions_not_seen"), "{report}");
    }
}

#[test]
fn preloaded_mimalloc_is_counted() {
    Target::all_sizes(programs::alloc()).preloading("libmimalloc.so.2.0").assert_exact(truth::MIMALLOC_2_0);
}

#[test]
fn preloaded_tcmalloc_is_counted() {
    Target::all_sizes(programs::alloc()).preloading("libtcmalloc_minimal.so.4").assert_exact(truth::TCMALLOC);
}

/// Its blocks of 131,052 bytes and more are mappings, which the kernel tells of: names make no difference. The
/// blocks below come in groups that are mappings as well, so the program leaves them out.
#[test]
fn musl_is_counted_by_its_mappings() {
    let program = programs::musl_alloc();
    for path in [programs::stripped(&program), program, programs::musl_library_alloc()] {
        let target = Target::new(path, &[THREADS, ROUNDS, "131052"]);
        for (truth, report) in [target.run(truth::MUSL), target.attach(truth::MUSL)] {
            assert_eq!(report.process(truth.pid).0["coverage"]["tier"], "kernel", "{report}");
            compare(&truth, &report, truth::MUSL);
        }
    }
}

#[test]
fn jemalloc_in_a_rust_program_is_counted() {
    assert_with_and_without_names(programs::rust_jemalloc(), truth::JEMALLOC);
}

#[test]
fn mimalloc_2_in_a_rust_program_is_counted() {
    assert_with_and_without_names(programs::rust_mimalloc_2(), truth::MIMALLOC_2_3);
}

#[test]
fn mimalloc_3_in_a_rust_program_is_counted() {
    assert_with_and_without_names(programs::rust_mimalloc_3(), truth::MIMALLOC_3);
}

/// Whatever names there are: the program that has none is probed at the same places.
fn assert_with_and_without_names(program: PathBuf, rule: Rule) {
    let stripped = programs::stripped(&program);
    let sites = [&program, &stripped].map(|path| sites_in(path, rule));
    assert!(!sites[0].is_empty() && sites[0] == sites[1], "{sites:x?}");
    Target::all_sizes(stripped).assert_exact(rule);
    Target::all_sizes(program).assert_exact(rule);
}

/// Where probes would go, as functions and offsets in the file.
fn sites_in(path: &Path, rule: Rule) -> Vec<(String, u64)> {
    let filtered = Depth::Filtered { min_bytes: rule.min_size };
    let depth = if rule.flags.is_empty() { Depth::LargePath } else { filtered };
    let plan = examine(&std::fs::read(path).unwrap(), &Request { depth, ..Request::default() }).unwrap().plan;
    plan.calls.into_iter().map(|call| (call.function, call.file_offset)).collect()
}

/// There is nothing else to probe where small allocations may cost: no name is left of the functions that they pass.
#[test]
fn stripped_programs_keep_their_large_path_where_small_ones_may_cost() {
    for (program, rule) in
        [(programs::static_alloc(), truth::GLIBC), (programs::rust_jemalloc(), truth::JEMALLOC)]
    {
        let stripped = programs::stripped(&program);
        let may_cost = Rule { flags: "--allow-small-cost", ..rule };
        assert!(!sites_in(&stripped, rule).is_empty(), "{}", stripped.display());
        assert_eq!(sites_in(&stripped, rule), sites_in(&stripped, may_cost), "{}", stripped.display());
    }
}

/// Programs that hold no allocator, and the C library's alone: nothing is taken for another one's functions.
#[test]
fn no_allocator_is_found_where_there_is_none() {
    let own = std::env::current_exe().unwrap();
    let programs = [
        programs::stripped(&own),
        programs::stripped(&programs::musl_alloc()),
        go::build("1.25.5", "large", go::STRIPPED),
    ];
    for path in programs {
        let bytes = std::fs::read(&path).unwrap();
        for kind in [Allocator::Glibc, Allocator::Jemalloc, Allocator::Mimalloc] {
            let plan = examine_library(&bytes, kind, &Request::default()).unwrap();
            assert!(plan.calls.is_empty(), "{kind} in {}: {:?}", path.display(), plan.calls);
        }
    }
}

/// The heap's mappings are part of its calls, all of which are traced. Below 128 KiB the loader maps memory for
/// the libraries.
#[test]
fn only_the_programs_own_mappings_are_mappings() {
    let target = Target::all_sizes(programs::alloc());
    for (truth, report) in [target.run(truth::GLIBC), target.attach(truth::GLIBC)] {
        compare(&truth, &report, truth::OWN_MAPPINGS);
    }
}

/// With every function probed, whatever a program asks for is counted, by the size it asked for.
#[test]
fn all_sizes_are_counted_where_small_ones_may_cost() {
    for (library, allocator) in [
        (None, "glibc"),
        (Some("libjemalloc.so.2"), "jemalloc"),
        (Some("libtcmalloc_minimal.so.4"), "tcmalloc"),
        (Some(UNKNOWN), "other"),
    ] {
        let target = Target::all_sizes(programs::alloc());
        let target = library.into_iter().fold(target, Target::preloading);
        target.assert_exact(truth::filtered(allocator));
    }
    for program in [programs::musl_alloc(), programs::musl_library_alloc()] {
        Target::all_sizes(program).assert_exact(truth::filtered("musl"));
    }
}

/// The C library's own path is probed, but nobody takes it: the report says that there is another malloc, and what is
/// missed.
#[test]
fn a_malloc_that_is_not_known_is_told() {
    let target = Target::all_sizes(programs::alloc()).preloading(UNKNOWN);
    for (truth, report) in [target.run(truth::GLIBC), target.attach(truth::GLIBC)] {
        let process = report.process(truth.pid);
        assert_eq!(process.0["coverage"]["allocator"], "other", "{report}");
        let misses = process.0["coverage"]["misses"].as_array().unwrap();
        let of_it = misses.iter().find(|miss| miss["reason"] == "allocator_path_not_probed").unwrap();
        assert!(of_it["detail"].as_str().unwrap().starts_with("libtbbmalloc_proxy.so.2"), "{report}");
        assert_eq!(classes(process, truth::GLIBC), Classes::new(), "{report}");
    }
}

/// What small blocks are given back to, neither allocator's probe is on: its caches.
#[test]
fn frees_of_large_blocks_are_counted() {
    for (library, allocator, cached_bytes) in
        [("libjemalloc.so.2", "jemalloc", 32_768), ("libtcmalloc_minimal.so.4", "tcmalloc", 262_144)]
    {
        let target = Target::new(programs::frees(), &[THREADS, "24"]).preloading(library);
        for flags in ["--attach-via session", "--attach-via multi"] {
            let (freed, report) = target.frees(flags);
            let expected = freed.larger_than(cached_bytes);
            assert!(expected.len() >= 3, "{freed:?}");
            assert_eq!(releases(report.process(freed.pid), allocator), expected, "{flags}: {report}");
        }
    }
}

/// Small ones pass the probe as well. A mapping that `realloc` moves is the same mapping elsewhere.
#[test]
fn frees_are_counted_where_small_ones_may_cost() {
    for (library, allocator) in [
        (None, "glibc"),
        (Some("libjemalloc.so.2"), "jemalloc"),
        (Some("libtcmalloc_minimal.so.4"), "tcmalloc"),
    ] {
        let target = Target::new(programs::frees(), &[THREADS, "24"]);
        let target = library.into_iter().fold(target, Target::preloading);
        for flags in ["--attach-via session", "--attach-via multi", "--attach-via perf"] {
            let (freed, report) = target.frees(&format!("--allow-small-cost {flags}"));
            let counted = releases(report.process(freed.pid), allocator).values().map(|of| of.0).sum::<u64>();
            let is_moved_by_kernel = |usable: u64| allocator == "glibc" && usable.is_multiple_of(16);
            assert_eq!(counted, freed.releases_but(is_moved_by_kernel), "{allocator} {flags}: {report}");
        }
    }
}

/// Releases of an allocator's objects and their bytes, by class.
fn releases(process: Process<'_>, allocator: &str) -> Classes {
    let counts =
        process.classes(allocator).into_iter().map(|class| (class, process.counts(allocator, class)));
    let released = counts.filter(|(_, counts)| counts.releases > 0);
    released.map(|(class, counts)| (class, (counts.releases, counts.released_bytes))).collect()
}

/// A function that throws does not come back to its caller, and its caller's caller must not notice. The C++
/// library's own reserve, 72,704 bytes, is below the smallest size.
#[test]
fn exceptions_of_new_are_caught_as_ever() {
    let rule = Rule { min_size: 131_072, ..truth::GLIBC };
    let target = Target::new(programs::new(), &["3"]);
    for (truth, report) in [target.run(rule), target.attach(rule)] {
        assert_eq!(truth.caught, 5);
        compare(&truth, &report, rule);
    }
}

#[test]
fn exceptions_of_another_allocators_new_are_caught_as_ever() {
    for (library, rule) in
        [("libjemalloc.so.2", truth::JEMALLOC), ("libtcmalloc_minimal.so.4", truth::TCMALLOC)]
    {
        let rule = Rule { min_size: rule.min_size.max(131_072), ..rule };
        let target = Target::new(programs::new(), &["3"]).preloading(library);
        for (truth, report) in [target.run(rule), target.attach(rule)] {
            assert_eq!(truth.caught, 5, "{library}");
            compare(&truth, &report, rule);
        }
    }
}

/// A name is no proof: what the function returns tells that it is another one, and its probe is taken out.
#[test]
fn a_function_that_only_has_an_allocators_name_is_found_out() {
    let mut target = Running::start(&mut Command::new(programs::impostor()));
    let ended = attach(target.pid(), "--duration 5s").wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::last_in(&ended.stdout);
    let process = report.process(target.pid().into());
    let misses = process.0["coverage"]["misses"].as_array().unwrap();
    assert!(misses.iter().any(|miss| miss["reason"] == "allocator_path_refuted"), "{report}");
    // Its sizes were odd too; but that it was taken out means that it was seen.
    assert!(report.lost("result_unreadable") > 0, "{report}");
    target.tell("");
    assert_eq!(target.wait().code, Some(0));
}

/// The filter kills a process that does any other system call than a dozen, such as that of a return probe. Its
/// calls are seen to return by plain probes; what it does in the moments after it set the filter may be missed.
#[test]
fn a_confined_program_survives() {
    let target = Target::new(programs::seccomp(), &["200"]);
    for flags in ["--attach-via session", "--attach-via multi", "--attach-via perf"] {
        let rule = Rule { flags, ..truth::GLIBC };
        let (truth, report) = target.attach(rule);
        compare(&truth, &report, rule);
        assert_eq!(report.process(truth.pid).0["coverage"]["tier"], "large-path", "{report}");
    }
    let (truth, report) = target.run(truth::GLIBC);
    let expected = truth.expected(truth::GLIBC);
    for (class, (calls, _)) in classes(report.process(truth.pid), truth::GLIBC) {
        assert!(calls <= expected[&class].0, "{report}");
    }
}

/// The C library is stripped; what its debug file calls `_int_malloc` is found without it.
#[test]
fn the_c_librarys_large_path_is_int_malloc() {
    let target = Target::all_sizes(programs::alloc()).waiting();
    let library = c_library_of(target.pid());
    let ended = allocscope(&format!("inspect --format json {}", target.pid()));
    assert_eq!(ended.code, Some(0), "{ended}");
    let view: Value = serde_json::from_str(&ended.stdout).unwrap();
    let function = int_malloc(&library);
    let sites = view["sites"].as_array().unwrap().iter();
    let entries: Vec<u64> = sites
        .filter(|site| site["role"] == "call")
        .map(|site| site["file_offset"].as_u64().unwrap())
        .collect();
    assert!(!entries.is_empty(), "{view}");
    assert!(entries.iter().all(|entry| function.contains(entry)), "{entries:x?} in {function:x?}: {view}");
}

fn c_library_of(pid: u32) -> PathBuf {
    let maps = procfs::process::Process::new(pid as i32).unwrap().maps().unwrap();
    let paths = maps.iter().filter_map(|map| match &map.pathname {
        procfs::process::MMapPath::Path(path) => Some(path),
        _ => None,
    });
    paths.into_iter().find(|path| path.ends_with("libc.so.6")).unwrap().clone()
}

/// The function's place in the library's file.
fn int_malloc(library: &Path) -> Range<u64> {
    let bytes = std::fs::read(library).unwrap();
    let library = object::File::parse(&*bytes).unwrap();
    let names = std::fs::read(programs::names_of(library.build_id().unwrap().unwrap())).unwrap();
    let names = object::File::parse(&*names).unwrap();
    let symbol = names.symbols().find(|symbol| symbol.name() == Ok("_int_malloc")).unwrap();
    let holds = |segment: &object::Segment| {
        (segment.address()..segment.address() + segment.size()).contains(&symbol.address())
    };
    let segment = library.segments().find(holds).unwrap();
    let start = symbol.address() - segment.address() + segment.file_range().0;
    start..start + symbol.size()
}
