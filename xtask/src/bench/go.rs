//! Go programs that allocate, one for each end of the range of Go versions.

use super::case::{Case, Counts, GLIBC, Variant, allocations, allocscope, bpftrace, large, per_op, untraced};
use crate::run;
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest and the newest that are tested.
const VERSIONS: [&str; 2] = ["1.19", "1.27.3"];

/// Entry only: bpftrace 0.17 cannot place a probe at an offset, and a uretprobe kills a Go program.
const MALLOCGC: &str = "uprobe:\"EXE\":\"runtime.mallocgc\" /pid == PID && reg(\"ax\") >= 32768/ { @mallocs[reg(\"ax\")] = count(); }\n";

const SOURCE: &str = r#"package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const maxChunks, processClock = 1 << 16, 2

var sink []byte

func number(index int) int {
	value, err := strconv.Atoi(os.Args[index])
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	size, chunk, limit, large := number(1), number(2), time.Duration(number(3))*time.Millisecond, number(4)
	input := bufio.NewReader(os.Stdin)
	times := make([]float64, 0, maxChunks)
	fmt.Fprintln(os.Stderr, "ready")
	if _, err := input.ReadString('\n'); err != nil {
		panic(err)
	}
	warming := len(run(times, size, chunk, limit/10))
	times = run(times, size, chunk, limit)
	ops := (warming + len(times)) * chunk
	for i := 0; i < large; i++ {
		sink = make([]byte, size<<(20-6))
	}
	sort.Float64s(times)
	if size >= 32768 {
		large += ops
	}
	fmt.Printf("{\"ns_per_op_median\":%.3f,\"ops\":%d,\"large\":%d}\n", times[len(times)/2], ops, large)
	io.Copy(io.Discard, input)
}

// run allocates chunk by chunk until the limit, and appends the nanoseconds of an operation of each.
func run(times []float64, size, chunk int, limit time.Duration) []float64 {
	for begin := time.Now(); len(times) < 3 || len(times) < maxChunks && time.Since(begin) < limit; {
		start := cpuTime()
		for j := 0; j < chunk; j++ {
			sink = make([]byte, size)
		}
		times = append(times, float64(cpuTime()-start)/float64(chunk))
	}
	return times
}

// cpuTime is the process', the collector's threads included: what else the machine does is not in it.
func cpuTime() int64 {
	var now syscall.Timespec
	_, _, failure := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, processClock, uintptr(unsafe.Pointer(&now)), 0)
	if failure != 0 {
		panic(failure)
	}
	return now.Nano()
}
"#;

/// Large and small allocations, for each version.
pub fn cases(quick: bool) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for version in VERSIONS {
        let program = build(version)?;
        // The size, operations in a chunk, milliseconds, and large ones at the end.
        let (large, small) =
            if quick { ("65536 100 20 0", "64 2000 20 100") } else { ("65536 100 600 0", "64 2000 600 100") };
        let case = |name: String, words: &str, note| Case {
            name,
            unit: "make",
            command: command(&program, words),
            preload: None,
            library: GLIBC,
            metric: per_op,
            stays: true,
            elsewhere: false,
            crowd: 0,
            variants: variants(),
            note,
        };
        let entry_only = "the bpftrace probe is at the entry only and times nothing: 0.17 has no offsets, and a uretprobe kills a Go program; Go's are in CPU time of the process";
        cases.push(case(format!("Go {version}: make([]byte, 65536)"), large, entry_only));
        cases.push(case(format!("Go {version}: make([]byte, 64)"), small, entry_only));
    }
    Ok(cases)
}

fn variants() -> Vec<Variant> {
    vec![
        untraced(),
        allocscope(|truth, report| Some(Counts::new(allocations(report, "go")?, large(truth)?))),
        bpftrace(
            "bpftrace, mallocgc of 32 KiB or more",
            MALLOCGC,
            Some(|truth, report| {
                let counts = &report["@mallocs"];
                let seen = ["65536", "1048576"].iter().filter_map(|size| counts[*size].as_u64()).sum();
                Some(Counts::new(seen, large(truth)?))
            }),
        ),
    ]
}

fn command(program: &Path, words: &str) -> Vec<OsString> {
    [program.into()].into_iter().chain(words.split(' ').map(OsString::from)).collect()
}

fn build(version: &str) -> Result<PathBuf> {
    let folder = run::target_dir()?.join("bench-go").join(version);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (source, program) = (folder.join("allocate.go"), folder.join("allocate"));
    fs::write(&source, SOURCE).context("cannot write the Go program")?;
    let mut go = Command::new(run::tools_dir()?.join("go").join(version).join("bin/go"));
    go.arg("build").arg("-o").arg(&program).arg(&source).current_dir(&folder);
    go.env("GOTOOLCHAIN", "local").env("GOCACHE", folder.join("cache")).env("GOPATH", folder.join("path"));
    go.env("CGO_ENABLED", "0").env_remove("GOROOT").env_remove("GOFLAGS");
    run::shown(&mut go).with_context(|| format!("Go {version} does not build the program"))?;
    Ok(program)
}
