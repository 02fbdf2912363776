//! Bundled workloads whose costs are known: each does what it says, counts and times it by its own clock,
//! and prints the truth as one JSON object, to compare a tracer's numbers with.

mod blocks;
mod breaker;
mod brk;
mod buffers;
mod churn;
mod false_sharing;
mod faults;
mod file_faults;
mod lifetimes;
mod map;
mod mapping;
mod numa;
mod pace;
mod pool;
mod pool_truth;
mod pressure;
mod regions;
mod remap;
mod repeat;
mod requests;
mod room;
mod threads;
mod truth;

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::Serialize;

use crate::cli::workload::{StartArgs, Workload};

pub use truth::{Faults, SizeTruth};

/// Bytes of a page, as far as workloads count: one write in each page of this size.
pub const PAGE_BYTES: u64 = 4096;

/// Set by SIGINT and SIGTERM.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Runs a workload and prints its truth.
///
/// # Errors
/// Where memory, a thread or a file cannot be had, or standard output cannot be written.
pub fn run(workload: Workload) -> anyhow::Result<u8> {
    let start = start_of(&workload);
    wait_for_line(start)?;
    stop_on_signals()?;
    wait_for_time(start);
    match workload {
        Workload::Churn(args) => print(&churn::run(&args)?),
        Workload::Blocks(args) => print(&blocks::run(&args)?),
        Workload::Map(args) => print(&map::run(&args)?),
        Workload::Faults(args) => print(&faults::run(&args)?),
        Workload::Remap(args) => print(&remap::run(&args)?),
        Workload::Brk(args) => print(&brk::run(&args)?),
        Workload::Threads(args) => print(&threads::run(&args)?),
        Workload::FileFaults(args) => print(&file_faults::run(&args)?),
        Workload::Syscalls(args) => print(&repeat::syscalls(&args)?),
        Workload::Small(args) => print(&repeat::small(&args)?),
        Workload::Pool(args) => print(&pool::run(&args)?),
        Workload::Buffers(args) => print(&buffers::run(&args)?),
        Workload::FalseSharing(args) => print(&false_sharing::run(&args)?),
        Workload::Requests(args) => print(&requests::run(&args)?),
        Workload::Lifetimes(args) => print(&lifetimes::run(&args)?),
        Workload::Breaker(args) => print(&breaker::run(&args)?),
        Workload::Regions(args) => print(&regions::run(&args)?),
        Workload::Numa(args) => print(&numa::run(&args)?),
        Workload::Pressure(args) => print(&pressure::run(&args)?),
    }
}

/// Whether a signal has asked the workload to end. Checked between steps, so that what is printed stays true.
fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// The pages that hold so many bytes.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES)
}

fn start_of(workload: &Workload) -> &StartArgs {
    match workload {
        Workload::Churn(args) => &args.start,
        Workload::Blocks(args) => &args.start,
        Workload::Map(args) => &args.start,
        Workload::Faults(args) => &args.start,
        Workload::Remap(args) => &args.start,
        Workload::Brk(args) => &args.start,
        Workload::Threads(args) => &args.start,
        Workload::FileFaults(args) => &args.start,
        Workload::Syscalls(args) | Workload::Small(args) => &args.start,
        Workload::Pool(args) => &args.pace.start,
        Workload::Buffers(args) => &args.pace.start,
        Workload::FalseSharing(args) => &args.pace.start,
        Workload::Requests(args) => &args.pace.start,
        Workload::Lifetimes(args) => &args.pace.start,
        Workload::Breaker(args) => &args.pace.start,
        Workload::Regions(args) => &args.pace.start,
        Workload::Numa(args) => &args.pace.start,
        Workload::Pressure(args) => &args.pace.start,
    }
}

/// Before signals are handled, so that they end the program here: a read would be resumed after a handler.
fn wait_for_line(start: &StartArgs) -> anyhow::Result<()> {
    if start.wait_stdin {
        io::stdin().lock().read_line(&mut String::new()).context("cannot read standard input")?;
    }
    Ok(())
}

fn wait_for_time(start: &StartArgs) {
    let mut left = start.start_delay.unwrap_or_default();
    while !left.is_zero() && !is_stopped() {
        let step = left.min(Duration::from_millis(50));
        std::thread::sleep(step);
        left -= step;
    }
}

fn stop_on_signals() -> anyhow::Result<()> {
    extern "C" fn stop(_signal: libc::c_int) {
        // The second one finds a workload that does not come to its end.
        if STOPPED.swap(true, Ordering::Relaxed) {
            // SAFETY: _exit may be called from a signal handler, and nothing is left to clean up.
            unsafe { libc::_exit(130) };
        }
    }
    // Without SA_RESTART a read of standard input would still be retried by the library.
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only touches an atomic and calls _exit, both safe in a signal handler.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}

/// What a thread returned, or that it died.
fn joined<T>(result: std::thread::Result<T>) -> anyhow::Result<T> {
    result.map_err(|_| anyhow::anyhow!("a thread died"))
}

fn print(truth: &impl Serialize) -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, truth).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(0)
}
