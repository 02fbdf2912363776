//! What allocscope reports about Go programs, against what these programs know of themselves.
//!
//! The programs are compiled here by real toolchains, but for those of [`released`]. They allocate on growing stacks, from sixteen
//! goroutines, under collection, in panics and in `Goexit`: whatever a probe does wrong shows as a count
//! that is off or as a crash.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "go/hits.rs"]
mod hits;
#[path = "go/released.rs"]
mod released;
mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::go::{DEBIAN, PLAIN, STRIPPED, VERSIONS, build, tools, truth_in};
use support::http::{Metrics, address};
use support::{LIMIT, Report, Running, TempDir, allocscope, attach, eventually, program};

const PIE: &[&str] = &["-buildmode=pie"];
const STRIPPED_PIE: &[&str] = &["-buildmode=pie", "-ldflags=-s -w"];
/// With C code, so that the C compiler links it.
const CGO: &[&str] = &["-ldflags=-linkmode=external", "cgo.go"];
const CGO_PIE: &[&str] = &["-buildmode=pie", "-ldflags=-linkmode=external -s -w", "cgo.go"];

/// One test a toolchain, so that one compiles while another runs: each way to build a program, and in each
/// every large object counted.
macro_rules! every_build_is_counted_exactly {
    ($($test:ident: $version:expr),*) => { $(
        #[test]
        fn $test() {
            for flags in [PLAIN, STRIPPED, PIE, CGO] {
                assert_exact(&build($version, "large", flags), 2);
            }
        }
    )* };
}

every_build_is_counted_exactly! {
    go_1_19: DEBIAN, go_1_21: "1.21.13", go_1_22: "1.22.10", go_1_23: "1.23.9",
    go_1_24: "1.24.11", go_1_25: "1.25.5", go_1_26: "1.26.6", go_1_27: "1.27.3"
}

#[test]
fn stripped_position_independent_programs_are_counted() {
    for (version, flags) in
        [("1.22.10", STRIPPED_PIE), ("1.25.5", CGO_PIE), ("1.27.3", STRIPPED_PIE), ("1.27.3", CGO_PIE)]
    {
        assert_exact(&build(version, "large", flags), 3);
    }
}

/// From the first instruction on: whatever the runtime allocates for itself would show as well.
fn assert_exact(go: &Path, rounds: u32) {
    let mut command = program("run --format json --");
    let ended = Running::start(command.arg(go).arg(rounds.to_string()).env("GOGC", "20")).wait();
    assert_eq!(ended.code, Some(0), "{}: {ended}", go.display());
    compare(&truth_in(&ended.stdout), &Report::last_in(&ended.stdout));
}

fn compare(truth: &Value, report: &Report) {
    let process = report.process(truth["pid"].as_u64().unwrap());
    assert_eq!(process.0["coverage"]["tier"], "large-path", "{report}");
    let classes = truth["classes"].as_object().unwrap();
    assert!(classes.len() >= 4, "{truth}");
    let expected: Vec<(u64, u64, u64)> = classes
        .iter()
        .map(|(class, of)| (class.parse().unwrap(), of[0].as_u64().unwrap(), of[1].as_u64().unwrap()))
        .collect();
    let mut counted: Vec<(u64, u64, u64)> = process
        .classes("go")
        .into_iter()
        .map(|class| (class, process.counts("go", class).calls, process.counts("go", class).bytes))
        .collect();
    counted.sort_unstable();
    let mut expected = expected;
    expected.sort_unstable();
    assert_eq!(counted, expected, "counted against truth, {}", process.0["coverage"]["allocator"]);
    // No call is abandoned either: where a program panics, its allocations have ended.
    assert_eq!(report.losses(), [], "{report}");
}

#[test]
fn a_running_program_can_be_attached_to() {
    for version in [DEBIAN, "1.27.3"] {
        let mut target = start_waiting(&build(version, "large", PLAIN), 4);
        let tracer = attach(target.pid(), "");
        target.tell("");
        let ended = target.wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let traced = tracer.wait();
        assert_eq!(traced.code, Some(0), "{traced}");
        compare(&truth_in(&ended.stdout), &Report::last_in(&traced.stdout));
    }
}

