//! What programs tell of their own memory by the provider's probes, against what they know of themselves.
//!
//! `native/told` maps regions, grows in them, makes values and tells of the rest, and says at the end how often it has
//! told of what, and whether anybody listened.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "provider/otel.rs"]
mod otel;
#[path = "native/programs.rs"]
mod programs;
mod support;

use allocscope::allocator::{Request, examine};
use allocscope::site::Plan;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::report::{Counts, Process};
use support::{LIMIT, Report, Running, TempDir, allocscope, attach, eventually, program};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Those of the program that count as large, and of the C library's values the class.
const REGIONS: [u64; 4] = [64 * KIB, 256 * KIB, MIB, 4 * MIB];
const VALUE: u64 = 3 * MIB;
const VALUE_CLASS: u64 = 2 * MIB;
const THREADS: u32 = 3;
const ROUNDS: u32 = 7;

/// What the program says of itself.
struct Truth(Value);

impl Truth {
    fn in_output(stdout: &str) -> Self {
        let line =
            stdout.lines().find(|line| line.contains("\"told\"")).unwrap_or_else(|| panic!("{stdout}"));
        Self(serde_json::from_str(line).unwrap())
    }

    fn pid(&self) -> u64 {
        self.0["pid"].as_u64().unwrap()
    }

    /// What each probe told, as (name, count, heard, bytes).
    fn told(&self) -> Vec<(&str, u64, u64, u64)> {
        let number = |told: &Value, name: &str| told[name].as_u64().unwrap();
        let each = self.0["told"].as_object().unwrap().iter();
        each.map(|(name, told)| {
            (name.as_str(), number(told, "count"), number(told, "heard"), number(told, "bytes"))
        })
        .collect()
    }

    /// What it did, whoever listened.
    fn result(&self) -> (u64, Vec<(&str, u64, u64)>) {
        let told = self.told().into_iter().map(|(name, count, _, bytes)| (name, count, bytes));
        (self.0["checksum"].as_u64().unwrap(), told.collect())
    }

    /// Every event is told, and each allocation once: a region by itself, what grows in it not at all, a value by the
    /// C library that it comes from.
    fn assert_is_reported(&self, report: &Report) {
        let process = report.process(self.pid());
        for (name, count, heard, bytes) in self.told() {
            assert_eq!(heard, count, "{name}: {}", self.0);
            let bytes = (name != "breaker").then_some(bytes);
            assert_eq!(of_probe(process, name), (count, bytes), "{name}: {report}");
        }
        let rounds = self.0["rounds"].as_u64().unwrap();
        assert_eq!(process.classes("pool"), REGIONS, "{report}");
        for size in REGIONS {
            let counts = Counts {
                // Its guard pages are unmapped with it.
                released_bytes: rounds * (size + 2 * PAGE),
                ..Counts::whole(rounds, size)
            };
            assert_eq!(process.counts("pool", size), counts, "{report}");
            assert_eq!(process.of_class("pool", size, "/touched_bytes"), rounds * size, "{report}");
        }
        let values = process.counts("glibc", VALUE_CLASS);
        assert_eq!((values.calls, values.bytes), (rounds, rounds * VALUE), "{report}");
        // The C library's arenas reserve addresses; the regions are nobody else's.
        assert!(REGIONS.iter().all(|&size| process.counts("mmap", size).calls == 0), "{report}");
        assert!(REGIONS.iter().all(|&size| process.counts("reserve", size).calls == 0), "{report}");
        assert_eq!(report.losses(), [], "{report}");
    }
}

/// How often a probe was passed, and the bytes that it told of.
fn of_probe(process: Process<'_>, name: &str) -> (u64, Option<u64>) {
    let told = process.0["provider"].as_array().map_or(&[][..], Vec::as_slice);
    let found = told.iter().find(|told| told["probe"] == name);
    found.map_or((0, None), |told| (told["count"].as_u64().unwrap(), told["bytes"].as_u64()))
}

fn command(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.args([THREADS.to_string(), ROUNDS.to_string()]);
    command
}

fn waiting(command: &mut Command) -> Running {
    let target = Running::start(command);
    target.until_waiting_for_input();
    target
}

/// Lets a program go that is traced, to the ends of both.
fn finish(target: Running, tracer: Running) -> (Truth, Report) {
    let (truth, report) = finish_any(target, tracer);
    (Truth(truth), report)
}

