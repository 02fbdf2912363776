//! Bad input: one clear sentence each, its documented exit code, and nothing lost or left running.
//!
//! A kernel without BTF or without ring buffers cannot be had here; what allocscope says then is in
//! `preflight` and `probe::faults`, and is not tested.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::http::{address, try_get};
use support::{
    Ended, LIMIT, PROGRAM, Report, Running, TempDir, Truth, Workload, allocscope, attach, eventually,
    program, program_at,
};

/// It ends with this code and says one sentence that contains these words.
fn assert_fails(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended}");
    let said: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("allocscope: ")).collect();
    assert_eq!(said.len(), 1, "{ended}");
    for word in words {
        assert!(said[0].contains(word), "no {word:?} in: {}", said[0]);
    }
    assert!(!ended.stderr.contains("panicked"), "{ended}");
}

/// The pid of a process that has ended and was waited for.
fn gone_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_process_that_does_not_exist() {
    let pid = gone_pid();
    assert_fails(&allocscope(&format!("attach --pid {pid}")), 3, &[&pid.to_string(), "no process"]);
    assert_fails(&allocscope(&format!("daemon --listen 127.0.0.1:0 --pid {pid}")), 3, &["no process"]);
    assert_fails(&allocscope(&format!("inspect {pid}")), 3, &["no process"]);
}

#[test]
fn messages_that_nobody_reads_are_no_failure() {
    let workload = Workload::waiting("map --sizes 1MiB --count 3");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&format!("attach --format json --duration 200ms --pid {}", workload.pid()));
    let ended = command.stderr(writer).output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    Report::last_in(&String::from_utf8(ended.stdout).unwrap()).process(workload.pid().into());
}

#[test]
fn a_process_that_ends_while_it_is_traced() {
    for (flags, code) in [("", 0), ("--duration 50s", 10)] {
        let workload = Workload::waiting("map --sizes 1MiB --count 3");
        let pid = workload.pid();
        let tracer = attach(pid, flags);
        workload.go();
        let ended = tracer.wait();
        assert_eq!(ended.code, Some(code), "{ended}");
        assert!(ended.stderr.contains(&format!("process {pid} ended after")), "{ended}");
        assert_eq!(Report::last_in(&ended.stdout).process(pid.into()).counts("mmap", 1 << 20).calls, 3);
    }
}

#[test]
fn a_thread_or_a_kernel_thread() {
    assert_fails(&allocscope("attach --pid 2"), 6, &["kernel thread"]);
    let tid = std::thread::spawn(|| {
        let tid = nix::unistd::gettid().as_raw();
        assert_fails(&allocscope(&format!("attach --pid {tid}")), 3, &["thread", "--pid"]);
    });
    tid.join().unwrap();
}

#[test]
fn without_privileges() {
    let (dir, copy) = copy_for_everyone();
    let mut command = program_at(&copy, &format!("attach --pid {}", std::process::id()));
    let ended = Running::start(command.uid(65_534).gid(65_534)).wait();
    assert_fails(&ended, 4, &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "root"]);
    drop(dir);
}

#[test]
fn without_one_capability() {
    let mut command = program(&format!("attach --pid {}", std::process::id()));
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            let ptrace = caps::Capability::CAP_SYS_PTRACE;
            caps::drop(None, caps::CapSet::Bounding, ptrace).map_err(std::io::Error::other)
        });
    }
    let ended = Running::start(&mut command).wait();
    assert_fails(&ended, 4, &["CAP_SYS_PTRACE"]);
    assert!(!ended.stderr.contains("CAP_SYS_ADMIN"), "{ended}");
}

#[test]
fn a_binary_that_was_deleted_or_replaced_is_traced_all_the_same() {
    for replace in [false, true] {
        let (_dir, copy) = copy_for_everyone();
        let target = Running::start(&mut program_at(&copy, "workload churn"));
        let other = copy.with_extension("new");
        fs::copy("/bin/true", &other).unwrap();
        if replace {
            fs::rename(&other, &copy).unwrap();
        } else {
            fs::remove_file(&copy).unwrap();
        }
        let tracer = attach(target.pid(), "--duration 1s");
        let ended = tracer.wait();
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(ended.stderr.contains("was deleted or replaced"), "{ended}");
        let report = Report::last_in(&ended.stdout);
        assert!(report.process(target.pid().into()).counts("glibc", 64 << 20).calls > 0, "{report}");
        assert_eq!(allocscope(&format!("inspect {}", target.pid())).code, Some(0));
    }
}

