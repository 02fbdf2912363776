//! Probe sites in programs for AArch64, against what the disassemblers of their toolchains say of the same code.
//!
//! The programs are compiled here and cannot run here: what is tested is the plan, and that it stays one.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "arm64/listing.rs"]
mod listing;
mod support;

use allocscope::allocator::{Examination, Request, examine};
use allocscope::site::arm64::instruction::Instruction;
use allocscope::site::arm64::stack::depth_change;
use listing::{Line, c_function, cross, disassembly, exported_function, go_function, output, tools};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use support::{Report, Running, attach};

const PLAIN: &[&str] = &[];
const STRIPPED: &[&str] = &["-ldflags=-s -w"];
const PIE: &[&str] = &["-buildmode=pie"];
const STRIPPED_PIE: &[&str] = &["-buildmode=pie", "-ldflags=-s -w"];

/// Role, bytes from the function's start, and the encoding of what stands there.
type Place = (String, u64, u32);

macro_rules! sites_are_where_the_toolchain_says {
    ($($test:ident: $version:expr),*) => { $(
        #[test]
        fn $test() {
            for (flags, twin) in [(PLAIN, PLAIN), (STRIPPED, PLAIN), (PIE, PIE), (STRIPPED_PIE, PIE)] {
                assert_go_sites($version, flags, twin);
            }
        }
    )* };
}

sites_are_where_the_toolchain_says! {
    go_1_19: "1.19", go_1_22: "1.22.10", go_1_24: "1.24.11", go_1_25: "1.25.5", go_1_27: "1.27.3"
}

/// `twin` is the same build with symbols, which a disassembler needs.
fn assert_go_sites(version: &str, flags: &[&str], twin: &[&str]) {
    let (program, twin) = (go_program(version, "large", flags), go_program(version, "large", twin));
    let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
    let name = if minor >= 24 { "runtime.mallocgcLarge" } else { "runtime.(*mcache).allocLarge" };
    let lines = go_function(version, &twin, name);
    let mut expected = expected_in(&lines);
    if minor >= 24 {
        expected.extend(calls_of(&lines, "gc start", "runtime.gcStart(SB)"));
        expected.extend(calls_of(&lines, "zeroing", "runtime.memclrNoHeapPointersChunked(SB)"));
        assert_eq!(expected.len(), 4, "{version}: {expected:x?}");
    }
    let view = inspect(&program);
    assert_eq!(places(&view, &program), expected, "{}: {view}", program.display());
    assert!(view["sites"].as_array().unwrap().iter().all(|site| site["function"] == name));
    assert_foreign(&view);
}

/// The entry behind the stack check, and the returns.
fn expected_in(lines: &[Line]) -> Vec<Place> {
    let check = lines.iter().position(|line| line.mnemonic() == "BLS").unwrap();
    assert!(check < 4 && lines.len() > 100);
    let returns = lines.iter().filter(|line| line.mnemonic() == "RET");
    let places: Vec<_> = std::iter::once(place("entry", lines, &lines[check + 1]))
        .chain(returns.map(|line| place("exit", lines, line)))
        .collect();
    assert!(places.len() >= 2);
    places
}

fn calls_of(lines: &[Line], role: &str, callee: &str) -> Vec<Place> {
    let calls = lines.iter().filter(|line| line.words == ["CALL", callee]);
    calls.map(|line| place(role, lines, line)).collect()
}

fn place(role: &str, lines: &[Line], line: &Line) -> Place {
    (role.to_owned(), line.address - lines[0].address, line.encoding)
}

/// The planned sites, with what the file has where they are to be attached.
fn places(view: &Value, program: &Path) -> Vec<Place> {
    let file = fs::read(program).unwrap();
    let sites = view["sites"].as_array().unwrap().iter();
    sites
        .map(|site| {
            let at = site["file_offset"].as_u64().unwrap() as usize;
            let encoding = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            (site["role"].as_str().unwrap().to_owned(), site["function_offset"].as_u64().unwrap(), encoding)
        })
        .collect()
}

/// It is told that nothing will be attached, and nothing is promised or priced.
fn assert_foreign(view: &Value) {
    let misses = view["misses"].as_array().unwrap();
    assert!(misses.iter().any(|miss| miss["reason"] == "machine_differs"), "{view}");
    assert_eq!((view["tier"].as_str(), view["cost"].is_null()), (Some("kernel"), true), "{view}");
    assert!(view["sites"].as_array().unwrap().iter().all(|site| site["predicted_ns"].is_null()), "{view}");
}

