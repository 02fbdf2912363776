//! Regions bound to each node of the machine's memory in turn; on a machine with one node, what it says to that.

use anyhow::Context;
use serde::Serialize;

use super::PAGE_BYTES;
use super::pace::Pace;
use super::pool_truth::LargeBlocks;
use super::regions::touch;
use super::truth::{Faults, SizeTruth, ns, timed, timed_with_cpu};
use crate::cli::pooled::NumaArgs;
use crate::pool::Region;
use crate::pool::region::{Binding, Kernel, RegionOptions, System};

/// What numa did.
#[derive(Clone, Debug, Serialize)]
pub struct NumaTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    rounds: u64,
    nodes: Vec<NodeTruth>,
    /// What to know of it.
    note: &'static str,
    regions: u64,
    region_bytes: u64,
    /// Calls of malloc: none is large.
    large: LargeBlocks,
    faults: Faults,
}

/// Regions of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct NodeTruth {
    node: u32,
    /// Regions whose pages come from this node only.
    bound: u64,
    /// Pages that were there when they had been touched; null where the kernel does not say.
    pages_there: Option<u64>,
    #[serde(flatten)]
    stages: SizeTruth,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &NumaArgs) -> anyhow::Result<NumaTruth> {
    let node =
        |node| NodeTruth { node, bound: 0, pages_there: Some(0), stages: SizeTruth::of_size(args.size) };
    let mut nodes: Vec<_> = Kernel.nodes().into_iter().map(node).collect();
    let before = Faults::so_far()?;
    let mut pace = Pace::new(&args.pace);
    let (mut rounds, mut region_bytes) = (0, 0);
    for round in &mut pace {
        for node in &mut nodes {
            region_bytes += node.one()?;
        }
        rounds = round + 1;
    }
    Ok(NumaTruth {
        workload: "numa",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        note: note(&nodes),
        regions: nodes.iter().map(|node| node.stages.count).sum(),
        nodes,
        region_bytes,
        large: LargeBlocks::default(),
        faults: Faults::so_far()? - before,
    })
}

fn note(nodes: &[NodeTruth]) -> &'static str {
    match nodes {
        [_] => "the machine has one node: there is nothing to bind to, and nothing was bound",
        _ => "each node's regions were bound to it before they were touched",
    }
}

impl NodeTruth {
    /// Makes one, touches it and gives it back; returns what it reserved.
    fn one(&mut self) -> anyhow::Result<u64> {
        let bytes = usize::try_from(self.stages.size_bytes)?;
        let (mut region, binding) = timed(&mut self.stages.call_ns, || bound(bytes, self.node))?;
        self.bound += u64::from(binding == Binding::Bound);
        let SizeTruth { touch_ns, touch_cpu_ns, .. } = &mut self.stages;
        self.stages.pages_touched += timed_with_cpu(touch_ns, touch_cpu_ns, || touch(&mut region))?;
        self.pages_there = self.pages_there.zip(pages_on(self.node, &mut region)).map(|(sum, new)| sum + new);
        let reserved = region.counters().reserved as u64;
        timed(&mut self.stages.release_ns, || drop(region));
        self.stages.count += 1;
        self.stages.bytes += self.stages.size_bytes;
        Ok(reserved)
    }
}

fn bound(bytes: usize, node: u32) -> anyhow::Result<(Region, Binding)> {
    let mut region = Region::reserve(bytes, RegionOptions::default()).context("cannot reserve a region")?;
    let binding = region.bind(node).with_context(|| format!("cannot bind to node {node}"))?;
    region.commit(bytes).context("cannot commit a region")?;
    Ok((region, binding))
}

/// Pages that the kernel is asked about at once, without any allocation.
const ASKED_AT_ONCE: usize = 256;

/// How many of a region's pages lie on a node; `None` where the kernel does not say.
fn pages_on(node: u32, region: &mut Region) -> Option<u64> {
    let node = i32::try_from(node).ok()?;
    let mut there = 0;
    for part in region.bytes_mut().chunks_mut(ASKED_AT_ONCE * PAGE_BYTES as usize) {
        let mut pages = [std::ptr::null_mut::<libc::c_void>(); ASKED_AT_ONCE];
        let mut nodes = [-1i32; ASKED_AT_ONCE];
        let count = part.chunks_mut(PAGE_BYTES as usize).zip(&mut pages);
        let count = count.map(|(page, place)| *place = page.as_mut_ptr().cast()).count();
        let nowhere = std::ptr::null::<i32>();
        // SAFETY: both arrays have at least `count` entries; without nodes to move to, pages are only looked at.
        let code = unsafe {
            libc::syscall(libc::SYS_move_pages, 0, count, pages.as_ptr(), nowhere, nodes.as_mut_ptr(), 0)
        };
        if code != 0 {
            return None;
        }
        there += nodes.iter().take(count).filter(|&&on| on == node).count() as u64;
    }
    Some(there)
}
