//! What is measured: programs that time themselves, and who traces them.

use super::bcc::Program;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A program and the tracers it is run with; the first is none.
pub struct Case {
    /// A short name.
    pub name: String,
    /// What one operation is.
    pub unit: &'static str,
    /// The program and its arguments; it waits for a line of standard input, and prints JSON at its end.
    pub command: Vec<OsString>,
    /// The library that is loaded before all others.
    pub preload: Option<PathBuf>,
    /// Begins the name of the file its malloc is in.
    pub library: &'static str,
    /// Nanoseconds of one operation, from what it prints.
    pub metric: fn(&Value) -> Option<f64>,
    /// Whether it says on standard error that it is ready, and stays after it has printed until its
    /// standard input ends: then the tracers are ended while it is there.
    pub stays: bool,
    /// Whether another process is traced: then this one's slowdown is the tax on everyone else.
    pub elsewhere: bool,
    /// So many other processes wait meanwhile.
    pub crowd: usize,
    /// The tracers.
    pub variants: Vec<Variant>,
    /// What to know when reading the numbers.
    pub note: &'static str,
}

/// A tracer and how to see that it works.
pub struct Variant {
    /// A short name.
    pub name: String,
    /// What traces.
    pub tracer: Tracer,
    /// What the tracer saw and what the traced program did; the same if all is well.
    pub check: Option<Check>,
}

/// From the traced program's truth and the tracer's report.
pub type Check = fn(&Value, &Value) -> Option<Counts>;

/// How many events there were.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// What the tracer saw.
    pub seen: u64,
    /// What the traced program did.
    pub done: u64,
    /// Whether the tracer says that it sees these.
    pub is_promised: bool,
}

impl Counts {
    /// Of what a tracer says that it sees.
    pub fn new(seen: u64, done: u64) -> Self {
        Self { seen, done, is_promised: true }
    }
}

/// What traces.
#[derive(Clone, PartialEq)]
pub enum Tracer {
    /// Nothing.
    None,
    /// `allocscope attach`, everything on, with further options.
    Allocscope(Vec<String>),
    /// `allocscope daemon --all`, with further options.
    Daemon(Vec<String>),
    /// bpftrace with a script, in which PID, LIB and EXE are replaced. Its option -p is no filter: version
    /// 0.17 counts the uprobes of all processes with it.
    Bpftrace(String),
    /// A program of bcc.
    Bcc(Program),
}

/// The name of allocscope without further options.
pub const OWN: &str = "allocscope";
/// The name of its daemon without further options.
pub const DAEMON: &str = "allocscope daemon --all";

impl Tracer {
    /// The program's name.
    pub fn tool(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allocscope(_) => OWN,
            Self::Daemon(_) => DAEMON,
            Self::Bpftrace(_) => "bpftrace",
            Self::Bcc(program) => program.name(),
        }
    }
}

/// Where malloc is by default.
pub const GLIBC: &str = "libc.so";

/// The bundled workload that stands for another process: as many mappings of 1 MiB.
pub const ELSEWHERE: [&str; 7] = ["workload", "map", "--sizes", "1MiB", "--count", "10", "--wait-stdin"];

const COUNT_FAULTS: &str = "software:page-faults:1 /pid == PID/ { @faults = count(); }\n";
/// Times them.
pub const TIME_FAULTS: &str = "\
tracepoint:exceptions:page_fault_user /pid == PID/ { @start[tid] = nsecs; }
software:minor-faults:1 /@start[tid]/ {
  @time = hist(nsecs - @start[tid]); @faults = count(); delete(@start[tid]);
}
";
/// Times large mappings and unmappings.
pub const TIME_CALLS: &str = "\
tracepoint:syscalls:sys_enter_mmap /pid == PID && args->len >= 32760/ { @map[tid] = nsecs; }
tracepoint:syscalls:sys_exit_mmap /@map[tid]/ {
  @mmap = hist(nsecs - @map[tid]); @mappings = count(); delete(@map[tid]);
}
tracepoint:syscalls:sys_enter_munmap /pid == PID && args->len >= 32760/ { @unmap[tid] = nsecs; }
tracepoint:syscalls:sys_exit_munmap /@unmap[tid]/ {
  @munmap = hist(nsecs - @unmap[tid]); delete(@unmap[tid]);
}
";
const LARGE_MALLOCS: &str = "uprobe:LIB:malloc /pid == PID && arg0 >= 32760/ { @mallocs[arg0] = count(); }\n";

/// The cases of the bundled workloads.
pub fn native(program: &Path, quick: bool) -> Vec<Case> {
    let case = |name: &str, unit, words: String, metric, variants| Case {
        name: name.to_owned(),
        unit,
        command: command(program, &words),
        preload: None,
        library: GLIBC,
        metric,
        stays: false,
        elsewhere: false,
        crowd: 0,
        variants,
        note: "",
    };
    let faults = || format!("faults {}", if quick { "--mib 4 --rounds 2" } else { "--mib 32 --rounds 12" });
    let pairs = || format!("map --sizes 64KiB --no-touch --count {}", if quick { 200 } else { 40_000 });
    let large = format!("map --sizes 64MiB --count {}", if quick { 1 } else { 6 });
    let many =
        |kind: &str, count: u64| format!("{kind} --large 10 --count {}", if quick { 10_000 } else { count });
    let small = Case {
        note: "no probe is on malloc's small path",
        ..case("64 B malloc and free", "pair", many("small", 20_000_000), per_op, malloc_variants())
    };
    let elsewhere = |name, unit, words, metric| Case {
        elsewhere: true,
        ..case(name, unit, words, metric, elsewhere_variants())
    };
    vec![
        case("first touch of 4 KiB", "fault", faults(), per_fault, fault_variants()),
        case("64 MiB mapped, touched, unmapped", "mapping", large, per_mapping, call_variants()),
        case("64 KiB mapped and unmapped, untouched", "pair", pairs(), per_mapping, call_variants()),
        small,
        elsewhere("untraced: getppid", "call", many("syscalls", 3_000_000), per_op),
        elsewhere("untraced: 64 KiB mapped and unmapped", "pair", pairs(), per_mapping),
        elsewhere("untraced: first touch of 4 KiB", "fault", faults(), per_fault),
    ]
}

