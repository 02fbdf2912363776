//! Memory that changes hands: one thread maps, another touches, a third unmaps; and a child that writes to
//! pages it shares with its parent.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde::Serialize;

use super::mapping::Mapping;
use super::truth::{Faults, SizeTruth, timed};
use super::{is_stopped, joined};
use crate::cli::workload::ThreadsArgs;

/// Mappings on their way to the next thread.
const IN_FLIGHT: usize = 4;

/// What threads did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadsTruth {
    workload: &'static str,
    pid: u32,
    /// Groups of three threads.
    groups: u32,
    mappings: SizeTruth,
    /// Of all threads.
    faults: Faults,
    child: ChildTruth,
}

/// What the child did: wrote to each page of a mapping that its parent had touched before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ChildTruth {
    pid: i32,
    pages_copied: u64,
    faults: Faults,
}

/// Forks first, while there is one thread only; then passes mappings on.
pub fn run(args: &ThreadsArgs) -> anyhow::Result<ThreadsTruth> {
    let child = copy_on_write(args.size)?;
    let before = Faults::so_far()?;
    let shares = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().name("map".into()).spawn_scoped(scope, || pass_on(args));
        let groups: Vec<_> =
            (0..args.threads).map(spawn).collect::<Result<_, _>>().context("cannot start a thread")?;
        groups.into_iter().map(|group| joined(group.join())?).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let mut mappings = SizeTruth::of_size(args.size);
    shares.iter().for_each(|share| mappings.merge(share));
    let faults = Faults::so_far()? - before;
    Ok(ThreadsTruth {
        workload: "threads",
        pid: std::process::id(),
        groups: args.threads,
        mappings,
        faults,
        child,
    })
}

/// One group; the calling thread is the one that maps.
fn pass_on(args: &ThreadsArgs) -> anyhow::Result<SizeTruth> {
    let (to_touch, touch) = sync_channel(IN_FLIGHT);
    let (to_unmap, unmap) = sync_channel(IN_FLIGHT);
    thread::scope(|scope| {
        let start = |name: &str| thread::Builder::new().name(name.into());
        let toucher = start("touch")
            .spawn_scoped(scope, || touch_all(touch, to_unmap))
            .context("cannot start a thread")?;
        let unmapper =
            start("unmap").spawn_scoped(scope, || unmap_all(unmap)).context("cannot start a thread")?;
        let mut truth = map_all(args, to_touch)?;
        (truth.pages_touched, truth.touch_ns) = joined(toucher.join())?;
        truth.release_ns = joined(unmapper.join())?;
        Ok(truth)
    })
}

fn map_all(args: &ThreadsArgs, next: SyncSender<Mapping>) -> anyhow::Result<SizeTruth> {
    let mut truth = SizeTruth::of_size(args.size);
    for _ in 0..args.count {
        if is_stopped() {
            break;
        }
        let mut mapping = timed(&mut truth.call_ns, || Mapping::new(args.size))?;
        mapping.advise(libc::MADV_NOHUGEPAGE).ok();
        next.send(mapping).ok().context("the thread that touches is gone")?;
        truth.count += 1;
        truth.bytes += args.size;
    }
    Ok(truth)
}

/// Returns pages and time. A receiver that is gone has died, which its own join tells.
fn touch_all(mappings: Receiver<Mapping>, next: SyncSender<Mapping>) -> (u64, u64) {
    let (mut pages, mut touch_ns) = (0, 0);
    for mut mapping in mappings {
        pages += timed(&mut touch_ns, || mapping.touch());
        next.send(mapping).ok();
    }
    (pages, touch_ns)
}

fn unmap_all(mappings: Receiver<Mapping>) -> u64 {
    let mut release_ns = 0;
    for mapping in mappings {
        timed(&mut release_ns, || drop(mapping));
    }
    release_ns
}

fn copy_on_write(bytes: u64) -> anyhow::Result<ChildTruth> {
    let mut mapping = Mapping::new(bytes)?;
    mapping.advise(libc::MADV_NOHUGEPAGE).ok();
    let pages_copied = mapping.touch();
    let before = Faults::of_children()?;
    // SAFETY: this process has one thread, and the child only writes to memory and leaves by _exit.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            mapping.touch();
            // SAFETY: ends the child without running anything of its parent's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).context("cannot wait for the child")?;
            anyhow::ensure!(matches!(status, WaitStatus::Exited(_, 0)), "the child died: {status:?}");
            Ok(ChildTruth { pid: child.as_raw(), pages_copied, faults: Faults::of_children()? - before })
        }
    }
}