/// On this machine returns are single-stepped; there they are simulated, and so are the marks.
#[test]
fn entries_are_stepped_and_exits_are_simulated() {
    for version in ["1.22.10", "1.27.3"] {
        let view = inspect(&go_program(version, "large", PLAIN));
        for site in view["sites"].as_array().unwrap() {
            let class = if site["role"] == "entry" { "single-stepped" } else { "emulated" };
            assert_eq!(site["class"], class, "{view}");
        }
    }
}

#[test]
fn chunks_of_arenas_have_their_sites() {
    for version in ["1.22.10", "1.27.3"] {
        let program = go_program(version, "arenas", PLAIN);
        let lines = go_function(version, &program, "runtime.newUserArenaChunk");
        let mut expected = expected_in(&lines);
        expected.extend(calls_of(&lines, "gc start", "runtime.gcStart(SB)"));
        let view = inspect(&program);
        let sites: BTreeMap<_, _> = view["sites"]
            .as_array()
            .unwrap()
            .iter()
            .zip(places(&view, &program))
            .filter(|(site, _)| site["function"] == "runtime.newUserArenaChunk")
            .map(|(site, place)| (site["function_offset"].as_u64().unwrap(), place))
            .collect();
        expected.sort_by_key(|&(_, offset, _)| offset);
        assert_eq!(sites.into_values().collect::<Vec<_>>(), expected, "{version}: {view}");
    }
}

/// Flags, and what the probe is to stand on: the first of its kind.
const SHAPES: [(&[&str], &str, &str); 6] = [
    (&[], "adrp", "emulated"),
    // bti c; adrp: a landing pad is passed.
    (&["-mbranch-protection=bti"], "adrp", "emulated"),
    // cmp; b.hi: the arguments are only looked at.
    (&["-DLIMIT=777777"], "b.hi", "emulated"),
    // stp x29, x30, [sp, #-32]!: the return address goes to the stack.
    (&["-DOTHERS"], "stp", "single-stepped"),
    // paciasp: a return probe has to replace the address before it is signed.
    (&["-DOTHERS", "-mbranch-protection=standard"], "paciasp", "single-stepped"),
    // The comparison comes before the frame.
    (&["-DOTHERS", "-DLIMIT=777777", "-mbranch-protection=bti"], "b.hi", "emulated"),
];

#[test]
fn a_native_entry_is_where_nothing_has_changed_yet() {
    for (flags, mnemonic, class) in SHAPES {
        let base = ["-nostdlib", "-ffreestanding", "path.c"];
        let program = c_program(&flags.concat().replace(['-', '='], ""), &[&base[..], flags].concat());
        let lines = c_function(&program, "_int_malloc");
        let line = lines.iter().find(|line| line.mnemonic() == mnemonic).unwrap();
        assert_call(&program, &lines, line, class);
    }
}

/// The C library's own, in a program that it is linked into.
#[test]
fn the_c_library_is_probed_where_its_disassembly_begins() {
    let program = c_program("alloc", &["alloc.c"]);
    let lines = c_function(&program, "_int_malloc");
    assert!(lines.len() > 300, "{} instructions", lines.len());
    assert_eq!((lines[0].mnemonic(), lines[0].words[2].as_str()), ("stp", "x30,"));
    assert_call(&program, &lines, &lines[0], "single-stepped");
}

fn assert_call(program: &Path, lines: &[Line], line: &Line, class: &str) {
    let view = inspect(program);
    assert_eq!(places(&view, program), [place("call", lines, line)], "{}: {view}", program.display());
    let site = &view["sites"][0];
    assert_eq!((&site["function"], &site["class"]), (&"_int_malloc".into(), &class.into()), "{view}");
    assert_foreign(&view);
}

#[test]
fn a_stripped_program_says_that_its_code_is_not_followed() {
    let view = inspect(&c_program("alloc-stripped", &["-s", "alloc.c"]));
    assert_eq!(view["sites"].as_array().unwrap().len(), 0, "{view}");
    assert_foreign(&view);
    let library = tools().join("arm64/usr/aarch64-linux-gnu/lib/libc.so.6");
    let view = inspect(&library);
    assert_eq!((view["allocator"].as_str(), view["sites"].as_array().unwrap().len()), (Some("glibc"), 0));
    let misses = view["misses"].as_array().unwrap();
    let miss = misses.iter().find(|miss| miss["reason"] == "allocator_path_not_found").unwrap();
    assert!(miss["detail"].as_str().unwrap().contains("only the code of x86-64 is followed"), "{view}");
}

