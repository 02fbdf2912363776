//! Blocks of the C library, each allocated, touched and freed, every stage of each timed by itself.

use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde::Serialize;

use super::mapping::{Mapping, touch_pages};
use super::truth::{Faults, SizeTruth, thread_faults, timed, timed_with_cpu};
use super::{PAGE_BYTES, is_stopped, pages};
use crate::cli::workload::{BlocksArgs, HugePages};

/// What `--pin` fixes the thresholds to.
const PINNED_BYTES: libc::c_int = 128 << 10;
/// Of the mapping that is read: of no size class of the blocks, it is hoped.
const CALIBRATION_BYTES: u64 = 16 << 20;

/// What blocks did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlocksTruth {
    workload: &'static str,
    pid: u32,
    sizes: Vec<BlockTruth>,
    calibration: Calibration,
    faults: Faults,
}

/// Blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct BlockTruth {
    #[serde(flatten)]
    stages: SizeTruth,
    /// Page faults while touching, by the kernel's count of the thread's.
    touch_faults: u64,
    /// Calls of `realloc` that enlarged a block.
    grow_calls: u64,
    /// Of those, calls after which it was elsewhere.
    grow_moves: u64,
    /// Their time.
    grow_ns: u64,
}

/// Each page of a mapping read once, which maps the page of zeros: the cheapest fault there is. What its time by the
/// program's clock has more than by a tracer's is what lies outside of what the tracer sees, of any fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Calibration {
    bytes: u64,
    pages: u64,
    cpu_ns: u64,
}

/// A block on its way to the thread that touches it, and what that said.
struct Touch {
    block: Block,
    from: u64,
    truth: BlockTruth,
}

/// A block, freed by [`Block::free`] only.
#[derive(Clone, Copy)]
struct Block {
    start: NonNull<u8>,
    bytes: u64,
}

// SAFETY: a block belongs to the process, and only one thread at a time has it.
unsafe impl Send for Block {}

/// Allocates, touches and frees one of each size in turn, as often as asked.
pub fn run(args: &BlocksArgs) -> anyhow::Result<BlocksTruth> {
    prepare(args)?;
    let calibration = calibrate()?;
    let before = Faults::so_far()?;
    let sizes = if args.other_thread { with_toucher(args)? } else { all(args, touch)? };
    let faults = Faults::so_far()? - before;
    Ok(BlocksTruth { workload: "blocks", pid: std::process::id(), sizes, calibration, faults })
}

fn prepare(args: &BlocksArgs) -> anyhow::Result<()> {
    if args.pin {
        for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
            // SAFETY: sets a number of the C library's.
            let done = unsafe { libc::mallopt(option, PINNED_BYTES) };
            anyhow::ensure!(done == 1, "this C library has no such threshold");
        }
    }
    if args.huge_pages == HugePages::Never {
        // Where the kernel has none it refuses, and none is what is wanted.
        // SAFETY: sets a flag of this process.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    }
    Ok(())
}

fn calibrate() -> anyhow::Result<Calibration> {
    let mut mapping = Mapping::new(CALIBRATION_BYTES)?;
    mapping.advise(libc::MADV_NOHUGEPAGE).ok();
    let (mut wall_ns, mut cpu_ns) = (0, 0);
    let pages = timed_with_cpu(&mut wall_ns, &mut cpu_ns, || mapping.read())?;
    Ok(Calibration { bytes: CALIBRATION_BYTES, pages, cpu_ns })
}

/// The same with another thread that touches.
fn with_toucher(args: &BlocksArgs) -> anyhow::Result<Vec<BlockTruth>> {
    let (to_touch, requests) = sync_channel::<Touch>(1);
    let (done, answers) = sync_channel(1);
    thread::scope(|scope| {
        let toucher = thread::Builder::new().name("touch".into());
        toucher.spawn_scoped(scope, || serve(requests, done)).context("cannot start a thread")?;
        // The sender goes with the closure, which ends the thread.
        all(args, move |block, from, truth| {
            to_touch.send(Touch { block, from, truth: *truth }).ok().context("the thread is gone")?;
            *truth = answers.recv().context("the thread is gone")??;
            Ok(())
        })
    })
}

fn serve(requests: Receiver<Touch>, done: SyncSender<anyhow::Result<BlockTruth>>) {
    for Touch { block, from, mut truth } in requests {
        let result = touch(block, from, &mut truth).map(|()| truth);
        if done.send(result).is_err() {
            return;
        }
    }
}

