//! Which code allocscope says allocates, against programs that know: profiles, folded stacks, flame graphs, and the
//! slowest allocations of a report.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use allocscope::allocator::elf::Image;
use allocscope::intake::StackCopy;
use allocscope::symbol::{Module, UnwindTables, Unwinder};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Ended, Report, Running, TempDir, allocscope, program};

const LARGE: u64 = 4 << 20;
const SMALL: u64 = 1 << 20;
const BLOCKS: u64 = 20;

/// Of `site.c`, without frame pointers: only unwind tables lead from a block to who asked for it.
#[test]
fn native_code_without_frame_pointers_is_named_and_counted_exactly() {
    let site = native();
    for (path, caller) in [(&site, true), (&stripped(&site), false)] {
        let ended =
            record(&format!("-o - --format folded --weight bytes -s 1MiB -- {} {BLOCKS}", path.display()));
        assert!(ended.stderr.contains("each with its stack"), "{ended}");
        let stacks = stacks(&ended);
        if caller {
            assert_eq!(weight(&stacks, "main;read_catalogue;load_pages"), BLOCKS * LARGE, "{ended}");
            assert_eq!(weight(&stacks, "main;keep_small"), BLOCKS * SMALL, "{ended}");
        } else {
            // Two stacks of the module's own code, of as many bytes.
            let of_module = |bytes| {
                stacks.iter().any(|(stack, weight)| stack.contains(";site-stripped+0x") && *weight == bytes)
            };
            assert!(of_module(BLOCKS * LARGE) && of_module(BLOCKS * SMALL), "{ended}");
        }
    }
}

#[test]
fn every_weight_is_of_the_code_that_pays() {
    let site = native();
    let of = |by: &str| {
        let ended = record(&format!("-o - -f folded -w {by} -s 1MiB -- {} {BLOCKS}", site.display()));
        (weight(&stacks(&ended), "read_catalogue;load_pages"), weight(&stacks(&ended), "main;keep_small"))
    };
    assert_eq!(of("count"), (BLOCKS, BLOCKS));
    let (touched, kept) = of("faults");
    // Each page of the one, the first (with its header) of the other.
    assert!((BLOCKS..=BLOCKS * (LARGE / 4096 + 1)).contains(&touched), "{touched}");
    assert!(kept < touched, "{kept} {touched}");
    for by in ["touch", "release"] {
        let (of_large, of_small) = of(by);
        assert!(of_large > of_small, "{by}: {of_large} {of_small}");
    }
    assert!(of("call").1 > 0);
}

#[test]
fn a_flame_graph_is_well_formed_and_names_the_code() {
    let folder = TempDir::new();
    let path = folder.join("touch.svg");
    let line = format!("-o {} -f svg -w touch -- {} {BLOCKS}", path.display(), native().display());
    assert_eq!(record(&line).stdout.lines().count(), 1);
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(svg.contains("<title>load_pages") && svg.contains("<title>main"), "{svg}");
    assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"));
}

#[test]
fn go_opens_the_profile_with_the_allocating_function_on_top() {
    let folder = TempDir::new();
    for (version, flags) in [("1.27.3", ""), ("1.27.3", "-s -w"), ("1.22.10", "-s -w")] {
        let site = go(version, flags);
        let path = folder.join("large.pb.gz");
        let ended = record(&format!("-o {} -- {} {BLOCKS}", path.display(), site.display()));
        assert!(ended.stderr.contains("each with its stack"), "{ended}");
        let top = top(&path, "alloc_space");
        assert_eq!(first(&top), ["80MB", "main.loadCatalogue"], "{top}");
        assert!(top.contains(" 20MB") && top.contains("main.keepIndex"), "{top}");
        assert_eq!(first(&self::top(&path, "touch"))[1], "main.loadCatalogue");
        let counted = self::top(&path, "allocations");
        assert!(counted.contains("100% of 40 total"), "{counted}");
    }
}