/// A stripped library is probed where its debug file says, which is where it was before.
#[test]
fn a_debug_file_names_what_a_stripped_library_has() {
    let flags = ["-shared", "-fPIC", "-fvisibility=hidden", "-nostdlib", "-Wl,--build-id=0x0123456789abcdef"];
    let whole = c_program("library", &[&flags[..], &["path.c"]].concat());
    let folder = once("debug", |folder| {
        let (id, library) = (folder.join(".build-id/01"), folder.join("libc.so.6"));
        fs::create_dir_all(&id).unwrap();
        output(cross("objcopy").arg("--only-keep-debug").arg(&whole).arg(id.join("23456789abcdef.debug")));
        output(cross("strip").arg("-o").arg(library).arg(&whole));
    });
    let library = folder.join("libc.so.6");
    assert_eq!(inspect(&library)["sites"].as_array().unwrap().len(), 0);
    let view = inspect_with(&library, &format!("--debug-dir {}", folder.display()));
    let lines = c_function(&whole, "_int_malloc");
    assert_eq!(places(&view, &library), [place("call", &lines, &lines[0])], "{view}");
    assert_eq!(view["sites"][0]["found_by"], "debug file", "{view}");
}

/// Exported functions of the C library, by their dynamic symbols.
#[test]
fn exported_functions_are_found_in_the_code_of_their_machine() {
    let library = tools().join("arm64/usr/aarch64-linux-gnu/lib/libc.so.6");
    let view = inspect_with(&library, "--allow-small-cost");
    let places = places(&view, &library);
    let sites = view["sites"].as_array().unwrap();
    assert!(sites.len() >= 8, "{view}");
    for (site, (_, offset, encoding)) in sites.iter().zip(places) {
        let lines = exported_function(&library, site["function"].as_str().unwrap());
        let line = lines.iter().find(|line| line.address - lines[0].address == offset).unwrap();
        assert_eq!(line.encoding, encoding, "{site}");
        let is_simulated = ["b", "adrp", "cbz", "cbnz", "tbz", "tbnz", "nop"]
            .contains(&line.mnemonic().split('.').next().unwrap());
        assert_eq!(site["class"] == "emulated", is_simulated, "{site} {line:?}");
        let before = lines.iter().take_while(|line| line.address - lines[0].address < offset);
        assert!(
            before.flat_map(|line| &line.words).all(|word| !word.contains("sp") && !word.contains("x30"))
        );
    }
    assert_foreign(&view);
}

/// A process can map what it cannot run, under the name of a library that is probed. The code stays as it is, while
/// the process' own C library is probed.
#[test]
fn a_mapped_library_of_another_machine_is_left_alone() {
    let library = tools().join("arm64/usr/aarch64-linux-gnu/lib/libc.so.6");
    let planned = inspect_with(&library, "--allow-small-cost");
    let sites: Vec<u64> = planned["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|site| site["file_offset"].as_u64().unwrap())
        .collect();
    let program = once("map", |path| {
        let source = format!("{}/tests/arm64/map.c", env!("CARGO_MANIFEST_DIR"));
        output(Command::new("cc").args(["-O2", "-fno-builtin", "-o"]).arg(path).arg(source));
    });
    let mut target = Running::start(Command::new(program).arg(&library));
    let line = target.until_stdout("\n");
    let base = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
    let original = code_at(target.pid(), base, &sites);
    let tracer = attach(target.pid(), "--allow-small-cost");
    assert_eq!(code_at(target.pid(), base, &sites), original);
    target.tell("");
    let pid = target.pid();
    assert_eq!(target.wait().code, Some(0));
    let traced = tracer.wait();
    assert_eq!(traced.code, Some(0), "{traced}");
    let report = Report::last_in(&traced.stdout);
    let coverage = &report.process(u64::from(pid)).0["coverage"];
    let reasons: Vec<_> =
        coverage["misses"].as_array().unwrap().iter().map(|miss| miss["reason"].clone()).collect();
    assert!(reasons.contains(&"machine_differs".into()), "{report}");
    let [attached, all] = ["sites_attached", "sites_planned"].map(|name| coverage[name].as_u64().unwrap());
    assert_eq!((attached > 0, all - attached), (true, sites.len() as u64), "{report}");
}

/// The instruction at each place in a mapping of a process.
fn code_at(pid: u32, base: u64, sites: &[u64]) -> Vec<[u8; 4]> {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let word_at = |&site: &u64| {
        let mut word = [0; 4];
        memory.read_exact_at(&mut word, base + site).unwrap();
        word
    };
    sites.iter().map(word_at).collect()
}

/// Where control goes, what the kernel does and what happens to the stack pointer, as name and operands tell.
#[test]
fn each_instruction_is_taken_for_what_it_is_called() {
    let library = tools().join("arm64/usr/aarch64-linux-gnu/lib/libc.so.6");
    for file in [library, go_program("1.27.3", "large", PLAIN)] {
        let lines = disassembly(&file);
        let mut changes = 0;
        // All but what the disassembler has no name for.
        for line in lines.iter().filter(|line| !line.mnemonic().starts_with('.')) {
            changes += usize::from(listing::depth_change(line) != Some(0));
            assert_taken_for(line);
        }
        assert!(lines.len() > 100_000 && changes > 2_000, "{} lines, {changes} changes", lines.len());
    }
}

fn assert_taken_for(line: &Line) {
    let instruction = Instruction(line.encoding);
    assert_eq!(instruction.is_known(), line.mnemonic() != "udf", "{line:x?}");
    assert_eq!(instruction.step(), listing::step(line), "{line:x?}");
    if instruction.is_known() {
        assert_eq!(instruction.next(), listing::next(line), "{line:x?}");
        // What scalable vectors do to the stack pointer is not told apart.
        let is_scalable = line.encoding >> 25 & 0xf == 0b0010;
        let change = if is_scalable { None } else { listing::depth_change(line) };
        assert_eq!(depth_change(instruction), change, "{line:x?}");
    }
}

/// Whatever a file claims, nothing panics or plans a site outside of it.
#[test]
fn damaged_programs_get_sites_inside_themselves_or_none() {
    for program in [go_program("1.22.10", "large", STRIPPED), go_program("1.27.3", "large", PLAIN)] {
        let original = fs::read(&program).unwrap();
        let sites = examined(&original).plan.sites;
        assert!(sites.len() >= 2);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut damaged = original.clone();
            let near = &sites[round % sites.len()];
            let function = (near.file_offset - near.function_offset) as usize;
            damaged[function + (random >> 33) as usize % 600] = (random >> 25) as u8;
            let found = examined(&damaged).plan;
            assert!(found.is_foreign);
            for site in &found.sites {
                assert!(
                    site.function_offset.is_multiple_of(4) && site.file_offset + 4 <= damaged.len() as u64
                );
                let start = site.file_offset - site.function_offset;
                assert!(sites.iter().any(|known| known.file_offset - known.function_offset == start));
            }
        }
    }
}