/// The same of a program that prints one line.
fn finish_any(mut target: Running, tracer: Running) -> (Value, Report) {
    target.tell("");
    let ended = target.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let traced = tracer.wait();
    assert_eq!(traced.code, Some(0), "{traced}");
    (serde_json::from_str(ended.stdout.trim()).unwrap(), Report::last_in(&traced.stdout))
}

fn attached(path: &Path, flags: &str) -> (Truth, Report) {
    let target = waiting(&mut command(path));
    let tracer = attach(target.pid(), flags);
    finish(target, tracer)
}

fn untraced(path: &Path) -> Truth {
    let mut target = waiting(&mut command(path));
    target.tell("");
    Truth::in_output(&target.wait().stdout)
}

#[test]
fn counts_are_the_programs_own_on_every_rung() {
    let dir = TempDir::new();
    let path = own_copy(&dir);
    let alone = untraced(&path);
    assert!(alone.told().iter().all(|told| told.2 == 0), "{}", alone.0);
    for flags in ["", "--attach-via session", "--attach-via multi", "--attach-via perf"] {
        let (truth, report) = attached(&path, flags);
        truth.assert_is_reported(&report);
        assert_eq!(truth.result(), alone.result(), "{flags}");
    }
}

/// What the kernel has made of a probed instruction, a child made by `fork` has in its code too, but not always what that
/// leads to.
#[test]
fn children_of_a_traced_program_live_on() {
    for flags in ["", "--attach-via session", "--attach-via multi", "--attach-via perf"] {
        let target = waiting(command(&programs::told()).args(["1", "3"]));
        let tracer = attach(target.pid(), flags);
        let (truth, report) = finish(target, tracer);
        truth.assert_is_reported(&report);
    }
}

/// The notes are no symbols.
#[test]
fn a_stripped_program_tells_the_same() {
    let (truth, report) = attached(&programs::stripped(&programs::told()), "");
    truth.assert_is_reported(&report);
}

#[test]
fn a_program_is_heard_from_its_first_instruction() {
    let mut tracer = program("run --format json --");
    let mut running = Running::start(tracer.arg(programs::told()).args(["2", "5"]));
    running.tell("");
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    Truth::in_output(&ended.stdout).assert_is_reported(&Report::last_in(&ended.stdout));
}

/// A file of its own: a tracer listens to a file in whatever process maps it, and one that goes while another process
/// loads it can leave that one's semaphores as they were.
fn own_library(dir: &TempDir, library: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::copy(library, &path).unwrap();
    path
}

/// Lets a host go that is traced, once the library that it loads is listened to.
fn finish_host(mut target: Running, tracer: Running, library: &Path) -> (Truth, Report) {
    let pid = target.pid();
    target.tell("");
    let name = library.to_str().unwrap();
    let is_loaded = || std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains(name);
    assert!(eventually(LIMIT, is_loaded));
    let is_heard = || Places::of(pid, library).listeners().iter().all(|&count| count > 0);
    if !eventually(LIMIT / 3, is_heard) {
        let counts = Places::of(pid, library).listeners();
        tracer.signal(Signal::SIGINT);
        panic!("nobody listens: {counts:?}, {}", tracer.wait());
    }
    target.signal(Signal::SIGUSR1);
    let ended = target.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let traced = tracer.wait();
    assert_eq!(traced.code, Some(0), "{traced}");
    (Truth::in_output(&ended.stdout), Report::last_in(&traced.stdout))
}

#[test]
fn a_library_that_is_loaded_later_is_found() {
    let dir = TempDir::new();
    let library = own_library(&dir, &programs::told_library(), "libtold.so");
    let target = waiting(Command::new(programs::host()).arg(&library));
    let tracer = attach(target.pid(), "");
    let (truth, report) = finish_host(target, tracer, &library);
    truth.assert_is_reported(&report);
}

/// A filter that ends the process at the system calls that probes can make: they make none.
#[test]
fn a_filter_of_system_calls_ends_nobody() {
    let dir = TempDir::new();
    let library = own_library(&dir, &programs::told_library(), "libtold.so");
    let target = waiting(Command::new(programs::host()).arg(&library).arg("early"));
    let tracer = attach(target.pid(), "");
    let (truth, report) = finish_host(target, tracer, &library);
    let process = report.process(truth.pid());
    for (name, count, heard, _) in truth.told() {
        assert_eq!((heard, of_probe(process, name).0), (count, count), "{name}: {report}");
    }
    let hits = |class: &str| process.0["cost"]["hits"][class].as_u64().unwrap_or(0);
    assert_eq!((hits("uprobe_called"), hits("uprobe_emulated") > 0), (0, true), "{report}");
}