/// Killed, allocscope detaches nothing itself; the kernel does, as it does behind one that is stopped. The bytes
/// of the program's code tell, and a program that runs on over left-over probes would be another way to notice.
#[test]
fn a_tracer_that_goes_leaves_the_code_as_it_was_and_another_one_works() {
    // A file of its own: tracers of other tests probe all processes of theirs.
    let go = build("1.27.3", "large", &["-o", "killed"]);
    let mut target = start_waiting(&go, 4);
    let sites = sites_of(&go);
    let original = code_at(target.pid(), &go, &sites);
    let ways = [&[Signal::SIGKILL][..], &[Signal::SIGTERM], &[Signal::SIGTERM, Signal::SIGKILL]];
    for signals in ways {
        let tracer = attach(target.pid(), "");
        let probed = code_at(target.pid(), &go, &sites);
        assert!(original.iter().zip(&probed).all(|(before, now)| before != now), "{original:x?} {probed:x?}");
        signals.iter().for_each(|&signal| tracer.signal(signal));
        tracer.wait();
        let restored = eventually(LIMIT, || code_at(target.pid(), &go, &sites) == original);
        assert!(restored, "{original:x?} {:x?}", code_at(target.pid(), &go, &sites));
    }

    let (one, two) = (attach(target.pid(), ""), attach(target.pid(), ""));
    target.tell("");
    let ended = target.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    for tracer in [one, two] {
        compare(&truth_in(&ended.stdout), &Report::last_in(&tracer.wait().stdout));
    }
}

#[test]
fn a_process_that_was_not_asked_for_keeps_its_code() {
    // A file of its own, as above.
    let go = build("1.27.3", "large", &["-o", "asked"]);
    let (mut asked, mut other) = (start_waiting(&go, 3), start_waiting(&go, 3));
    let sites = sites_of(&go);
    let original = code_at(other.pid(), &go, &sites);
    let tracer = attach(asked.pid(), "");
    assert_eq!(code_at(other.pid(), &go, &sites), original);
    assert_ne!(code_at(asked.pid(), &go, &sites), original);
    asked.tell("");
    other.tell("");
    let (asked, other) = (asked.wait(), other.wait());
    assert_eq!((asked.code, other.code), (Some(0), Some(0)));
    let report = Report::last_in(&tracer.wait().stdout);
    compare(&truth_in(&asked.stdout), &report);
    assert_eq!(report.processes().count(), 1, "{report}");
}

/// One that runs already, one that starts later, and the program of another name between them.
#[test]
fn processes_of_one_binary_are_counted_apart_by_the_daemon() {
    let go = build("1.25.5", "large", &["-o", "twins"]);
    let mut first = start_waiting(&go, 3);
    let daemon = Running::start(&mut program("daemon --listen 127.0.0.1:0 --comm ^twins$"));
    let address = address(&daemon);
    let mut second = start_waiting(&go, 5);
    let seen = |pid| Metrics::scrape(address).of_process("allocscope_process_info", pid, &[]).is_some();
    assert!(eventually(LIMIT, || seen(first.pid()) && seen(second.pid())));
    let attached = |pid| {
        let labels = [("state", "attached")];
        Metrics::scrape(address).of_process("allocscope_sites", pid, &labels) == Some(13)
    };
    assert!(eventually(LIMIT, || attached(first.pid()) && attached(second.pid())));
    first.tell("");
    second.tell("");
    let truths = [first.wait(), second.wait()].map(|ended| truth_in(&ended.stdout));
    let expected = truths.map(|truth| {
        let classes = truth["classes"].as_object().unwrap();
        let counts = classes.values().map(|of| of[0].as_u64().unwrap());
        (truth["pid"].as_u64().unwrap() as u32, Some(counts.sum::<u64>()))
    });
    // An ended process is shown once more and then goes, so what was seen last of each counts.
    let mut last = expected.map(|(pid, _)| (pid, None));
    let exact = eventually(LIMIT, || {
        let metrics = Metrics::scrape(address);
        for (pid, count) in &mut last {
            let labels = [("allocator", "go")];
            *count = metrics.of_process("allocscope_allocations_total", *pid, &labels).or(*count);
        }
        last == expected
    });
    assert!(exact, "counted {last:?} of {expected:?}");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code, Some(0));
}