fn examined(file: &[u8]) -> Examination {
    examine(file, &Request::default()).unwrap()
}

fn inspect(path: &Path) -> Value {
    inspect_with(path, "")
}

fn inspect_with(path: &Path, flags: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allocscope"));
    command.args(["inspect", "--format", "json"]).args(flags.split_whitespace()).arg(path);
    serde_json::from_str(&output(&mut command)).unwrap()
}

/// Compiles a program of `tests/go` for AArch64, once for each way.
fn go_program(version: &str, source: &str, flags: &[&str]) -> PathBuf {
    let name = format!("{source}-{version}{}", flags.concat().replace([' ', '=', '-'], ""));
    once(&name, |path| {
        let go = tools().join("go").join(version).join("bin/go");
        assert!(go.is_file(), "{} is missing: run `cargo xtask setup`", go.display());
        let mut command = Command::new(&go);
        command.args(["build", "-trimpath", "-o"]).arg(path).args(flags).arg(format!("{source}.go"));
        command.current_dir(format!("{}/tests/go", env!("CARGO_MANIFEST_DIR")));
        command.env("GOOS", "linux").env("GOARCH", "arm64").env("CGO_ENABLED", "0");
        command.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("gocache"));
        command.env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
        command.env("GOEXPERIMENT", if source == "arenas" { "arenas" } else { "" });
        output(command.env_remove("GOFLAGS").env_remove("GOROOT"));
    })
}

/// Compiles a program of `tests/arm64`.
fn c_program(name: &str, flags: &[&str]) -> PathBuf {
    once(&format!("c-{name}"), |path| {
        let gcc = output(Command::new("gcc").arg("-dumpversion"));
        let mut command = cross(&format!("gcc-{}", gcc.trim().split('.').next().unwrap()));
        // The compiler looks for its assembler by this beginning of a path.
        let tools = tools().join("arm64/usr/bin/aarch64-linux-gnu-");
        command.arg(format!("-B{}", tools.display()));
        command.args(if flags.contains(&"-shared") { &["-O2"][..] } else { &["-O2", "-static"] });
        command.arg("-o").arg(path).args(flags);
        output(command.current_dir(format!("{}/tests/arm64", env!("CARGO_MANIFEST_DIR"))));
    })
}

/// Makes a file once in a run of the tests.
fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("arm64");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    if !made.iter().any(|known| known == name) {
        make(&path);
        made.push(name.to_owned());
    }
    path
}
