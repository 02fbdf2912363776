//! The bundled workloads, run as a user runs them: what they print about themselves must add up.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PAGE_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;

#[test]
fn churn_counts_what_it_does() {
    let truth = workload("churn --seconds 1 --threads 2");
    for (class, size) in [("large", 64 * MIB), ("middle", MIB)] {
        let class = &truth[class];
        assert_adds_up(class);
        assert_eq!(number(class, "size_bytes"), size);
        assert!(number(class, "count") > 0);
    }
    assert!(number(&truth["middle"], "count") > number(&truth["large"], "count"));
    assert!(number(&truth["small"], "count") > number(&truth["middle"], "count"));
    assert!(number(&truth, "elapsed_ns") >= 1_000_000_000);
}

#[test]
fn churn_ends_on_sigterm_and_still_tells() {
    let child = program("workload churn").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_adds_up(&truth_of(&child.wait_with_output().unwrap())["large"]);
}

#[test]
fn map_touches_each_page_once() {
    for flags in ["", "--hold"] {
        let truth = workload(&format!("map --sizes 64KiB,1MiB,5000 --count 7 {flags}"));
        let sizes = truth["sizes"].as_array().unwrap();
        assert_eq!(sizes.len(), 3);
        for size in sizes {
            assert_adds_up(size);
            assert_eq!(number(size, "count"), 7);
        }
        let touched: u64 = sizes.iter().map(|size| number(size, "pages_touched")).sum();
        assert_eq!(touched, 7 * (16 + 256 + 2));
        assert!(number(&truth["faults"], "minor") >= touched, "{truth}");
    }
}

#[test]
fn map_can_leave_pages_alone() {
    let truth = workload("map --sizes 1MiB --count 3 --no-touch");
    let size = &truth["sizes"][0];
    assert_eq!((number(size, "count"), number(size, "pages_touched")), (3, 0));
    assert!(number(&truth["faults"], "minor") < 256, "{truth}");
}

#[test]
fn repetitions_are_counted_in_whole_chunks() {
    for name in ["syscalls", "small"] {
        let truth = workload(&format!("{name} --count 25000 --large 2"));
        assert_eq!((number(&truth, "count"), number(&truth, "large")), (20_000, 2));
        assert!(truth["ns_per_op_best"].as_f64().unwrap() <= truth["ns_per_op_median"].as_f64().unwrap());
    }
}

#[test]
fn map_waits_for_a_line_and_for_its_time() {
    let mut child = program("workload map --sizes 64KiB --count 1 --wait-stdin --start-delay 200ms")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    let told = Instant::now();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    truth_of(&child.wait_with_output().unwrap());
    assert!(told.elapsed() >= Duration::from_millis(200));
}

#[test]
fn faults_are_those_of_its_pages() {
    let truth = workload("faults --mib 8 --rounds 3");
    let touched = number(&truth, "pages_touched");
    assert_eq!(touched, 3 * 8 * MIB / PAGE_BYTES);
    // A few more are the program's own.
    let minor = number(&truth["faults"], "minor");
    assert!((touched..touched + 200).contains(&minor), "{truth}");
    let ns = |name: &str| truth[name].as_f64().unwrap();
    assert!(ns("ns_per_fault_best") > 0.0);
    assert!(ns("ns_per_fault_best") <= ns("ns_per_fault_median"));
    assert!(ns("ns_per_fault_best") <= ns("ns_per_fault_mean"));
}

#[test]
fn remap_unmaps_all_it_mapped() {
    let truth = workload("remap --rounds 2");
    let mapped = number(&truth, "mmap_bytes") + number(&truth, "mremap_added_bytes");
    assert_eq!(mapped, number(&truth, "munmap_bytes"));
    assert_eq!(mapped, 2 * 64 * MIB);
    assert_eq!(number(&truth, "pages_touched"), mapped / PAGE_BYTES);
    assert_eq!(number(&truth, "pages_retouched"), number(&truth, "madvise_bytes") / PAGE_BYTES);
    let calls = ["mmap_calls", "mremap_calls", "munmap_calls", "munmap_partial_calls", "madvise_calls"];
    assert_eq!(calls.map(|name| number(&truth, name)), [2, 12, 8, 6, 2]);
    assert!(number(&truth, "mremap_moves") <= 12);
    assert!(
        number(&truth["faults"], "minor")
            >= number(&truth, "pages_touched") + number(&truth, "pages_retouched")
    );
}

#[test]
fn brk_gives_back_what_it_took() {
    let truth = workload("brk --step 1MiB --steps 5 --rounds 2");
    assert_eq!(number(&truth, "grow_calls"), 10);
    assert_eq!(number(&truth, "shrink_calls"), 10);
    assert_eq!(number(&truth, "bytes"), 10 * MIB);
    assert_eq!(number(&truth, "pages_touched"), 10 * MIB / PAGE_BYTES);
}

#[test]
fn threads_pass_on_every_mapping() {
    let truth = workload("threads --threads 2 --count 5 --size 1MiB");
    assert_adds_up(&truth["mappings"]);
    assert_eq!(number(&truth["mappings"], "count"), 10);
    let copied = number(&truth["child"], "pages_copied");
    assert_eq!(copied, MIB / PAGE_BYTES);
    assert!(number(&truth["child"]["faults"], "minor") >= copied, "{truth}");
}

#[test]
fn file_faults_touch_each_page() {
    let dir = env!("CARGO_TARGET_TMPDIR");
    let truth = workload(&format!("file-faults --size 1MiB --dir {dir}"));
    assert_eq!(number(&truth, "pages_touched"), MIB / PAGE_BYTES);
    let faults = number(&truth["faults"], "minor") + number(&truth["faults"], "major");
    assert!(faults > 0, "{truth}");
}

#[test]
fn what_cannot_be_done_is_told_in_a_sentence() {
    let output = program("workload map --sizes 16EiB").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = program("workload map --sizes 100PiB --count 1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("allocscope: cannot map 112589990684262400 bytes"), "{message}");
    assert_eq!(message.lines().count(), 1);
}

fn program(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allocscope"));
    command.args(line.split_whitespace());
    command
}

fn workload(line: &str) -> Value {
    truth_of(&program(&format!("workload {line}")).output().unwrap())
}

fn truth_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}

fn assert_adds_up(size: &Value) {
    let (bytes, count) = (number(size, "size_bytes"), number(size, "count"));
    assert_eq!(number(size, "bytes"), bytes * count);
    assert_eq!(number(size, "pages_touched"), bytes.div_ceil(PAGE_BYTES) * count);
    for name in ["call_ns", "touch_ns", "release_ns"] {
        assert!(count == 0 || number(size, name) > 0, "{name} in {size}");
    }
}