/// The call that the kernel makes of an instruction is a system call of its own, which it lets pass every filter: a
/// filter that comes into force while the probes are in place ends nobody either.
#[test]
fn a_filter_that_comes_later_ends_nobody() {
    let dir = TempDir::new();
    let library = own_library(&dir, &programs::told_library(), "libtold.so");
    let target = waiting(Command::new(programs::host()).arg(&library).arg("late"));
    let tracer = attach(target.pid(), "");
    let (truth, report) = finish_host(target, tracer, &library);
    let process = report.process(truth.pid());
    for (name, count, heard, _) in truth.told() {
        assert!(heard <= count && of_probe(process, name).0 <= heard, "{name}: {} {report}", truth.0);
    }
    assert!(truth.told().iter().all(|told| told.2 > 0), "{}", truth.0);
}

/// The library itself, as programs use it: each region is one allocation with its first touches and its release, and
/// what the pool has missed is told.
#[test]
fn regions_and_pools_tell_of_themselves() {
    const ROUNDS: u64 = 6;
    let target = waiting(Command::new(programs::pooled()).arg(ROUNDS.to_string()));
    let mut alone = waiting(Command::new(programs::pooled()).arg(ROUNDS.to_string()));
    let tracer = attach(target.pid(), "");
    let (truth, report) = finish_any(target, tracer);
    let process = report.process(truth["pid"].as_u64().unwrap());
    for size in [4 * MIB, 16 * MIB] {
        let Counts { calls, touches, releases, bytes, .. } = process.counts("pool", size);
        assert_eq!((calls, touches, releases, bytes), (ROUNDS, ROUNDS, ROUNDS, ROUNDS * size), "{report}");
        assert_eq!(process.of_class("pool", size, "/touched_bytes"), ROUNDS * size, "{report}");
        assert_eq!(process.counts("reserve", size).calls + process.counts("mmap", size).calls, 0, "{report}");
    }
    assert_eq!(of_probe(process, "region_map").0, 2 * ROUNDS, "{report}");
    assert_eq!(of_probe(process, "region_release").0, 2 * ROUNDS, "{report}");
    assert_eq!(of_probe(process, "pool_miss").0, truth["misses"].as_u64().unwrap(), "{report}");
    assert!(process.0["coverage"]["misses"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report.losses(), [], "{report}");
    alone.tell("");
    let untraced: Value = serde_json::from_str(alone.wait().stdout.trim()).unwrap();
    assert_eq!((&untraced["checksum"], &untraced["misses"]), (&truth["checksum"], &truth["misses"]));
}

/// Where the semaphores of a process' executable and the code of its probes are in memory.
struct Places {
    memory: File,
    semaphores: Vec<u64>,
    code: Vec<(u64, u8)>,
}

impl Places {
    fn of(pid: u32, path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let plan = examine(&bytes, &Request::default()).unwrap().plan;
        assert!(!plan.provider.is_empty(), "{:?}", plan.misses);
        let semaphores =
            plan.provider.iter().map(|site| address(pid, path, site.semaphore_offset.unwrap(), 'w'));
        let offsets =
            plan.provider.iter().flat_map(|site| [Some(site.file_offset), site.called_offset]).flatten();
        let code = offsets.map(|offset| (address(pid, path, offset, 'x'), bytes[offset as usize]));
        Self {
            semaphores: semaphores.collect(),
            code: code.collect(),
            memory: File::open(format!("/proc/{pid}/mem")).unwrap(),
        }
    }

    fn byte(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.memory.read_exact_at(&mut byte, address).unwrap();
        byte[0]
    }

    fn listeners(&self) -> Vec<u8> {
        self.semaphores.iter().map(|&address| self.byte(address)).collect()
    }

    fn is_as_built(&self) -> bool {
        self.listeners().iter().all(|&count| count == 0)
            && self.code.iter().all(|&(address, byte)| self.byte(address) == byte)
    }
}

/// Where a part of a file is mapped with a permission.
fn address(pid: u32, path: &Path, offset: u64, permission: char) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let found = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap())).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = words[0].split_once('-').map(|(start, end)| (number(start), number(end)))?;
        let at = start + offset.checked_sub(number(words[2]))?;
        (words[1].contains(permission) && at < end).then_some(at)
    });
    found.unwrap_or_else(|| panic!("{offset:#x} in {maps}"))
}

