//! Regions bound to each node of the machine's memory in turn; on a machine with one node, what it says to that.

use anyhow::Context;
use serde::Serialize;

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
    #[serde(flatten)]
    stages: SizeTruth,
}

/// Works until the time is over or a signal comes.
pub fn run(args: &NumaArgs) -> anyhow::Result<NumaTruth> {
    let node = |node| NodeTruth { node, bound: 0, stages: SizeTruth::of_size(args.size) };
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
