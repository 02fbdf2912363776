//! Regions mapped, touched and given back: with and without prefault, of small and of huge pages.

use anyhow::Context;
use serde::Serialize;

use super::mapping::touch_pages;
use super::pace::Pace;
use super::pool_truth::LargeBlocks;
use super::truth::{Faults, SizeTruth, ns, thread_faults, timed, timed_with_cpu};
use crate::cli::pooled::RegionsArgs;
use crate::cli::workload::HugePages;
use crate::pool::Region;
use crate::pool::region::{Backing, HugePages as Wanted, RegionOptions};

/// What regions did.
#[derive(Clone, Debug, Serialize)]
pub struct RegionsTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    rounds: u64,
    /// Each way of making regions that was asked for.
    ways: Vec<WayTruth>,
    /// Of all ways: what the program's own probes tell.
    regions: u64,
    /// Of all ways, rounded up to pages of the kind asked for.
    region_bytes: u64,
    /// Calls of malloc: none is large.
    large: LargeBlocks,
    faults: Faults,
}

/// Regions of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WayTruth {
    prefault: bool,
    huge_pages: bool,
    /// What the regions got: small, transparent or explicit.
    backing: &'static str,
    #[serde(flatten)]
    stages: SizeTruth,
    /// Page faults while touching, by the kernel's count of the thread's.
    touch_faults: u64,
    /// Touching all of it once more, before it is given back.
    touch_again_ns: u64,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &RegionsArgs) -> anyhow::Result<RegionsTruth> {
    let mut ways = ways(args);
    let before = Faults::so_far()?;
    let mut pace = Pace::new(&args.pace);
    let (mut rounds, mut region_bytes) = (0, 0);
    for round in &mut pace {
        for way in &mut ways {
            region_bytes += way.one()?;
        }
        rounds = round + 1;
    }
    Ok(RegionsTruth {
        workload: "regions",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        regions: ways.iter().map(|way| way.stages.count).sum(),
        ways,
        region_bytes,
        large: LargeBlocks::default(),
        faults: Faults::so_far()? - before,
    })
}

fn ways(args: &RegionsArgs) -> Vec<WayTruth> {
    let huge = match args.huge_pages {
        None => vec![false, true],
        Some(pages) => vec![pages == HugePages::Always],
    };
    let prefault = [(args.prefault.is_off(), false), (args.prefault.is_on(), true)];
    let prefault = prefault.into_iter().filter(|(is_asked, _)| *is_asked);
    let way = |prefault, huge_pages| WayTruth {
        prefault,
        huge_pages,
        backing: "none",
        stages: SizeTruth::of_size(args.size),
        touch_faults: 0,
        touch_again_ns: 0,
    };
    prefault.flat_map(|(_, prefault)| huge.iter().map(move |&huge| way(prefault, huge))).collect()
}

impl WayTruth {
    /// Makes one, touches it twice and gives it back; returns what it reserved.
    fn one(&mut self) -> anyhow::Result<u64> {
        let bytes = usize::try_from(self.stages.size_bytes)?;
        let huge = if self.huge_pages { Wanted::Transparent } else { Wanted::Never };
        let options = RegionOptions { huge, prefault: self.prefault, ..RegionOptions::default() };
        let mut region = timed(&mut self.stages.call_ns, || made(bytes, options))?;
        self.backing = name(region.backing());
        let before = thread_faults()?;
        let SizeTruth { touch_ns, touch_cpu_ns, .. } = &mut self.stages;
        let pages = timed_with_cpu(touch_ns, touch_cpu_ns, || touch(&mut region))?;
        self.touch_faults += thread_faults()? - before;
        timed(&mut self.touch_again_ns, || touch(&mut region));
        let reserved = region.counters().reserved as u64;
        timed(&mut self.stages.release_ns, || drop(region));
        self.stages.count += 1;
        self.stages.bytes += self.stages.size_bytes;
        self.stages.pages_touched += pages;
        Ok(reserved)
    }
}

/// All of it usable.
fn made(bytes: usize, options: RegionOptions) -> anyhow::Result<Region> {
    let mut region = Region::reserve(bytes, options).context("cannot reserve a region")?;
    region.commit(bytes).context("cannot commit a region")?;
    Ok(region)
}

/// Writes one byte into each page; returns how many.
pub fn touch(region: &mut Region) -> u64 {
    let bytes = region.bytes_mut();
    // SAFETY: the region's own bytes, which nobody else has.
    unsafe { touch_pages(bytes.as_mut_ptr().cast(), bytes.len() as u64) }
}

fn name(backing: Backing) -> &'static str {
    match backing {
        Backing::Small => "small",
        Backing::Transparent => "transparent",
        Backing::Explicit => "explicit",
    }
}
