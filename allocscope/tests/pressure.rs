//! Stack depths that a daemon counts in a real process, scraped and fed to a pool's policy: the pages that then stay.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use allocscope::pool::Pool;
use allocscope::pool::pressure::{
    Frames, Keep, Pressure, Release, STACK_FRAMES, Signal, StackDepth, Steps, page_bytes,
};
use std::net::SocketAddr;
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
