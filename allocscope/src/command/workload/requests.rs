//! Requests that each make many objects and a body: in an arena that is reset, and by malloc and free one by one.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::Serialize;

use super::mapping::touch_pages;
use super::pace::Pace;
use super::pool_truth::LargeBlocks;
use super::room;
use super::truth::{Faults, ns, timed};
use crate::cli::pooled::RequestsArgs;
use crate::pool::Arena;
use crate::pool::arena::{ArenaOptions, ChunkSource, Heap};
use crate::pool::tier::{Request, Session, Tier};

/// Requests of a session.
const SESSION: u64 = 50;
/// What a tracer takes for large, unless told otherwise.
const LARGE_BYTES: usize = 32 << 10;

/// An object.
type Object = [u64; 8];

/// What requests did.
#[derive(Clone, Debug, Serialize)]
pub struct RequestsTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    /// Of each kind.
    requests: u64,
    /// Objects that outlived their request, in the arena of a session of 50.
    promoted: u64,
    arena: Made,
    /// How often both arenas, the request's and the session's, grew.
    arena_grows: u64,
    /// Of the request's arena at the end.
    arena_sizes: ArenaSizes,
    malloc: Made,
    /// Calls of malloc for bodies and for an arena's chunks.
    large: LargeBlocks,
    faults: Faults,
}

/// What requests of one kind made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Made {
    objects: u64,
    bytes: u64,
    pages_touched: u64,
    /// Of objects and bodies.
    alloc_ns: u64,
    touch_ns: u64,
    free_ns: u64,
}

/// What the request's arena says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct ArenaSizes {
    grows: u64,
    resets: u64,
    peak_used_bytes: u64,
    reserved_bytes: u64,
    committed_bytes: u64,
}

/// Chunks that an arena took from the heap, by what it asked for.
struct Counted(Mutex<Vec<usize>>);

static CHUNKS: Counted = Counted(Mutex::new(Vec::new()));

// SAFETY: the heap's own contract; what is counted beside it changes nothing.
unsafe impl ChunkSource for Counted {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        let chunk = Heap.take(layout)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(layout.size());
        Some(chunk)
    }

    unsafe fn give_back(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches for it, and it came from the heap.
        unsafe { Heap.give_back(start, layout) }
    }
}

/// Works until the time is over or a signal comes.
pub fn run(args: &RequestsArgs) -> anyhow::Result<RequestsTruth> {
    let arena = || Arena::with_options(ArenaOptions { source: &CHUNKS, ..ArenaOptions::default() });
    let (mut request, mut session) = (Tier::<Request>::over(arena()), Tier::<Session>::over(arena()));
    let before = Faults::so_far()?;
    let (mut in_arena, mut by_malloc) = (Made::default(), Made::default());
    let mut pace = Pace::new(&args.pace);
    let (mut requests, mut promoted) = (0, 0);
    for number in &mut pace {
        if args.by.is_pool() {
            in_arena.in_arena(args, &mut request, &session)?;
            promoted += 1;
            if number % SESSION == SESSION - 1 {
                session.end();
            }
        }
        if args.by.is_malloc() {
            by_malloc.by_malloc(args)?;
        }
        requests = number + 1;
    }
    Ok(RequestsTruth {
        workload: "requests",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        requests,
        promoted,
        arena: in_arena,
        arena_grows: request.counters().grows + session.counters().grows,
        arena_sizes: sizes(&request),
        malloc: by_malloc,
        large: large(args, if args.by.is_malloc() { requests } else { 0 }),
        faults: Faults::so_far()? - before,
    })
}

impl Made {
    fn in_arena(
        &mut self,
        args: &RequestsArgs,
        request: &mut Tier<Request>,
        session: &Tier<Session>,
    ) -> anyhow::Result<()> {
        let refused = || format!("the arena refused {} bytes", args.body);
        let length = usize::try_from(args.body).with_context(refused)?;
        let alloc = || {
            let objects = (0..args.objects).map(|seed| request.hold([seed; 8]));
            let _kept = objects.last().map(|object| session.promote(&object));
            request.arena().try_alloc_bytes(length, 1).map(|body| body.as_mut_ptr())
        };
        let body = timed(&mut self.alloc_ns, alloc).with_context(refused)?;
        // SAFETY: as many bytes, which the arena has handed out and does not reset before the end of this function.
        let touch = || unsafe { touch_pages(body.cast(), args.body) };
        self.pages_touched += timed(&mut self.touch_ns, touch);
        timed(&mut self.free_ns, || request.end());
        self.count(args);
        Ok(())
    }

    fn by_malloc(&mut self, args: &RequestsArgs) -> anyhow::Result<()> {
        let alloc = || -> anyhow::Result<(Vec<Box<Object>>, Vec<u8>)> {
            Ok(((0..args.objects).map(|seed| Box::new([seed; 8])).collect(), room::by_malloc(args.body)?))
        };
        let (objects, mut body) = timed(&mut self.alloc_ns, alloc)?;
        self.pages_touched += timed(&mut self.touch_ns, || room::touch(&mut body));
        timed(&mut self.free_ns, || drop((objects, body)));
        self.count(args);
        Ok(())
    }

    fn count(&mut self, args: &RequestsArgs) {
        self.objects += args.objects;
        self.bytes += args.objects * size_of::<Object>() as u64 + args.body;
    }
}

fn sizes(request: &Tier<Request>) -> ArenaSizes {
    let counters = request.counters();
    ArenaSizes {
        grows: counters.grows,
        resets: counters.resets,
        peak_used_bytes: counters.peak_used as u64,
        reserved_bytes: counters.reserved as u64,
        committed_bytes: counters.committed as u64,
    }
}

/// Also the list of objects that the requests by malloc hold, where that is large.
fn large(args: &RequestsArgs, by_malloc: u64) -> LargeBlocks {
    let mut large = LargeBlocks::default();
    let list = args.objects * size_of::<Box<Object>>() as u64;
    for bytes in [args.body, list].into_iter().filter(|&bytes| bytes >= LARGE_BYTES as u64) {
        large.add(by_malloc, bytes);
    }
    let chunks = CHUNKS.0.lock().unwrap_or_else(PoisonError::into_inner);
    chunks.iter().filter(|&&bytes| bytes >= LARGE_BYTES).for_each(|&bytes| large.add(1, bytes as u64));
    large
}