#[test]
fn a_file_that_is_no_program() {
    let dir = TempDir::new();
    let program = fs::read(PROGRAM).unwrap();
    for (name, bytes, word) in
        [("text", b"#!/bin/sh\n".as_slice(), "ELF"), ("cut", &program[..100], ""), ("empty", b"", "")]
    {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        assert_fails(&allocscope(&format!("inspect {}", path.display())), 7, &[name, word]);
    }
    assert_fails(&allocscope("inspect /nowhere/to/be/found"), 7, &["/nowhere/to/be/found"]);
}

/// The file alone does not tell where the probes go: what it says leads to where that can be seen.
#[test]
fn inspecting_what_maps_its_allocator_points_to_processes() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.split_whitespace().find(|word| word.contains("/libgcc_s")).unwrap();
    for path in ["/bin/sh", library] {
        let told = allocscope(&format!("inspect {path}"));
        assert_eq!(told.code, Some(0), "{told}");
        assert!(told.stdout.contains("allocator_in_library: the allocator, glibc, is a library's"), "{told}");
    }
    let told = allocscope(&format!("inspect {}", std::process::id()));
    assert!(told.stdout.contains("_int_malloc") && !told.stdout.contains("allocator_in_library"), "{told}");
}

#[test]
fn a_32_bit_process() {
    let dir = TempDir::new();
    let path = dir.join("pause32");
    fs::write(&path, elf32_that_pauses()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let target = Running::start(&mut Command::new(&path));
    let is_it = || fs::read_link(format!("/proc/{}/exe", target.pid())).is_ok_and(|exe| exe == path);
    assert!(eventually(LIMIT, is_it));
    assert_fails(&allocscope(&format!("attach --pid {}", target.pid())), 8, &["32-bit"]);
}

/// An executable for i386 of one segment: `mov eax, 29; int 0x80` (pause), again and again.
fn elf32_that_pauses() -> Vec<u8> {
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let (base, header) = (0x0804_8000u32, 84u32);
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Type EXEC, machine 386, then version, entry, offsets of headers, flags, sizes and counts.
    file.extend([2u16, 3].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1, base + header, 52, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([52u16, 32, 1, 40, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let size = header + code.len() as u32;
    file.extend([1, 0, base, base, size, size, 5, 0x1000].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend(code);
    file
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let pid = std::process::id();
    for line in
        [format!("daemon --listen {address} --pid {pid}"), format!("attach --listen {address} --pid {pid}")]
    {
        assert_fails(&allocscope(&line), 9, &[&address, "--listen"]);
    }
}

#[test]
fn bad_flags() {
    for (line, word) in [
        ("daemon --all --comm x", "cannot be used with"),
        ("daemon --pid 1 --exe x", "cannot be used with"),
        ("attach --pid 1 --min-size 12parsecs", "12parsecs"),
        ("attach --pid 1 --duration soon", "soon"),
        ("attach --pid 0", "0"),
        ("daemon --comm (", "("),
        ("attach", "--pid"),
        ("frobnicate", "frobnicate"),
    ] {
        let ended = allocscope(line);
        assert_eq!(ended.code, Some(2), "{line}: {ended}");
        assert!(ended.stderr.contains(word), "{line}: {ended}");
    }
}

#[test]
fn one_interrupt_ends_with_a_report_and_two_end_at_once() {
    let target = Running::start(&mut program("workload churn"));
    let tracer = attach(target.pid(), "");
    tracer.signal(Signal::SIGINT);
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(Report::last_in(&ended.stdout).0["final"], true);

    // A scrape that is never finished keeps it waiting, after the report, for two seconds.
    let tracer = attach(target.pid(), "--listen 127.0.0.1:0");
    let mut scrape = TcpStream::connect(address(&tracer)).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    tracer.signal(Signal::SIGINT);
    tracer.until_stdout("\"schema\"");
    tracer.signal(Signal::SIGINT);
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(130), "{ended}");
    drop(scrape);
    // Nothing is left behind that is in the next one's way.
    let ended = attach(target.pid(), "--duration 1s").wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(Report::last_in(&ended.stdout).process(target.pid().into()).counts("glibc", 64 << 20).calls > 0);
}

/// A terminal interrupts the command, too: it is let to come to its own end, and then there is a report.
#[test]
fn an_interrupt_under_run_is_the_commands_business() {
    let tracer = Running::start(&mut program(&format!("run --format json -- {PROGRAM} workload churn")));
    let child = child_of(tracer.pid());
    assert!(eventually(LIMIT, || !is_held(child)));
    std::thread::sleep(Duration::from_millis(500));
    tracer.signal_group(Signal::SIGINT);
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let (truth, report) = (Truth::in_output(&ended.stdout), Report::last_in(&ended.stdout));
    assert_eq!(truth.pid(), child);
    let large = truth.0["large"]["count"].as_u64().unwrap();
    assert_eq!(report.process(child).counts("glibc", 64 << 20).calls, large, "{report}");
}

/// Whether a process is not let go yet.
fn is_held(pid: u64) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    !status.lines().any(|line| line == "TracerPid:\t0")
}

/// The child of a process, once it has one that runs what it was started for.
fn child_of(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let mut child = None;
    let is_there = eventually(LIMIT, || {
        child = fs::read_to_string(&path).ok().and_then(|pids| pids.trim().parse().ok());
        let words = child.and_then(|child: u64| fs::read(format!("/proc/{child}/cmdline")).ok());
        words.is_some_and(|words| words.ends_with(b"workload\0churn\0"))
    });
    assert!(is_there);
    child.unwrap()
}

#[test]
fn run_passes_the_commands_own_end_on() {
    let code = |command: &[&str]| Running::start(program("run --").args(command)).wait();
    assert_eq!(code(&["sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]).code, Some(128 + 9));
    assert_eq!(code(&["true"]).code, Some(0));
    assert_fails(&code(&["no-such-command"]), 127, &["no-such-command", "not found"]);
    let dir = TempDir::new();
    let path = dir.join("data");
    fs::write(&path, "no program").unwrap();
    assert_fails(&code(&[path.to_str().unwrap()]), 126, &["data"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("run --listen {} -- true", taken.local_addr().unwrap());
    assert_fails(&allocscope(&line), 125, &["--listen"]);
}

#[test]
fn a_reader_that_has_had_enough() {
    let script = format!(
        "{PROGRAM} run --format json -- {PROGRAM} workload map --count 1 | head -c 1; \
                          exit ${{PIPESTATUS[0]}}"
    );
    let ended = Running::start(Command::new("bash").args(["-c", &script])).wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!ended.stderr.contains("panicked"), "{ended}");
}

#[test]
fn what_is_not_a_terminal_gets_no_escape_codes() {
    let ended = allocscope(&format!("run --interval 100ms -- {PROGRAM} workload map --count 30"));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!ended.stdout.contains('\x1b') && !ended.stderr.contains('\x1b'), "{ended}");
    assert!(ended.stdout.contains("lost: nothing"), "{ended}");
}

/// First faults as fast as they go cost more than a hundredth of a CPU, whoever traces them.
#[test]
fn what_costs_too_much_is_taken_out() {
    let target = Running::start(&mut program("workload faults --rounds 1000000"));
    let tracer = attach(target.pid(), "--max-overhead 1 --duration 9s");
    let ended = tracer.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    let report = Report::last_in(&ended.stdout);
    let process = report.process(target.pid().into());
    let misses = process.0["coverage"]["misses"].as_array().unwrap();
    let shed: Vec<_> = misses.iter().filter(|miss| miss["reason"] == "shed_for_overhead").collect();
    assert_eq!(shed.len(), 2, "{report}");
    assert_eq!(
        (&process.0["coverage"]["tier"], &process.0["coverage"]["sites_attached"]),
        (&"kernel".into(), &0.into())
    );
    assert!(ended.stderr.contains("max-overhead"), "{ended}");
    assert!(process.0["alive"].as_bool().unwrap(), "{report}");
    let refused = allocscope("attach --pid 1 --max-overhead 0");
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("--max-overhead"), "{refused}");
}

/// Scrapes that come while the daemon ends are answered or refused; none hangs.
#[test]
fn scrapes_during_shutdown() {
    let daemon =
        Running::start(&mut program(&format!("daemon --listen 127.0.0.1:0 --pid {}", std::process::id())));
    let address = address(&daemon);
    daemon.until_stderr("tracing ");
    let scraper = std::thread::spawn(move || {
        let mut answered = 0;
        let begin = Instant::now();
        while let Ok((status, _)) = try_get(address, "/metrics") {
            assert!(matches!(status, 200 | 503), "{status}");
            answered += 1;
            assert!(begin.elapsed() < LIMIT);
        }
        answered
    });
    std::thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(scraper.join().unwrap() > 0);
}

/// The program where any user can reach it.
fn copy_for_everyone() -> (TempDir, PathBuf) {
    let dir = TempDir::new();
    let copy = dir.copy(PROGRAM, "allocscope");
    (dir, copy)
}