#[test]
fn a_slow_allocation_is_listed_with_its_size_and_stack() {
    let site = native();
    for threshold in ["1us", "100ms"] {
        let line = format!("run --format json --slow {threshold} -- {} 3", site.display());
        let ended = allocscope(&line);
        assert_eq!(ended.code, Some(0), "{ended}");
        let report = Report::last_in(&ended.stdout);
        let process = report.process(truth(&ended.stdout)["pid"].as_u64().unwrap());
        let slow = process.0["slow_allocations"].as_array().unwrap();
        let is_it = |one: &&Value| one["size_bytes"] == LARGE && one["frames"][1] == "read_catalogue";
        let found = slow.iter().find(is_it).unwrap_or_else(|| panic!("{slow:?}"));
        assert!(found["frames"][0].as_str().unwrap().starts_with("load_pages"), "{found}");
        assert_eq!(found["allocator"], "glibc");
        assert!(found["touch_seconds"].as_f64().or(found["call_seconds"].as_f64()).unwrap() > 0.0);
    }
}

#[test]
fn a_running_process_is_recorded_until_it_ends() {
    let mut target = Running::start(Command::new(native()).arg("20").arg("wait"));
    target.until_waiting_for_input();
    let line = format!("record --pid {} -o - -f folded -s 1MiB", target.pid());
    let tracer = Running::start(&mut program(&line));
    tracer.until_stderr("recording process");
    target.tell("");
    assert_eq!(target.wait().code, Some(0));
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(weight(&stacks(&ended), "main;read_catalogue;load_pages"), BLOCKS * LARGE, "{ended}");
}

#[test]
fn stack_depths_are_counted_where_asked_for() {
    let site = go("1.27.3", "");
    let ended = allocscope(&format!("run --format json --stack-depth -- {} {BLOCKS}", site.display()));
    let report = Report::last_in(&ended.stdout);
    let process = report.process(truth(&ended.stdout)["pid"].as_u64().unwrap());
    let frames = &process.0["stack_frames"]["go"];
    assert_eq!(frames["count"], 2 * BLOCKS, "{report}");
    // mallocgcLarge, mallocgc, makeslice, one or two of the program's, main, runtime.main, goexit.
    assert_eq!(
        (&frames["at_most"]["4"], &frames["at_most"]["15"]),
        (&Value::from(0), &Value::from(2 * BLOCKS))
    );
    let without = allocscope(&format!("run --format json -- {} 1", site.display()));
    assert!(!without.stdout.contains("stack_frames"), "{without}");
}

#[test]
fn what_cannot_be_written_is_told_in_one_sentence() {
    let ended = record_any("-o /nonexistent/folder/p.pb.gz -- true");
    assert_eq!(ended.code, Some(1), "{ended}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    assert!(ended.stderr.contains("cannot write /nonexistent/folder/p.pb.gz"), "{ended}");
    let nothing = record_any("-o - -f svg --min-size 1GiB -- true");
    assert_eq!(nothing.code, Some(6), "{nothing}");
    assert_eq!(record_any("-o - -- /nonexistent/program").code, Some(127));
}

/// Files that were damaged are looked at in bounded time, and nothing panics.
#[test]
fn mutants_of_a_program_are_named_and_unwound() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/site.c");
    let path = build("site-debug", |output| {
        let mut command = Command::new("cc");
        command.args(["-g", "-O2", "-fomit-frame-pointer"]).arg(&source).arg("-o").arg(output);
        command
    });
    let bytes = std::fs::read(path).unwrap();
    let whole = look_into(&bytes);
    let names = |start: &str| whole.iter().any(|name| name.starts_with(start));
    assert!(names("main") && names("load_pages"), "{whole:?}");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for mutant in 0..400 {
        let mut bytes = bytes.clone();
        for _ in 0..1 + mutant % 24 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = random as usize % bytes.len();
            bytes[at] = (random >> 40) as u8;
        }
        let began = Instant::now();
        look_into(&bytes);
        assert!(began.elapsed() < Duration::from_secs(20), "mutant {mutant}");
    }
}