/// A bundled workload that waits for a line.
pub fn command(program: &Path, words: &str) -> Vec<OsString> {
    let words = ["workload"].into_iter().chain(words.split(' ')).chain(["--wait-stdin"]);
    [program.into()].into_iter().chain(words.map(OsString::from)).collect()
}

/// Nothing traces.
pub fn untraced() -> Variant {
    Variant { name: "untraced".to_owned(), tracer: Tracer::None, check: None }
}

/// The same once more: what differs is noise.
pub fn untraced_again() -> Variant {
    Variant { name: "untraced again".to_owned(), ..untraced() }
}

/// allocscope, with its own check.
pub fn allocscope(check: Check) -> Variant {
    Variant { name: OWN.to_owned(), tracer: Tracer::Allocscope(Vec::new()), check: Some(check) }
}

/// allocscope's daemon on all processes, with its own check.
pub fn daemon(check: Check) -> Variant {
    Variant { name: DAEMON.to_owned(), tracer: Tracer::Daemon(Vec::new()), check: Some(check) }
}

/// bpftrace, with its own check.
pub fn bpftrace(name: &str, script: &str, check: Option<Check>) -> Variant {
    Variant { name: name.to_owned(), tracer: Tracer::Bpftrace(script.to_owned()), check }
}

/// Adds allocscope with other options to a case, checked as without.
pub fn add_extra(case: &mut Case, extra: &[String]) {
    let own = |variant: &&Variant| matches!(variant.tracer, Tracer::Allocscope(_) | Tracer::Daemon(_));
    let Some(own) = case.variants.iter().find(own) else { return };
    let variant = |options: &String| {
        let words = options.split_whitespace().map(str::to_owned).collect();
        let tracer = match own.tracer {
            Tracer::Daemon(_) => Tracer::Daemon(words),
            _ => Tracer::Allocscope(words),
        };
        Variant { name: format!("{} {options}", own.name), tracer, check: own.check }
    };
    let more: Vec<_> = extra.iter().map(variant).collect();
    case.variants.extend(more);
}

/// For faults: allocscope, and bpftrace in two ways.
pub fn fault_variants() -> Vec<Variant> {
    let seen: Check = |truth, report| Some(Counts::new(report["@faults"].as_u64()?, pages(truth)?));
    vec![
        untraced(),
        allocscope(|truth, report| {
            let seen = report["processes"][0]["coverage"]["faults_attributed"].as_u64()?;
            Some(Counts::new(seen, pages(truth)?))
        }),
        bpftrace("bpftrace, counting faults", COUNT_FAULTS, Some(seen)),
        bpftrace("bpftrace, timing faults", TIME_FAULTS, Some(seen)),
    ]
}

fn call_variants() -> Vec<Variant> {
    let script = format!("{TIME_CALLS}{COUNT_FAULTS}");
    vec![
        untraced(),
        allocscope(|truth, report| Some(Counts::new(allocations(report, "mmap")?, mappings(truth)?))),
        bpftrace(
            "bpftrace, timing calls, counting faults",
            &script,
            Some(|truth, report| Some(Counts::new(report["@mappings"].as_u64()?, mappings(truth)?))),
        ),
    ]
}

fn malloc_variants() -> Vec<Variant> {
    vec![
        untraced(),
        allocscope(|truth, report| Some(Counts::new(allocations(report, "mmap")?, large(truth)?))),
        bpftrace(
            "bpftrace, malloc of 32 KiB or more",
            LARGE_MALLOCS,
            Some(|truth, report| Some(Counts::new(report["@mallocs"]["1048576"].as_u64()?, large(truth)?))),
        ),
    ]
}

/// The traced process is [`ELSEWHERE`].
fn elsewhere_variants() -> Vec<Variant> {
    call_variants()
}

/// Of the size class that the program under test makes.
pub fn allocations(report: &Value, allocator: &str) -> Option<u64> {
    let rows = report["processes"][0]["allocations"].as_array()?;
    let rows = rows.iter().filter(|row| row["allocator"] == allocator);
    // Few other mappings, such as a thread's stack, come after the start; the workloads' own sizes are these.
    let rows = rows.filter(|row| ["64KiB", "1MiB", "64MiB"].iter().any(|size| row["size"] == *size));
    Some(rows.filter_map(|row| row["count"].as_u64()).sum())
}

/// Large blocks.
pub fn large(truth: &Value) -> Option<u64> {
    truth["large"].as_u64()
}

fn pages(truth: &Value) -> Option<u64> {
    truth["pages_touched"].as_u64()
}

fn mappings(truth: &Value) -> Option<u64> {
    truth["sizes"][0]["count"].as_u64()
}

fn per_fault(truth: &Value) -> Option<f64> {
    truth["ns_per_fault_median"].as_f64()
}

/// From the call to the end of the release.
fn per_mapping(truth: &Value) -> Option<f64> {
    let size = &truth["sizes"][0];
    let total: u64 =
        ["call_ns", "touch_ns", "release_ns"].iter().filter_map(|part| size[*part].as_u64()).sum();
    Some(total as f64 / size["count"].as_f64()?)
}

/// Of the middle chunk.
pub fn per_op(truth: &Value) -> Option<f64> {
    truth["ns_per_op_median"].as_f64()
}
