//! The heap grown and shrunk in large steps by moving the program break.

use std::io;

use anyhow::Context;
use serde::Serialize;

use super::mapping::touch_pages;
use super::truth::{Faults, timed};
use super::{PAGE_BYTES, is_stopped, pages};
use crate::cli::workload::BrkArgs;

/// What brk did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BrkTruth {
    workload: &'static str,
    pid: u32,
    rounds: u64,
    step_bytes: u64,
    grow_calls: u64,
    shrink_calls: u64,
    /// All steps up together; as much was given back.
    bytes: u64,
    /// One write for each 4 KiB of each step.
    pages_touched: u64,
    grow_ns: u64,
    touch_ns: u64,
    shrink_ns: u64,
    faults: Faults,
}

/// Grows the heap step by step, touching each, and shrinks it again. Nothing in between allocates, so the
/// break is where it was left; if it is not, nothing is taken away.
pub fn run(args: &BrkArgs) -> anyhow::Result<BrkTruth> {
    let step_bytes = pages(args.step) * PAGE_BYTES;
    let mut truth = BrkTruth { workload: "brk", pid: std::process::id(), step_bytes, ..BrkTruth::default() };
    let step = isize::try_from(step_bytes)?;
    let before = Faults::so_far()?;
    for _ in 0..args.rounds {
        if is_stopped() {
            break;
        }
        let grown = grow(&mut truth, step, args.steps)?;
        shrink(&mut truth, step, grown)?;
        truth.rounds += 1;
    }
    truth.faults = Faults::so_far()? - before;
    Ok(truth)
}

/// Returns the steps taken.
fn grow(truth: &mut BrkTruth, step: isize, steps: u64) -> anyhow::Result<u64> {
    for _ in 0..steps {
        let start = timed(&mut truth.grow_ns, || move_break(step))?;
        // SAFETY: the break was at `start` and is `step` further on: the range is new, writable and only ours.
        truth.pages_touched += timed(&mut truth.touch_ns, || unsafe { touch_pages(start, truth.step_bytes) });
        truth.grow_calls += 1;
        truth.bytes += truth.step_bytes;
    }
    Ok(steps)
}

fn shrink(truth: &mut BrkTruth, step: isize, steps: u64) -> anyhow::Result<()> {
    let mut expected = move_break(0)?;
    for _ in 0..steps {
        anyhow::ensure!(move_break(0)? == expected, "somebody else moved the program break");
        timed(&mut truth.shrink_ns, || move_break(-step))?;
        truth.shrink_calls += 1;
        expected = expected.wrapping_offset(-step);
    }
    Ok(())
}

/// Moves the program break and returns where it was. Moving by 0 is no system call.
fn move_break(by: isize) -> anyhow::Result<*mut u8> {
    // SAFETY: growing touches no existing memory; callers shrink only by what they have grown, while nothing
    // else has moved the break.
    let before = unsafe { libc::sbrk(by) };
    if before as isize == -1 {
        return Err(io::Error::last_os_error())
            .context("the C library or the kernel does not let the heap be moved");
    }
    Ok(before.cast())
}
