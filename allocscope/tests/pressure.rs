//! Stack depths that a daemon counts in a real process, and limits of a real cgroup, into what a pool's policy lets stay.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use allocscope::pool::Pool;
use allocscope::pool::pressure::{
    Advice, DEFAULT_SHARE, Frames, Host, Keep, MemoryShare, Pressure, Release, STACK_FRAMES, Signal,
    StackDepth, Steps, page_bytes,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::go::{PLAIN, build};
use support::http::{Metrics, address, get};
use support::{LIMIT, Running, eventually, program};

/// Blocks that a process allocates.
const BLOCKS: u64 = 500;
/// Pages that a pool holds before a step.
const PAGES: usize = 1000;

#[test]
fn the_deeper_a_traced_process_allocates_the_fewer_pages_stay() {
    let (daemon, address) = daemon("--comm ^deep$ --stack-depth");
    // Six or seven frames are the runtime's and main's.
    for (calls, pages) in [(1, 128), (6, 64), (60, 16)] {
        let deep = traced(address, calls);
        let pid = deep.pid().to_string();
        let labels = [("pid", pid.as_str()), ("allocator", "go")];
        let frames = Frames::parse(&Metrics::scrape(address).0, STACK_FRAMES, &labels).unwrap();
        assert_eq!(frames.calls(), BLOCKS, "{frames:?}");
        let (kept, keep) = step(depth_of(address, deep.pid()));
        assert_eq!(
            (kept, keep),
            (pages, Keep::Bytes(pages * page_bytes())),
            "{calls} calls deep, {frames:?}"
        );
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{ended}");
}

/// Without `--stack-depth` there is no histogram: the signal says so, and all pages stay.
#[test]
fn without_the_histogram_all_pages_stay() {
    let (_daemon, address) = daemon("--comm ^deep$");
    let deep = traced(address, 1);
    let absent = Keep::Unknown("the text has no such histogram");
    assert_eq!(step(depth_of(address, deep.pid())), (PAGES, absent));
}

const MIB: usize = 1 << 20;

/// A process in a cgroup of 64 MiB whose pool holds 60: by what the kernel says, it gives back down to the low mark.
#[test]
fn a_pool_gives_back_what_its_cgroup_lacks() {
    let cgroup = Cgroup::limited("allocscope-pressure", 64 * MIB);
    // SAFETY: the child uses this thread alone and ends without running what is not its own.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let ended = std::panic::catch_unwind(|| under_a_limit(&cgroup));
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

/// What the child does.
fn under_a_limit(cgroup: &Cgroup) {
    std::fs::write(cgroup.0.join("cgroup.procs"), "0").unwrap();
    let pool = Pool::builder(|| vec![1u8; MIB]).size_of(Vec::capacity).max_idle(64).build();
    drop((0..60).map(|_| pool.get()).collect::<Vec<_>>());
    let host = Host::new();
    let level = || host.memory().unwrap()[0];
    assert_eq!(level().limit_bytes, 64 * MIB as u64);
    assert!(level().share() >= DEFAULT_SHARE.high(), "{:?}", level());

    let source = host.clone();
    let signal = MemoryShare::new(DEFAULT_SHARE, move || source.memory());
    let mut pressure = Pressure::builder().signal(signal).least_bytes(MIB).every(Duration::ZERO).build();
    let mut step = |at| {
        pressure.look(at);
        pressure.step(at, &[&pool])
    };
    let first = step(Duration::ZERO);
    assert_eq!(first.advice, Advice::DontNeed);
    assert_eq!(first.released_bytes, 60 * MIB - pool.idle_bytes());
    // At the low mark but for less than the least, and whole items: two more steps find nothing to do.
    assert!(level().share() <= DEFAULT_SHARE.low() + 0.02, "{:?} after {first:?}", level());
    assert!(pool.idle_bytes() >= 48 * MIB, "{} bytes stayed after {first:?}", pool.idle_bytes());
    let more = [step(Duration::from_secs(1)), step(Duration::from_secs(2))].map(|step| step.released_bytes);
    assert_eq!(more, [0, 0]);
}

/// A cgroup with a limit, gone when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn limited(name: &str, bytes: usize) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = if v1.is_dir() {
            (v1, "memory.limit_in_bytes")
        } else {
            std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let folder = root.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(file), bytes.to_string()).unwrap();
        Self(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel may take a moment after the last process ended.
        eventually(LIMIT, || std::fs::remove_dir(&self.0).is_ok());
    }
}

/// The signal of a traced process: a scrape for each reading.
fn depth_of(address: SocketAddr, pid: u32) -> impl Signal {
    let pid = pid.to_string();
    let scrape = move || Frames::parse(&Metrics::scrape(address).0, STACK_FRAMES, &[("pid", &pid)]);
    StackDepth::new(Steps::default(), scrape)
}

/// Pages that stay idle in a pool after a step of a policy that goes by this signal, and what the signal said.
fn step(signal: impl Signal + 'static) -> (usize, Keep) {
    let pool = Pool::builder(|| vec![0u8; page_bytes()]).size_of(Vec::capacity).max_idle(PAGES).build();
    drop((0..PAGES).map(|_| pool.get()).collect::<Vec<_>>());
    assert_eq!(pool.idle_bytes(), PAGES * page_bytes());
    let mut pressure = Pressure::builder().signal(signal).build();
    pressure.look(Duration::ZERO);
    let step = pressure.step(Duration::ZERO, &[&pool]);
    assert_eq!(step.idle_bytes - step.released_bytes, pool.idle_bytes());
    (pool.idle_bytes() / page_bytes(), step.heard[0].keep)
}

/// `deep` after it allocated its blocks and the daemon has counted them.
fn traced(address: SocketAddr, calls: u32) -> Running {
    let mut deep = Running::start(
        Command::new(build("1.27.3", "deep", PLAIN)).args([calls.to_string(), BLOCKS.to_string()]),
    );
    let pid = deep.pid();
    let count = |family, labels: &[_]| Metrics::scrape(address).of_process(family, pid, labels);
    assert!(eventually(LIMIT, || count("allocscope_process_up", &[]).is_some()));
    deep.tell("");
    deep.until_stdout(&format!("calls {calls}\n"));
    let counted = || count("allocscope_allocations_total", &[("allocator", "go"), ("size", "1MiB")]);
    assert!(eventually(LIMIT, || counted() == Some(BLOCKS)), "{:?}", counted());
    deep
}

fn daemon(flags: &str) -> (Running, SocketAddr) {
    let daemon = Running::start(&mut program(&format!("daemon --listen 127.0.0.1:0 {flags}")));
    let address = address(&daemon);
    assert!(eventually(LIMIT, || get(address, "/readyz").0 == 200));
    (daemon, address)
}