/// Names at every sixteenth address of an image's code, and a stack unwound from each.
fn look_into(bytes: &[u8]) -> Vec<String> {
    let Ok(image) = Image::parse(bytes) else { return Vec::new() };
    let ranges: Vec<_> = image.executable_ranges().collect();
    let addresses: Vec<u64> =
        ranges.iter().flat_map(|range| range.clone().take(1 << 14).step_by(16)).collect();
    let mut unwinder = Unwinder::default();
    let tables = UnwindTables::of(&image);
    ranges.iter().for_each(|range| unwinder.add(range.clone(), 0, &tables));
    for &ip in &addresses {
        let stack = StackCopy {
            ip,
            sp: 0x7000,
            fp: 0x7100,
            bytes: addresses.iter().flat_map(|at| at.to_ne_bytes()).collect(),
        };
        assert!(unwinder.frames(&stack).len() <= 127);
    }
    Module::new(&image, None).names(&addresses, || true).into_values().flatten().collect()
}

fn record(line: &str) -> Ended {
    let ended = record_any(line);
    assert_eq!(ended.code, Some(0), "{ended}");
    ended
}

fn record_any(line: &str) -> Ended {
    allocscope(&format!("record {line}"))
}

/// Folded stacks and their weights.
fn stacks(ended: &Ended) -> Vec<(String, u64)> {
    let lines = ended.stdout.lines().filter(|line| !line.starts_with('{'));
    let stack = |line: &str| {
        let (stack, weight) = line.rsplit_once(' ').unwrap();
        (stack.to_owned(), weight.parse().unwrap())
    };
    lines.map(stack).collect()
}

/// What the stacks with a text weigh.
fn weight(stacks: &[(String, u64)], text: &str) -> u64 {
    stacks.iter().filter(|(stack, _)| stack.contains(text)).map(|(_, weight)| weight).sum()
}

/// What a program says of itself.
fn truth(stdout: &str) -> Value {
    let line = stdout.lines().find(|line| line.contains("\"large\"")).unwrap();
    serde_json::from_str(line).unwrap()
}

/// `go tool pprof -top`.
fn top(profile: &Path, value: &str) -> String {
    let mut command = go_command("1.27.3");
    command
        .args(["tool", "pprof", "-top", "-nodecount=10"])
        .arg(format!("-sample_index={value}"))
        .arg(profile);
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// Value and function of the first line below the heading.
fn first(top: &str) -> [&str; 2] {
    let mut lines = top.lines().skip_while(|line| !line.contains("flat%"));
    let words: Vec<_> = lines.nth(1).unwrap().split_whitespace().collect();
    [words[0], words[words.len() - 1]]
}

fn tools() -> PathBuf {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(beside, PathBuf::from)
}

fn go_command(version: &str) -> Command {
    let go = tools().join("go").join(version).join("bin/go");
    assert!(go.is_file(), "{} is missing: run `cargo xtask setup`", go.display());
    let mut command = Command::new(go);
    command.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("gocache"));
    command.env("GOTOOLCHAIN", "local").env("GO111MODULE", "off").env("CGO_ENABLED", "0");
    command.env_remove("GOFLAGS").env_remove("GOROOT").env_remove("GOEXPERIMENT");
    command
}

fn go(version: &str, linker_flags: &str) -> PathBuf {
    let name = format!("site-{version}{}", linker_flags.replace([' ', '-'], ""));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/site.go");
    build(&name, |output| {
        let mut command = go_command(version);
        command.args(["build", "-trimpath"]).arg(format!("-ldflags={linker_flags}"));
        command.arg("-o").arg(output).arg(&source);
        command
    })
}

fn native() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/site.c");
    build("site", |output| {
        let mut command = Command::new("cc");
        command.args(["-std=gnu11", "-O2", "-fomit-frame-pointer", "-Wall", "-Wextra"]);
        command.arg(&source).arg("-o").arg(output);
        command
    })
}

fn stripped(program: &Path) -> PathBuf {
    build("site-stripped", |output| {
        let mut command = Command::new("strip");
        command.arg(program).arg("-o").arg(output);
        command
    })
}

/// Builds a program aside and moves it: one that runs is not written over.
fn build(name: &str, command: impl Fn(&Path) -> Command) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("record");
    std::fs::create_dir_all(&folder).unwrap();
    let (output, aside) = (folder.join(name), folder.join(format!("{name}.new")));
    if !output.is_file() || is_older(&output) {
        let built = command(&aside).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        std::fs::rename(&aside, &output).unwrap();
    }
    output
}

/// Whether a program was built before this test was.
fn is_older(program: &Path) -> bool {
    let time = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    time(program) < time(&std::env::current_exe().unwrap())
}
