//! The cases of `bench overhead`: every tracer on small and on large blocks of several allocators.

use super::bcc::Program;
use super::case::{
    Case, Check, Counts, GLIBC, Tracer, Variant, allocscope, bpftrace, large, per_op, untraced,
};
use super::go;
use crate::{run, setup};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("alloc.c");

/// Of the timed part.
const MILLISECONDS: &str = "600";
const QUICK_MILLISECONDS: &str = "20";
/// Large blocks after the timed part of a case that has none.
const LARGE: &str = "100";

/// The names of allocators in allocscope's report; the same blocks are also seen on their way to the
/// kernel, by other names.
const NATIVE: [&str; 4] = ["glibc", "jemalloc", "mimalloc", "tcmalloc"];

const TIME_LARGE_MALLOCS: &str = "\
uprobe:LIB:malloc /arg0 >= 32768 && pid == PID/ { @start[tid] = nsecs; }
uretprobe:LIB:malloc /@start[tid]/ {
  @time = hist(nsecs - @start[tid]); @mallocs = count(); delete(@start[tid]);
}
";

/// The same and what allocscope sees besides: when these blocks are freed, and page faults, though not whose they are.
const TIME_COUNT_ALL: &str = "\
uprobe:LIB:malloc /arg0 >= 32768 && pid == PID/ { @start[tid] = nsecs; }
uretprobe:LIB:malloc /@start[tid]/ {
  @time = hist(nsecs - @start[tid]); @mallocs = count(); delete(@start[tid]); @live[retval] = 1;
}
uprobe:LIB:free /@live[arg0] && pid == PID/ { @frees = count(); delete(@live[arg0]); }
software:page-faults:1 /pid == PID/ { @faults = count(); }
";

/// An allocator, the library that has it, and the modes it is run in.
struct Allocator {
    name: &'static str,
    library: &'static str,
    modes: &'static [&'static str],
}

const ALLOCATORS: [Allocator; 4] = [
    Allocator { name: "glibc", library: GLIBC, modes: &["small", "random", "burst", "mixed", "large"] },
    Allocator { name: "jemalloc", library: "libjemalloc.so.2", modes: &["small", "large"] },
    Allocator { name: "mimalloc", library: "libmimalloc.so.2.0", modes: &["small", "large"] },
    Allocator { name: "tcmalloc", library: "libtcmalloc_minimal.so.4", modes: &["small"] },
];

/// What the cases have in common.
pub struct Options {
    /// Tiny cases.
    pub quick: bool,
    /// Whether bcc is there.
    pub has_bcc: bool,
}

/// All of them.
pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let program = build()?;
    let mut cases = Vec::new();
    for allocator in &ALLOCATORS {
        let preload = preload(allocator)?;
        for mode in allocator.modes {
            cases.push(case(&program, allocator, preload.clone(), mode, options));
        }
        if allocator.library == GLIBC {
            cases.push(all_probed(case(&program, allocator, preload, "small", options)));
        }
    }
    cases.extend(go::cases(options.quick)?);
    Ok(cases)
}

fn case(
    program: &Path,
    allocator: &Allocator,
    preload: Option<PathBuf>,
    mode: &str,
    options: &Options,
) -> Case {
    let milliseconds = if options.quick { QUICK_MILLISECONDS } else { MILLISECONDS };
    let more = if ["mixed", "large"].contains(&mode) { "0" } else { LARGE };
    let words = [mode, milliseconds, more].map(Into::into);
    Case {
        name: format!("{}, {mode}", allocator.name),
        unit: if mode == "burst" { "call" } else { "free and malloc" },
        command: [program.into()].into_iter().chain(words).collect(),
        preload,
        library: allocator.library,
        metric: per_op,
        stays: true,
        elsewhere: false,
        crowd: 0,
        variants: variants(mode, options.has_bcc),
        note: "small: 64 B, 64 live; random: 64 B, any of 4096 live; burst: 1000 malloc of 64 B, then 1000 free; \
               mixed: 1 in 100 of 64 KiB to 4 MiB; large: 64 KiB to 4 MiB, a byte of each page written; in CPU time",
    }
}

/// The same case where allocscope has probes on `malloc` and `free` themselves.
fn all_probed(case: Case) -> Case {
    let name = format!("{}, --allow-small-cost", case.name);
    let options = vec!["--allow-small-cost".to_owned()];
    let own = Variant { tracer: Tracer::Allocscope(options), ..allocscope(native_counts) };
    Case { name, variants: vec![untraced(), own, times_mallocs(), times_and_counts_all()], ..case }
}

fn variants(mode: &str, has_bcc: bool) -> Vec<Variant> {
    let mut variants = vec![untraced(), allocscope(native_counts), times_mallocs()];
    if mode == "large" {
        variants.push(times_and_counts_all());
    }
    if has_bcc {
        let all: Check =
            |truth, report| Some(Counts::new(report["count"].as_u64()?, truth["mallocs"].as_u64()?));
        variants.push(bcc("bcc funclatency, timing every malloc", Program::Funclatency, Some(all)));
        variants.push(bcc("bcc memleak, 32 KiB or more", Program::Memleak, None));
    }
    variants
}

fn times_mallocs() -> Variant {
    bpftrace("bpftrace, timing malloc of 32 KiB or more", TIME_LARGE_MALLOCS, Some(large_mallocs))
}

fn times_and_counts_all() -> Variant {
    bpftrace("bpftrace, and counting their frees and page faults", TIME_COUNT_ALL, Some(large_mallocs))
}

fn large_mallocs(truth: &Value, report: &Value) -> Option<Counts> {
    Some(Counts::new(report["@mallocs"].as_u64().unwrap_or(0), large(truth)?))
}

fn bcc(name: &str, program: Program, check: Option<Check>) -> Variant {
    Variant { name: name.to_owned(), tracer: Tracer::Bcc(program), check }
}

/// allocscope's count of the allocator's own calls, which it promises only where it says that it probes them.
fn native_counts(truth: &Value, report: &Value) -> Option<Counts> {
    let process = &report["processes"][0];
    let rows = process["allocations"].as_array()?.iter();
    let rows = rows.filter(|row| NATIVE.iter().any(|name| row["allocator"] == *name));
    let seen = rows.filter_map(|row| row["count"].as_u64()).sum();
    Some(Counts { seen, done: large(truth)?, is_promised: process["coverage"]["tier"] != "kernel" })
}

fn preload(allocator: &Allocator) -> Result<Option<PathBuf>> {
    if allocator.library == GLIBC {
        return Ok(None);
    }
    setup::allocator_library(allocator.library)
        .map(Some)
        .with_context(|| format!("{} is missing", allocator.library))
}

fn build() -> Result<PathBuf> {
    let folder = run::target_dir()?.join("bench-work");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (source, program) = (folder.join("alloc.c"), folder.join("alloc"));
    fs::write(&source, SOURCE).context("cannot write the C program")?;
    // Without -fno-builtin a compiler may leave malloc and free out.
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-fno-builtin", "-o"]).arg(&program).arg(&source);
    run::shown(&mut cc).context("the C program does not build")?;
    Ok(program)
}
