//! Raw anonymous mappings of known sizes, each page touched once.

use std::thread::{self, ScopedJoinHandle};

use anyhow::Context;
use serde::Serialize;

use super::is_stopped;
use super::mapping::Mapping;
use super::truth::{Faults, SizeTruth, timed, timed_with_cpu};
use crate::cli::workload::{MapArgs, MapPages};

/// What map did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapTruth {
    workload: &'static str,
    pid: u32,
    threads: u32,
    huge_pages: &'static str,
    hold: bool,
    sizes: Vec<SizeTruth>,
    faults: Faults,
}

/// Maps, touches and unmaps one of each size in turn, as often as asked, in each thread.
pub fn run(args: &MapArgs) -> anyhow::Result<MapTruth> {
    let before = Faults::so_far()?;
    // One thread is this one: a thread's stack would be a mapping more.
    let sizes = if args.threads == 1 { map_all(args)? } else { in_threads(args)? };
    let huge_pages = match args.huge_pages {
        MapPages::Never => "never",
        MapPages::Always => "always",
        MapPages::Explicit => "explicit",
    };
    let faults = Faults::so_far()? - before;
    Ok(MapTruth {
        workload: "map",
        pid: std::process::id(),
        threads: args.threads,
        huge_pages,
        hold: args.hold,
        sizes,
        faults,
    })
}

fn in_threads(args: &MapArgs) -> anyhow::Result<Vec<SizeTruth>> {
    let shares = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("map".into()).spawn_scoped(scope, || map_all(args));
        let threads: Vec<_> =
            (0..args.threads).map(spawn).collect::<Result<_, _>>().context("cannot start a thread")?;
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow::anyhow!("a thread died"))?;
        threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut sizes = sizes_of(args);
    for share in &shares {
        sizes.iter_mut().zip(share).for_each(|(sum, truth)| sum.merge(truth));
    }
    Ok(sizes)
}

fn sizes_of(args: &MapArgs) -> Vec<SizeTruth> {
    args.sizes.iter().map(|&size| SizeTruth::of_size(size)).collect()
}

fn map_all(args: &MapArgs) -> anyhow::Result<Vec<SizeTruth>> {
    let mut sizes = sizes_of(args);
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
    Ok(sizes)
}

/// The advice is part of neither time: a kernel without huge pages refuses it, and needs none.
fn map_and_touch(truth: &mut SizeTruth, args: &MapArgs) -> anyhow::Result<Mapping> {
    let size = truth.size_bytes;
    let (pages, advice) = match args.huge_pages {
        MapPages::Never => (0, Some(libc::MADV_NOHUGEPAGE)),
        MapPages::Always => (0, Some(libc::MADV_HUGEPAGE)),
        MapPages::Explicit => (libc::MAP_HUGETLB, None),
    };
    let flags = pages | if args.populate { libc::MAP_POPULATE } else { 0 };
    let mapped = timed(&mut truth.call_ns, || Mapping::with_flags(size, flags));
    let is_explicit = args.huge_pages == MapPages::Explicit;
    let set_aside = "explicit huge pages must be set aside first: sysctl vm.nr_hugepages";
    let mut mapping = if is_explicit { mapped.context(set_aside)? } else { mapped? };
    if !args.no_touch {
        advice.map(|advice| mapping.advise(advice));
        let touch = || if args.prefault { mapping.populate() } else { Ok(mapping.touch()) };
        truth.pages_touched += timed_with_cpu(&mut truth.touch_ns, &mut truth.touch_cpu_ns, touch)??;
    }
    truth.count += 1;
    truth.bytes += size;
    Ok(mapping)
}
