//! A mapping through everything that can happen to one: it grows, gets a hole, is discarded and cut away.

use anyhow::Context;
use serde::Serialize;

use super::is_stopped;
use super::mapping::Mapping;
use super::truth::{Faults, timed};
use crate::cli::workload::RemapArgs;

const FIRST_BYTES: u64 = 1 << 20;
const LAST_BYTES: u64 = 64 << 20;

/// What remap did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemapTruth {
    workload: &'static str,
    pid: u32,
    rounds: u64,
    mmap_calls: u64,
    mmap_bytes: u64,
    mremap_calls: u64,
    /// Of those, calls after which the mapping was elsewhere.
    mremap_moves: u64,
    mremap_added_bytes: u64,
    munmap_calls: u64,
    /// Of those, calls that left a part mapped.
    munmap_partial_calls: u64,
    munmap_bytes: u64,
    /// With MADV_DONTNEED.
    madvise_calls: u64,
    madvise_bytes: u64,
    /// Pages written to for the first time.
    pages_touched: u64,
    /// Pages written to again after MADV_DONTNEED.
    pages_retouched: u64,
    map_ns: u64,
    remap_ns: u64,
    touch_ns: u64,
    discard_ns: u64,
    unmap_ns: u64,
    faults: Faults,
}

/// Goes through it all, as often as asked.
pub fn run(args: &RemapArgs) -> anyhow::Result<RemapTruth> {
    let mut truth = RemapTruth { workload: "remap", pid: std::process::id(), ..RemapTruth::default() };
    let before = Faults::so_far()?;
    for _ in 0..args.rounds {
        if is_stopped() {
            break;
        }
        let mapping = grow(&mut truth)?;
        cut_down(mapping, &mut truth)?;
        truth.rounds += 1;
    }
    truth.faults = Faults::so_far()? - before;
    Ok(truth)
}

/// From 1 MiB to 64 MiB, doubling; what is new is touched each time.
fn grow(truth: &mut RemapTruth) -> anyhow::Result<Mapping> {
    let mut mapping = timed(&mut truth.map_ns, || Mapping::new(FIRST_BYTES))?;
    mapping.advise(libc::MADV_NOHUGEPAGE).ok();
    truth.mmap_calls += 1;
    truth.mmap_bytes += FIRST_BYTES;
    truth.pages_touched += timed(&mut truth.touch_ns, || mapping.touch());
    while mapping.bytes() < LAST_BYTES {
        let before = mapping.bytes();
        let moved = timed(&mut truth.remap_ns, || mapping.grow(before * 2))?;
        truth.mremap_calls += 1;
        truth.mremap_moves += u64::from(moved);
        truth.mremap_added_bytes += before;
        truth.pages_touched += timed(&mut truth.touch_ns, || mapping.touch_from(before));
    }
    Ok(mapping)
}

/// Off with the last quarter; a hole in the middle; the first part discarded and touched anew; then the rest.
fn cut_down(mapping: Mapping, truth: &mut RemapTruth) -> anyhow::Result<()> {
    let (rest, tail) = mapping.split(LAST_BYTES / 4 * 3)?;
    unmap(tail, truth, true);
    let (mut first, rest) = rest.split(LAST_BYTES / 4)?;
    let (hole, last) = rest.split(LAST_BYTES / 4)?;
    unmap(hole, truth, true);
    timed(&mut truth.discard_ns, || first.advise(libc::MADV_DONTNEED)).context("cannot discard pages")?;
    truth.madvise_calls += 1;
    truth.madvise_bytes += first.bytes();
    truth.pages_retouched += timed(&mut truth.touch_ns, || first.touch());
    unmap(last, truth, true);
    unmap(first, truth, false);
    Ok(())
}

/// `partial`: neighbours that came from the same call stay mapped.
fn unmap(part: Mapping, truth: &mut RemapTruth, partial: bool) {
    truth.munmap_calls += 1;
    truth.munmap_partial_calls += u64::from(partial);
    truth.munmap_bytes += part.bytes();
    timed(&mut truth.unmap_ns, || drop(part));
}
