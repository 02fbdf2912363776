//! Programs as their makers released them, of Go versions whose toolchains cannot be had: what allocscope counts, against
//! what the kernel itself counts at the call of `allocLarge` in the same run.

use super::hits::Hits;
use super::{assert_contradicted, compare, of_another_version};
use crate::support::go::{PLAIN, build, tools};
use crate::support::{Report, Running, TempDir, allocscope, attach, program};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that `cargo xtask setup` fetches.
struct Released {
    name: &'static str,
    version: &'static str,
    /// What built it.
    go: &'static str,
    stripped: bool,
}

const fn esbuild(version: &'static str, go: &'static str) -> Released {
    Released { name: "esbuild", version, go, stripped: true }
}

const fn buildifier(version: &'static str, go: &'static str) -> Released {
    Released { name: "buildifier", version, go, stripped: false }
}

/// One test a program, of all that is asked of one.
macro_rules! released_programs_are_counted_exactly {
    ($($test:ident: $program:expr),*) => { $(
        #[test]
        fn $test() {
            let folder = TempDir::new();
            let file = folder.copy($program.path().to_str().unwrap(), $program.name);
            $program.is_planned_whole(&file);
            $program.is_exact_from_its_start(&file);
            $program.is_exact_where_it_runs(&file);
        }
    )* };
}

released_programs_are_counted_exactly! {
    go_1_17_stripped: esbuild("0.14.20", "1.17.6"), go_1_17: buildifier("6.1.0", "1.17.2"),
    go_1_18_stripped: esbuild("0.14.40", "1.18.2"),
    go_1_20_stripped: esbuild("0.17.19", "1.20.4"), go_1_20: buildifier("6.3.3", "1.20.3")
}

/// Transforms, each of some 190 KB of code.
const TRANSFORMS: u32 = 4;
const LINES: u32 = 3000;

impl Released {
    fn path(&self) -> PathBuf {
        let path =
            tools().join("go-programs").join(format!("{}-{}", self.name, self.version)).join(self.name);
        assert!(path.is_file(), "{} is missing: run `cargo xtask setup`", path.display());
        path
    }

    /// With the collector at work all the time, and telling of it.
    fn started_by(&self, mut command: Command) -> Running {
        if self.name == "esbuild" {
            command.arg(format!("--service={}", self.version));
        }
        Running::start(command.env("GOGC", "5").env("GODEBUG", "gctrace=1"))
    }

    /// All of it lies in the program's memory at once, as bytes or strings of growing size.
    fn input(&self) -> Vec<u8> {
        match self.name {
            "esbuild" => (0..TRANSFORMS).flat_map(|number| self.transform(number)).collect(),
            _ => (0..10 * LINES).flat_map(|line| format!("rule(name = \"{line}\")\n").into_bytes()).collect(),
        }
    }

    /// esbuild ends where its input does, in the middle of what it has begun: the kernel counts a call when it begins.
    fn is_given_its_input(&self, target: &mut Running) {
        target.feed(&self.input());
        if self.name == "esbuild" {
            target.until_stdout_has(&format!("a{} = ", LINES - 1), TRANSFORMS as usize);
        }
        target.end_input();
    }

    /// A request of esbuild's service (`lib/shared/stdio_protocol.ts` in its tree): its length, twice its number, and a
    /// value, of which each is a kind and its contents.
    fn transform(&self, number: u32) -> Vec<u8> {
        const TEXT: u8 = 3;
        const BYTES: u8 = 4;
        let code: String =
            (0..LINES).map(|line| format!("export let a{line} = (b, c) => b * {line} + c;\n")).collect();
        let sized = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let input_kind = if self.go.starts_with("1.20") { BYTES } else { TEXT };
        let fields = [
            (&b"command"[..], [&[TEXT][..], &sized(b"transform")].concat()),
            (b"flags", vec![5, 0, 0, 0, 0]),
            (b"inputFS", vec![1, 0]),
            (b"input", [&[input_kind][..], &sized(code.as_bytes())].concat()),
        ];
        let mut packet =
            [&(2 * number).to_le_bytes()[..], &[6], &(fields.len() as u32).to_le_bytes()].concat();
        fields.iter().for_each(|(key, value)| packet.extend([&sized(key)[..], value].concat()));
        sized(&packet)
    }