/// Every page of a fresh object faults once, unless the runtime gets huge pages for it: at most 512 times
/// fewer faults then. A page may have been touched before by the object's neighbours or by the runtime, so
/// that some are missing: 2 % is what the runtime's own use of the heap never reached here.
#[test]
fn first_touches_of_fresh_objects_are_attributed_to_them() {
    for version in [DEBIAN, "1.27.3"] {
        let go = build(version, "fresh", PLAIN);
        let mut command = program("run --format json --");
        let ended = Running::start(command.arg(&go).args(["300", "204800"])).wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let truth = truth_in(&ended.stdout);
        let report = Report::last_in(&ended.stdout);
        let process = report.process(truth["pid"].as_u64().unwrap());
        assert_eq!(process.counts("go", 131_072).calls, 300, "{report}");
        let (pages, large) = (truth["pages"].as_u64().unwrap(), process.faults("minor", "large"));
        assert!(large <= pages && large * 100 >= pages * 98, "{large} faults in {pages} pages: {report}");
    }
}

/// What an arena takes bypasses the large path. An arena of Go's own that was freed may give a chunk to the
/// next one only after a collection, of which there is none here.
#[test]
fn slow_allocations_tell_their_goroutine() {
    for version in VERSIONS {
        let go = build(version, "site", STRIPPED);
        let ended = allocscope(&format!("run --format json --slow 1us -- {} 3", go.display()));
        let truth = truth_in(&ended.stdout);
        let report = Report::last_in(&ended.stdout);
        let process = report.process(truth["pid"].as_u64().unwrap());
        let slow = process.0["slow_allocations"].as_array().unwrap();
        let of = |bytes: u64| slow.iter().find(|one| one["size_bytes"] == bytes);
        let [reader, first] = [4 << 20, 1 << 20].map(|bytes| of(bytes).unwrap_or_else(|| panic!("{slow:?}")));
        assert_eq!(reader["goroutine"], truth["reader"], "{version}: {reader}");
        assert_eq!(first["goroutine"], 1, "{version}: {first}");
        assert_ne!(truth["reader"], 1);
    }
}

#[test]
fn chunks_of_arenas_are_counted() {
    for version in ["1.21.13", "1.22.10", "1.24.11", "1.25.5", "1.26.6", "1.27.3"] {
        let go = build(version, "arenas", PLAIN);
        let mut command = program("run --format json --");
        let ended = Running::start(command.arg(&go).arg("10").env("GOGC", "off")).wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let (truth, report) = (truth_in(&ended.stdout), Report::last_in(&ended.stdout));
        let process = report.process(truth["pid"].as_u64().unwrap());
        let chunks = truth["chunks"].as_u64().unwrap();
        let counts = process.counts("go_arena", 8 << 20);
        assert_eq!((counts.calls, counts.bytes), (chunks, chunks * (8 << 20)), "{version}: {report}");
        assert_eq!(process.classes("go_arena"), [8 << 20]);
        assert_eq!(report.losses(), [], "{report}");
    }
}

/// Go's own allocations end before a panic begins, so that this takes a runtime that does otherwise.
#[test]
fn calls_that_a_panic_unwinds_are_given_up_and_told() {
    let overlay = overlay_runtime("1.27.3");
    let go = build("1.27.3", "unwound", &[&format!("-overlay={}", overlay.display())]);
    let ended = Running::start(program("run --format json --").arg(&go).arg("100")).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::last_in(&ended.stdout);
    let process = report.process(truth_in(&ended.stdout)["pid"].as_u64().unwrap());
    assert_eq!(report.losses(), [("call_abandoned".to_owned(), 100)], "{report}");
    assert_eq!(process.classes("go"), [65_536]);
    assert_eq!(process.counts("go", 65_536).calls, 1);
}

/// Tells the toolchain to take a runtime whose `mallocgcLarge` panics for objects of 777777 bytes.
fn overlay_runtime(version: &str) -> PathBuf {
    let original = tools().join("go").join(version).join("src/runtime/malloc.go");
    let source = fs::read_to_string(&original).unwrap();
    let at = source.find("\nfunc mallocgcLarge(").unwrap();
    let body = at + source[at..].find("{\n").unwrap() + 2;
    let change = "if size == 777777 { panic(\"changed\") }\n";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go").join(version);
    fs::create_dir_all(&folder).unwrap();
    let (changed, overlay) = (folder.join("malloc.go"), folder.join("overlay.json"));
    fs::write(&changed, [&source[..body], change, &source[body..]].concat()).unwrap();
    fs::write(&overlay, serde_json::json!({"Replace": {original.to_str().unwrap(): changed}}).to_string())
        .unwrap();
    overlay
}

