//! The cases of `bench stages`: what it costs to join the stages of an allocation, and what it costs those who make
//! none, each beside the same untraced once more, which is noise.

use super::case::{
    self, Case, Counts, GLIBC, TIME_CALLS, TIME_FAULTS, Tracer, Variant, allocscope, bpftrace, command,
    daemon, large, untraced, untraced_again,
};
use serde_json::Value;
use std::path::Path;

/// Processes beside the one that is measured.
const CROWD: usize = 200;
const QUICK_CROWD: usize = 5;

const TIME_MALLOCS: &str = "\
uprobe:LIB:malloc /pid == PID && arg0 >= 32760/ { @malloc[tid] = nsecs; }
uretprobe:LIB:malloc /@malloc[tid]/ {
  @mallocs = count(); @time_malloc = hist(nsecs - @malloc[tid]); delete(@malloc[tid]);
}
";
const ALL_MALLOCS: &str = "uprobe:LIB:malloc /arg0 >= 32760/ { @mallocs[pid, arg0] = count(); }\n";
const ALL_CALLS: &str = "\
tracepoint:syscalls:sys_enter_mmap /args->len >= 32760/ { @map[tid] = nsecs; }
tracepoint:syscalls:sys_exit_mmap /@map[tid]/ {
  @mmap[pid] = hist(nsecs - @map[tid]); delete(@map[tid]);
}
tracepoint:syscalls:sys_enter_munmap /args->len >= 32760/ { @unmap[tid] = nsecs; }
tracepoint:syscalls:sys_exit_munmap /@unmap[tid]/ {
  @munmap[pid] = hist(nsecs - @unmap[tid]); delete(@unmap[tid]);
}
software:page-faults:1 { @faults[pid] = count(); }
";

/// All of them.
pub fn cases(program: &Path, quick: bool) -> Vec<Case> {
    let case = |name: &str, unit, words: &str, metric, variants| Case {
        name: name.to_owned(),
        unit,
        command: command(program, words),
        preload: None,
        library: GLIBC,
        metric,
        stays: false,
        elsewhere: false,
        crowd: 0,
        variants,
        note: "times of touching are CPU time",
    };
    let among = |name, unit, words: &str| Case {
        crowd: if quick { QUICK_CROWD } else { CROWD },
        note: "the process measured and all that wait beside it are traced by the daemon; the fastest 10,000 in a row",
        ..case(name, unit, words, best_per_op, crowd_variants())
    };
    let faults = if quick { "faults --mib 4 --rounds 2" } else { "faults --mib 32 --rounds 24" };
    let count = if quick { 1 } else { 10 };
    let blocks = format!("blocks --pin --sizes 64MiB --count {count}");
    let huge = format!("{blocks} --huge-pages always");
    let repeat =
        |kind: &str, count: u64| format!("{kind} --large 10 --count {}", if quick { 10_000 } else { count });
    vec![
        case("first touch of 4 KiB", "fault", faults, per_fault, fault_variants()),
        case("64 MiB by malloc, touched, freed", "block", &blocks, per_block, block_variants()),
        case("the same with huge pages", "block", &huge, per_block, block_variants()),
        among("getppid among many", "call", &repeat("syscalls", 3_000_000)),
        among("64 B malloc and free among many", "pair", &repeat("small", 5_000_000)),
    ]
}

fn fault_variants() -> Vec<Variant> {
    let mut variants = case::fault_variants();
    variants.insert(1, untraced_again());
    variants
}

fn block_variants() -> Vec<Variant> {
    let script = format!("{TIME_MALLOCS}{TIME_CALLS}{TIME_FAULTS}");
    vec![
        untraced(),
        untraced_again(),
        allocscope(|truth, report| {
            let rows = report["processes"][0]["allocations"].as_array()?;
            let row = rows.iter().find(|row| row["allocator"] == "glibc" && row["size"] == "64MiB")?;
            Some(Counts::new(row["count"].as_u64()?, blocks(truth)?))
        }),
        bpftrace(
            "bpftrace, timing malloc, mmap, munmap and faults",
            &script,
            Some(|truth, report| Some(Counts::new(report["@mallocs"].as_u64()?, blocks(truth)?))),
        ),
    ]
}

fn crowd_variants() -> Vec<Variant> {
    let script = format!("{ALL_MALLOCS}{ALL_CALLS}");
    vec![
        untraced(),
        untraced_again(),
        daemon(|truth, report| Some(Counts::new(report["large"].as_f64()? as u64, large(truth)?))),
        Variant {
            name: "bpftrace, malloc, mmap, munmap and faults of all".to_owned(),
            tracer: Tracer::Bpftrace(script),
            check: None,
        },
    ]
}

fn blocks(truth: &Value) -> Option<u64> {
    truth["sizes"][0]["count"].as_u64()
}

fn per_fault(truth: &Value) -> Option<f64> {
    Some(truth["touch_cpu_ns"].as_f64()? / truth["pages_touched"].as_f64()?)
}

/// Of the fastest chunk: by the wall's clock a busy machine interrupts most of the others.
fn best_per_op(truth: &Value) -> Option<f64> {
    truth["ns_per_op_best"].as_f64()
}

/// From the call to the end of the release.
fn per_block(truth: &Value) -> Option<f64> {
    let size = &truth["sizes"][0];
    let stages = ["call_ns", "touch_cpu_ns", "release_ns"].map(|stage| size[stage].as_f64());
    Some(stages.into_iter().sum::<Option<f64>>()? / size["count"].as_f64()?)
}