    fn is_planned_whole(&self, file: &Path) {
        let ended = allocscope(&format!("inspect --go-runtime --format json {}", file.display()));
        let plan: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(
            (&plan["tier"], &plan["stripped"]),
            (&json!("large-path"), &json!(self.stripped)),
            "{plan}"
        );
        assert_eq!(plan["allocator"].as_str().unwrap(), format!("go{}", self.go), "{plan}");
        assert_eq!(plan["misses"], json!([]), "{plan}");
        let stepped =
            plan["sites"].as_array().unwrap().iter().filter(|site| site["class"] == "single-stepped");
        assert_eq!(stepped.count(), 0, "{plan}");
        if !self.stripped {
            let of_another = file.with_extension("other");
            fs::write(&of_another, of_another_version(file)).unwrap();
            assert_contradicted(&of_another);
        }
    }

    fn is_exact_from_its_start(&self, file: &Path) {
        let hits = Hits::at(file, call_of_alloc_large(file));
        let mut command = program("run --format json --go-runtime --slow 1us --");
        command.arg(file);
        let mut traced = self.started_by(command);
        self.is_given_its_input(&mut traced);
        let ended = traced.wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let report = Report::last_in(&ended.stdout);
        compare(&truth_of(&hits.values(), &report), &report);
        self.tells_where_and_by_whom(&report);
        let process = report.processes().next().unwrap();
        let counted = process.0["go_runtime"]["gc_cycles"].as_u64().unwrap();
        let told = ended.stderr.lines().filter(|line| line.starts_with("gc ")).count() as u64;
        // The program may end before its last cycle comes to its line.
        assert!(told > 5 && (told..=told + 1).contains(&counted), "{counted} of {told}: {report}");
    }

    fn is_exact_where_it_runs(&self, file: &Path) {
        let mut target = self.started_by(Command::new(file));
        let tracer = attach(target.pid(), "");
        let hits = Hits::at(file, call_of_alloc_large(file));
        self.is_given_its_input(&mut target);
        let ended = target.wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        let traced = tracer.wait();
        assert_eq!(traced.code, Some(0), "{traced}");
        let report = Report::last_in(&traced.stdout);
        compare(&truth_of(&hits.values(), &report), &report);
    }

    /// The names are of the line table, the goroutine of its `g`: whose place is wrong gives numbers of any size.
    fn tells_where_and_by_whom(&self, report: &Report) {
        let process = report.processes().next().unwrap();
        let slow = process.0["slow_allocations"].as_array().unwrap().iter();
        let of_go: Vec<_> = slow.filter(|one| one["allocator"] == "go").collect();
        assert!(!of_go.is_empty(), "{report}");
        for one in of_go {
            let frames = one["frames"].as_array().unwrap();
            assert_eq!(frames.last().unwrap(), "runtime.goexit", "{one}");
            assert!((1..10_000).contains(&one["goroutine"].as_u64().unwrap()), "{one}");
        }
    }
}

/// What the kernel saw, as a program that counts itself tells it.
fn truth_of(sizes: &[u64], report: &Report) -> Value {
    let processes: Vec<_> = report.processes().collect();
    assert_eq!(processes.len(), 1, "{report}");
    let class_of = |size: &u64| 1 << size.ilog2();
    let mut classes: Vec<u64> = sizes.iter().map(class_of).collect();
    classes.sort_unstable();
    classes.dedup();
    let of = |class: &u64| {
        let sizes: Vec<_> = sizes.iter().filter(|size| class_of(size) == *class).collect();
        (class.to_string(), json!([sizes.len(), sizes.into_iter().sum::<u64>()]))
    };
    let classes: serde_json::Map<_, _> = classes.iter().map(of).collect();
    json!({ "pid": processes[0].number("pid"), "classes": classes })
}

fn call_of_alloc_large(file: &Path) -> u64 {
    let look_up = build("1.27.3", "calls", PLAIN);
    let names = ["runtime.mallocgc", "runtime.(*mcache).allocLarge"];
    let found = Running::start(Command::new(look_up).arg(file).args(names)).wait();
    assert_eq!(found.code, Some(0), "{found}");
    found.stdout.trim().parse().unwrap_or_else(|_| panic!("not one call: {found}"))
}