/// Behind a shell's `exec` it is looked at while it runs.
#[test]
fn a_program_that_was_probed_late_says_so() {
    let file = build(DEBIAN, "large", PLAIN);
    let reasons = |command: &mut Command| -> Vec<String> {
        let ended = Running::start(command).wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let report = Report::last_in(&ended.stdout);
        let process = report.process(truth_in(&ended.stdout)["pid"].as_u64().unwrap());
        let misses = process.0["coverage"]["misses"].as_array().unwrap().iter();
        misses.map(|miss| miss["reason"].as_str().unwrap().to_owned()).collect()
    };
    let late = "probed_late".to_owned();
    let behind = format!("exec {} 2", file.display());
    assert!(reasons(program("run --format json -- sh -c").arg(behind)).contains(&late));
    assert!(!reasons(program("run --format json --").arg(&file).arg("2")).contains(&late));
}

#[test]
fn inspect_finds_the_same_sites_with_and_without_symbols() {
    for version in VERSIONS {
        let [plain, stripped] = [PLAIN, STRIPPED].map(|flags| inspect(&build(version, "large", flags)));
        assert_eq!(plain["tier"], "large-path", "{plain}");
        assert!(plain["allocator"].as_str().unwrap().starts_with(&format!("go{version}")), "{plain}");
        let offsets = |view: &Value| -> Vec<(String, u64)> {
            let sites = view["sites"].as_array().unwrap().iter();
            sites.map(|site| (site["role"].to_string(), site["function_offset"].as_u64().unwrap())).collect()
        };
        assert!(offsets(&plain).len() >= 2, "{plain}");
        assert_eq!(offsets(&plain), offsets(&stripped));
        assert_eq!(stripped["stripped"], true);
    }
}

/// A program that calls itself one of a version whose structs differ: those of 1.23 and 1.24 have a field more in `g`,
/// those of 1.25 and later one less in `m`.
#[test]
fn debug_information_is_believed_where_it_contradicts_the_version() {
    let folder = TempDir::new();
    for version in VERSIONS {
        let of_another = folder.join(version);
        fs::write(&of_another, of_another_version(&build(version, "large", PLAIN))).unwrap();
        assert_contradicted(&of_another);
    }
}

fn of_another_version(program: &Path) -> Vec<u8> {
    let mut bytes = fs::read(program).unwrap();
    let version = inspect(program)["allocator"].as_str().unwrap().to_owned();
    let minor: u32 = version[4..6].parse().unwrap();
    let other = match minor {
        ..23 => 23,
        23..25 => 22,
        _ => 24,
    };
    let places = memchr::memmem::find_iter(&bytes, &version).collect::<Vec<_>>();
    places.iter().for_each(|at| bytes[at + 4..at + 6].copy_from_slice(other.to_string().as_bytes()));
    bytes
}

fn assert_contradicted(program: &Path) {
    let plan = inspect(program);
    let reasons: Vec<_> = plan["misses"].as_array().unwrap().iter().map(|miss| &miss["reason"]).collect();
    assert_eq!(
        (&plan["tier"], &reasons[..]),
        (&"kernel".into(), &[&"go_layout_differs".into()][..]),
        "{plan}"
    );
}

fn inspect(path: &Path) -> Value {
    let ended = allocscope(&format!("inspect --format json {}", path.display()));
    assert_eq!(ended.code, Some(0), "{ended}");
    serde_json::from_str(&ended.stdout).unwrap()
}

/// File offsets of the probe sites.
fn sites_of(go: &Path) -> Vec<u64> {
    let view = inspect(go);
    view["sites"].as_array().unwrap().iter().map(|site| site["file_offset"].as_u64().unwrap()).collect()
}

/// The first byte of each site in the memory of a process.
fn code_at(pid: u32, go: &Path, sites: &[u64]) -> Vec<u8> {
    let maps = procfs::process::Process::new(pid as i32).unwrap().maps().unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let byte_at = |&site: &u64| {
        let holds = |map: &procfs::process::MemoryMap| {
            let is_file = matches!(&map.pathname, procfs::process::MMapPath::Path(path) if path == go);
            is_file && (map.offset..map.offset + map.address.1 - map.address.0).contains(&site)
        };
        let map = maps.iter().find(|map| holds(map)).unwrap();
        let mut byte = [0];
        memory.read_exact_at(&mut byte, map.address.0 + site - map.offset).unwrap();
        byte[0]
    };
    sites.iter().map(byte_at).collect()
}

/// The program, waiting for a line.
fn start_waiting(go: &Path, rounds: u32) -> Running {
    Running::start(Command::new(go).arg(rounds.to_string()).arg("wait").env("GOGC", "20"))
}