/// A file of its own, which no other test's tracer listens to.
fn own_copy(dir: &TempDir) -> PathBuf {
    dir.copy(programs::told().to_str().unwrap(), "told")
}

#[test]
fn semaphores_are_raised_for_as_long_as_somebody_listens() {
    let dir = TempDir::new();
    let path = own_copy(&dir);
    for flags in ["--attach-via session", "--attach-via multi", "--attach-via perf"] {
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            let target = waiting(&mut command(&path));
            let places = Places::of(target.pid(), &path);
            assert!(places.is_as_built());
            let tracer = attach(target.pid(), flags);
            // 2 where the page of the probe is mapped twice, at the border of two segments.
            assert!(places.listeners().iter().all(|&count| count > 0), "{flags}: {:?}", places.listeners());
            tracer.signal(signal);
            tracer.wait();
            assert!(
                eventually(LIMIT, || places.is_as_built()),
                "{flags}, {signal}: {:?}",
                places.listeners()
            );
        }
    }
}

/// Two listen, one goes, and the other one hears all.
#[test]
fn two_tracers_hear_the_same() {
    let dir = TempDir::new();
    let path = own_copy(&dir);
    let target = waiting(&mut command(&path));
    let places = Places::of(target.pid(), &path);
    let first = attach(target.pid(), "");
    let second = attach(target.pid(), "--attach-via multi");
    first.signal(Signal::SIGINT);
    first.wait();
    assert!(!places.is_as_built());
    let (truth, report) = finish(target, second);
    truth.assert_is_reported(&report);
}

#[test]
fn inspect_tells_the_sites_and_their_price() {
    let path = programs::told();
    let ended = allocscope(&format!("inspect --format json {}", path.display()));
    assert_eq!(ended.code, Some(0), "{ended}");
    let view: Value = serde_json::from_str(&ended.stdout).unwrap();
    let sites = view["sites"].as_array().unwrap();
    let names: Vec<_> = sites.iter().map(|site| site["function"].as_str().unwrap()).collect();
    assert_eq!((view["tier"].as_str(), sites.len()), (Some("provider"), 7), "{view}");
    for name in
        ["pool_miss", "pool_steal", "pool_evict", "arena_grow", "region_map", "region_release", "breaker"]
    {
        assert!(names.contains(&name), "{view}");
    }
    assert!(
        sites.iter().all(|site| site["role"] == "provider" && site["predicted_ns"].as_f64() > Some(0.0)),
        "{view}"
    );
}

/// Damaged notes, and what they claim: no panic, no long search, no probe outside of the code or in it where no
/// `nop` begins.
#[test]
fn damaged_notes_are_survived() {
    let bytes = std::fs::read(programs::told_library()).unwrap();
    let notes = bytes.windows(8).position(|window| window == b"stapsdt\0").unwrap() - 12;
    let len = bytes.windows(8).rposition(|window| window == b"stapsdt\0").unwrap() + 96 - notes;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |end: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % end
    };
    let mut outcomes = [0; 2];
    for _ in 0..400 {
        let mut mutant = bytes.clone();
        for _ in 0..=random(12) {
            let at = notes + random(len as u64) as usize;
            match random(3) {
                0 => mutant[at..at + 4].copy_from_slice(&[0xff; 4]),
                1 => mutant[at] = random(256) as u8,
                _ => mutant.copy_within(notes..notes + 80, at),
            }
        }
        let start = std::time::Instant::now();
        let plan = examine(&mutant, &Request::default()).unwrap().plan;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_is_borne_out(&plan, &mutant);
        outcomes[usize::from(plan.provider.len() == 7)] += 1;
    }
    assert!(outcomes.iter().all(|&count| count > 20), "{outcomes:?}");
}

fn assert_is_borne_out(plan: &Plan, bytes: &[u8]) {
    for site in &plan.provider {
        let at = site.file_offset as usize;
        assert_eq!(bytes[at], 0x90);
        assert!(site.called_offset.is_none_or(|called| bytes[called as usize..][..3] == [0x0f, 0x1f, 0x44]));
    }
}
