//! Raw anonymous mappings of known sizes, each page touched once.

use serde::Serialize;

use super::is_stopped;
use super::mapping::Mapping;
use super::truth::{Faults, SizeTruth, timed};
use crate::cli::{HugePages, MapArgs};

/// What map did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapTruth {
    workload: &'static str,
    pid: u32,
    huge_pages: &'static str,
    hold: bool,
    sizes: Vec<SizeTruth>,
    faults: Faults,
}

/// Maps, touches and unmaps one of each size in turn, as often as asked.
pub fn run(args: &MapArgs) -> anyhow::Result<MapTruth> {
    let before = Faults::so_far()?;
    let mut sizes: Vec<_> = args.sizes.iter().map(|&size| SizeTruth::of_size(size)).collect();
    let mut held = Vec::new();
    'all: for _ in 0..args.count {
        for (index, truth) in sizes.iter_mut().enumerate() {
            if is_stopped() {
                break 'all;
            }
            let mapping = map_and_touch(truth, args)?;
            if args.hold {
                held.push((index, mapping));
            } else {
                timed(&mut truth.release_ns, || drop(mapping));
            }
        }
    }
    for (index, mapping) in held {
        timed(&mut sizes[index].release_ns, || drop(mapping));
    }
    let huge_pages = match args.huge_pages {
        HugePages::Never => "never",
        HugePages::Always => "always",
    };
    let faults = Faults::so_far()? - before;
    Ok(MapTruth { workload: "map", pid: std::process::id(), huge_pages, hold: args.hold, sizes, faults })
}

/// The advice is part of neither time: a kernel without huge pages refuses it, and needs none.
fn map_and_touch(truth: &mut SizeTruth, args: &MapArgs) -> anyhow::Result<Mapping> {
    let size = truth.size_bytes;
    let mut mapping = timed(&mut truth.call_ns, || Mapping::new(size))?;
    if !args.no_touch {
        let advice = match args.huge_pages {
            HugePages::Never => libc::MADV_NOHUGEPAGE,
            HugePages::Always => libc::MADV_HUGEPAGE,
        };
        mapping.advise(advice).ok();
        truth.pages_touched += timed(&mut truth.touch_ns, || mapping.touch());
    }
    truth.count += 1;
    truth.bytes += size;
    Ok(mapping)
}