fn all(
    args: &BlocksArgs,
    mut touch: impl FnMut(Block, u64, &mut BlockTruth) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<BlockTruth>> {
    let of_size = |&size: &u64| BlockTruth { stages: SizeTruth::of_size(size), ..BlockTruth::default() };
    let mut sizes: Vec<_> = args.sizes.iter().map(of_size).collect();
    for _ in 0..args.count {
        for truth in &mut sizes {
            if is_stopped() {
                return Ok(sizes);
            }
            one(args, truth, &mut touch)?;
        }
    }
    Ok(sizes)
}

fn one(
    args: &BlocksArgs,
    truth: &mut BlockTruth,
    touch: &mut impl FnMut(Block, u64, &mut BlockTruth) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let size = truth.stages.size_bytes;
    let mut block = Block::new(size, &mut truth.stages.call_ns)?;
    truth.stages.count += 1;
    truth.stages.bytes += size;
    if args.huge_pages == HugePages::Always {
        block.ask_for_huge_pages();
    }
    touch(block, 0, truth)?;
    if args.fork {
        fork_and_wait()?;
        touch(block, 0, truth)?;
    }
    if args.grow {
        let start = block.start;
        block = timed(&mut truth.grow_ns, || block.grow(size * 2))?;
        truth.grow_calls += 1;
        truth.grow_moves += u64::from(block.start != start);
        touch(block, pages(size) * PAGE_BYTES, truth)?;
    }
    if !args.keep {
        timed(&mut truth.stages.release_ns, || block.free());
    }
    Ok(())
}

fn touch(block: Block, from: u64, truth: &mut BlockTruth) -> anyhow::Result<()> {
    let stages = &mut truth.stages;
    let before = thread_faults()?;
    stages.pages_touched +=
        timed_with_cpu(&mut stages.touch_ns, &mut stages.touch_cpu_ns, || block.touch(from))?;
    truth.touch_faults += thread_faults()? - before;
    Ok(())
}

/// After it all pages are shared for a moment, and the next write to each is a fault again.
fn fork_and_wait() -> anyhow::Result<()> {
    // SAFETY: the child does nothing but end.
    match unsafe { fork() }.context("cannot fork")? {
        // SAFETY: ends the child without running anything of its parent's.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).context("cannot wait for the child")?;
            anyhow::ensure!(matches!(status, WaitStatus::Exited(_, 0)), "the child died: {status:?}");
            Ok(())
        }
    }
}

impl Block {
    /// By malloc itself, so that no layer in between adds calls or leaves some out.
    fn new(bytes: u64, call_ns: &mut u64) -> anyhow::Result<Self> {
        let size = usize::try_from(bytes)?;
        // SAFETY: malloc has no preconditions.
        let start = timed(call_ns, || unsafe { libc::malloc(size) });
        let start = NonNull::new(start.cast()).with_context(|| format!("malloc refused {bytes} bytes"))?;
        Ok(Self { start, bytes })
    }

    fn grow(self, bytes: u64) -> anyhow::Result<Self> {
        let size = usize::try_from(bytes)?;
        // SAFETY: the block came from malloc, and its old address is not used again.
        let start = unsafe { libc::realloc(self.start.as_ptr().cast(), size) };
        let start = NonNull::new(start.cast()).with_context(|| format!("realloc refused {bytes} bytes"))?;
        Ok(Self { start, bytes })
    }

    /// Writes a byte into each page from an offset on; returns how many.
    fn touch(self, from: u64) -> u64 {
        let from = from.min(self.bytes);
        // SAFETY: the rest of the block from there on is writable, and nobody else has it now.
        unsafe { touch_pages(self.start.as_ptr().add(from as usize), self.bytes - from) }
    }

    /// All whole pages in the block. A kernel without huge pages refuses, and needs none.
    fn ask_for_huge_pages(self) {
        let first = (self.start.as_ptr() as u64).next_multiple_of(PAGE_BYTES);
        let end = (self.start.as_ptr() as u64 + self.bytes) / PAGE_BYTES * PAGE_BYTES;
        if first < end {
            // SAFETY: pages of the block only; advice changes no contents.
            unsafe { libc::madvise(first as *mut libc::c_void, (end - first) as usize, libc::MADV_HUGEPAGE) };
        }
    }

    fn free(self) {
        // SAFETY: the block came from malloc or realloc and is not used again.
        unsafe { libc::free(self.start.as_ptr().cast()) };
    }
}
