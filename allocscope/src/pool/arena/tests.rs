//! What arenas promise: places that nobody else has, memory kept and given back, errors instead of aborts.

mod dropping;
mod model;

use super::*;
use crate::pool::region::failing::{Call, Failing};
use crate::pool::region::{RegionOptions, Step};
use std::mem::MaybeUninit;

/// The global allocator, which fails when told and counts what is not given back. Its state is the thread's.
struct Flaky;

thread_local! {
    /// How many requests are served before each that is refused; `usize::MAX`: none is refused.
    static SERVED: Cell<usize> = const { Cell::new(usize::MAX) };
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
}

impl Flaky {
    fn refuse_after(served: usize) {
        SERVED.set(served);
        LEFT.set(served);
    }

    fn held_bytes() -> usize {
        HELD_BYTES.get()
    }
}

// SAFETY: serves by the global allocator or not at all.
unsafe impl ChunkSource for Flaky {
    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        if LEFT.get() == 0 {
            LEFT.set(SERVED.get());
            return None;
        }
        LEFT.set(LEFT.get() - 1);
        HELD_BYTES.set(HELD_BYTES.get() + layout.size());
        Heap.take(layout)
    }

    unsafe fn give_back(&self, start: NonNull<u8>, layout: Layout) {
        HELD_BYTES.set(HELD_BYTES.get() - layout.size());
        // SAFETY: the caller's.
        unsafe { Heap.give_back(start, layout) }
    }
}

fn small_chunks() -> ArenaOptions {
    ArenaOptions { first_chunk: 128, max_chunk: 1024, keep_bytes: 4096, source: &Flaky, ..Default::default() }
}

fn region(bytes: usize) -> Region {
    Region::reserve(bytes, RegionOptions::default()).unwrap()
}

/// In one call, which Miri does fast.
fn fill(bytes: &mut [MaybeUninit<u8>], value: u8) {
    // SAFETY: all of the slice.
    unsafe { bytes.as_mut_ptr().write_bytes(value, bytes.len()) };
}

#[test]
fn a_new_arena_holds_nothing() {
    let arena = Arena::with_options(small_chunks());
    assert_eq!((arena.counters(), Flaky::held_bytes()), (ArenaCounters::default(), 0));
    assert_eq!(Arena::with_capacity(0).counters().reserved, 0);
    assert_eq!(Arena::with_capacity(1000).counters().idle, 1000);
}

#[test]
fn nothing_takes_no_place() {
    let arena = Arena::with_options(ArenaOptions { limit: 0, ..Default::default() });
    assert_eq!(*arena.alloc(()), ());
    assert_eq!(arena.alloc_str(""), "");
    assert_eq!(arena.alloc_slice_copy::<u64>(&[]).as_ptr().addr() % 8, 0);
    assert_eq!(arena.alloc_bytes(0, 1 << 20).as_ptr().addr() % (1 << 20), 0);
    let many = arena.alloc_slice_fill_with(1000, |_| ());
    assert_eq!((many.len(), arena.counters().used), (1000, 0));
}

#[test]
fn alignments_up_to_a_page_and_beyond_are_kept() {
    let arena = Arena::with_options(small_chunks());
    let within = Arena::in_region(region(8 << 20));
    for power in 0..if cfg!(miri) { 14 } else { 22 } {
        for arena in [&arena, &within] {
            arena.alloc(1_u8);
            let bytes = arena.alloc_bytes(3, 1 << power);
            assert_eq!(bytes.as_ptr().addr() % (1 << power), 0);
            fill(bytes, 1);
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let arena = Arena::new();
    assert_eq!(arena.try_alloc_bytes(1, 3).unwrap_err(), AllocError::Impossible);
    assert_eq!(arena.try_alloc_bytes(1, 0).unwrap_err(), AllocError::Impossible);
    assert_eq!(arena.try_alloc_bytes(usize::MAX, 1).unwrap_err(), AllocError::Impossible);
    assert_eq!(arena.try_alloc_zeroed(isize::MAX as usize + 1, 1).unwrap_err(), AllocError::Impossible);
    let too_many = arena.try_alloc_slice_fill_with(usize::MAX, |_| 1_u16);
    assert_eq!(too_many.unwrap_err(), AllocError::Impossible);
    // Rounded up, it is one too large.
    assert_eq!(arena.try_alloc_bytes(isize::MAX as usize, 1).unwrap_err(), AllocError::Impossible);
    assert_eq!(arena.counters(), ArenaCounters::default());
}

/// The real allocator refuses: more than the address space has.
#[cfg(not(miri))]
#[test]
fn no_memory_is_an_error() {
    let bytes = isize::MAX as usize - 4095;
    let arena = Arena::new();
    assert_eq!(
        arena.try_alloc_bytes(bytes, 1).unwrap_err(),
        AllocError::OutOfMemory(bytes.next_multiple_of(8))
    );
    assert_eq!(Arena::try_with_capacity(bytes).unwrap_err(), AllocError::OutOfMemory(bytes));
    assert_eq!(*arena.alloc(1), 1);
}

#[test]
#[should_panic(expected = "arena: the arena's limit leaves no 8 bytes")]
fn without_try_no_memory_is_a_panic() {
    Arena::with_options(ArenaOptions { limit: 0, ..Default::default() }).alloc(1_u64);
}

#[test]
fn a_refused_chunk_changes_nothing() {
    Flaky::refuse_after(0);
    let arena = Arena::with_options(small_chunks());
    assert_eq!(arena.try_alloc(1_u64).unwrap_err(), AllocError::OutOfMemory(8));
    assert_eq!((arena.counters(), Flaky::held_bytes()), (ArenaCounters::default(), 0));
    Flaky::refuse_after(usize::MAX);
    assert_eq!(*arena.alloc(1_u64), 1);
}

#[test]
fn where_a_chunk_is_refused_the_need_may_be_served() {
    Flaky::refuse_after(1);
    let arena = Arena::with_options(small_chunks());
    arena.alloc([1_u8; 128]);
    // The chunk of 256 bytes is refused, the 16 that are needed are not.
    arena.alloc([2_u8; 16]);
    assert_eq!(arena.counters().reserved, 128 + 16);
}

#[test]
fn the_limit_is_used_up() {
    let arena = Arena::with_options(ArenaOptions { limit: 1000, ..small_chunks() });
    let count = std::iter::from_fn(|| arena.try_alloc([0_u64; 1]).ok()).count();
    assert_eq!((count, arena.counters().reserved), (125, 1000));
    assert_eq!(arena.try_alloc(1_u8).unwrap_err(), AllocError::Exhausted(8));
}

#[test]
fn chunks_double_up_to_a_bound() {
    let arena = Arena::with_options(small_chunks());
    let mut sizes = Vec::new();
    for _ in 0..512 {
        let before = Flaky::held_bytes();
        arena.alloc([0_u64; 1]);
        sizes.extend(Some(Flaky::held_bytes() - before).filter(|grown| *grown > 0));
    }
    assert_eq!(sizes, [128, 256, 512, 1024, 1024, 1024, 1024]);
    assert_eq!(arena.counters().grows, 7);
}

#[test]
fn what_is_too_large_for_a_chunk_leaves_the_current_one_in_use() {
    let arena = Arena::with_options(small_chunks());
    let first = std::ptr::from_mut(arena.alloc(1_u64)).addr();
    arena.alloc_bytes(5000, 1);
    let second = std::ptr::from_mut(arena.alloc(2_u64)).addr();
    assert_eq!(second, first + 8);
    let counters = arena.counters();
    assert_eq!((counters.used, counters.wasted, counters.reserved), (16 + 5000, 0, 128 + 5000));
}

#[test]
fn ends_of_chunks_count_as_wasted() {
    let arena = Arena::with_options(small_chunks());
    arena.alloc([0_u8; 96]);
    arena.alloc([0_u8; 48]);
    let counters = arena.counters();
    assert_eq!((counters.used, counters.wasted, counters.committed), (96 + 48, 32, 128 + 256));
    assert!((counters.fragmentation() - 32.0 / 176.0).abs() < 1e-12);
}

#[test]
fn a_reset_keeps_the_largest_chunks_within_its_bound() {
    let mut arena = Arena::with_options(ArenaOptions { keep_bytes: 1600, ..small_chunks() });
    for _ in 0..100 {
        arena.alloc([0_u64; 4]);
    }
    // 128 + 256 + 512 + 1024 + 1024 + 1024.
    assert_eq!(Flaky::held_bytes(), 3968);
    arena.reset();
    let counters = arena.counters();
    assert_eq!((counters.reserved, counters.idle, Flaky::held_bytes()), (1024 + 512, 1536, 1536));
    assert_eq!((counters.used, counters.wasted, counters.peak_used, counters.resets), (0, 0, 3200, 1));
    for _ in 0..48 {
        arena.alloc([0_u64; 4]);
    }
    assert_eq!((Flaky::held_bytes(), arena.idle_bytes()), (1536, 0));
}

#[test]
fn a_steady_load_needs_no_new_memory() {
    let mut arena = Arena::with_options(ArenaOptions { keep_bytes: 1 << 16, ..small_chunks() });
    for round in 0..if cfg!(miri) { 15 } else { 50 } {
        (0..40).for_each(|at| _ = arena.alloc_slice_fill_with(at, |at| at));
        arena.alloc_bytes(2000, 1);
        arena.reset();
        if round == 9 {
            Flaky::refuse_after(0);
        }
    }
    // What a round uses is 8240 bytes.
    assert!((8240..16_000).contains(&Flaky::held_bytes()), "{}", Flaky::held_bytes());
}

#[test]
fn idle_chunks_can_be_released_and_used_ones_stay() {
    let mut arena = Arena::with_options(small_chunks());
    (0..100).for_each(|_| _ = arena.alloc([0_u64; 4]));
    arena.reset();
    let text = arena.alloc_str("stays");
    let idle = arena.idle_bytes();
    assert_eq!((idle, arena.release(1)), (3968 - 1024, 1024));
    assert_eq!((arena.release(usize::MAX), arena.idle_bytes(), arena.release(1)), (idle - 1024, 0, 0));
    assert_eq!((&*text, Flaky::held_bytes()), ("stays", 1024));
    drop(arena);
    assert_eq!(Flaky::held_bytes(), 0);
}

#[test]
fn an_arena_in_use_elsewhere_releases_nothing() {
    let arena = Mutex::new(Arena::with_capacity(1000));
    let held = arena.lock().unwrap();
    assert_eq!((arena.idle_bytes(), arena.release(1)), (0, 0));
    drop(held);
    assert_eq!((arena.idle_bytes(), arena.release(1)), (1000, 1000));
}

#[test]
fn making_a_value_may_place_others() {
    let arena = Arena::with_options(small_chunks());
    let outer = arena.alloc_with(|| {
        [*arena.alloc(1_u64), *arena.alloc_slice_fill_with(50, |at| at).last().unwrap() as u64]
    });
    let slice = arena.alloc_slice_fill_with(4, |at| *arena.alloc([at; 100]).first().unwrap());
    assert_eq!((*outer, &*slice), ([1, 49], [0, 1, 2, 3].as_slice()));
}

#[test]
fn an_arena_may_change_its_thread() {
    let mut arena = Arena::with_options(ArenaOptions { source: &Heap, ..small_chunks() });
    arena.alloc_str("here");
    arena.reset();
    let used = std::thread::spawn(move || {
        arena.alloc_slice_fill_with(100, |at| at);
        arena.counters().used
    });
    assert_eq!(used.join().unwrap(), 800);
}

#[test]
fn a_region_is_committed_as_it_is_filled() {
    let arena = Arena::in_region(region(1 << 20));
    let page = 4096;
    assert_eq!(arena.counters().committed, 0);
    arena.alloc(1_u8);
    assert_eq!(arena.counters().committed, page);
    fill(arena.alloc_bytes(page, 1), 1);
    assert_eq!(arena.counters().committed, 2 * page);
    fill(arena.alloc_bytes(10 * page, 1), 2);
    let counters = arena.counters();
    assert_eq!((counters.used, counters.committed, counters.reserved), (8 + 11 * page, 12 * page, 1 << 20));
    assert_eq!((counters.wasted, counters.idle, counters.grows), (0, 0, 3));
}

#[test]
fn a_region_that_is_full_is_an_error() {
    let mut arena = Arena::in_region(region(1 << 16));
    for _ in 0..2 {
        let count = std::iter::from_fn(|| arena.try_alloc([1_u64; 128]).ok()).count();
        assert_eq!(count, 64);
        assert_eq!(arena.try_alloc(1_u8).unwrap_err(), AllocError::Exhausted(1));
        arena.reset();
    }
    assert_eq!(arena.try_alloc_bytes((1 << 16) + 1, 1).unwrap_err(), AllocError::Exhausted((1 << 16) + 1));
    let huge = isize::MAX as usize - 8;
    assert_eq!(arena.try_alloc_bytes(huge, 1).unwrap_err(), AllocError::Exhausted(huge));
}

#[test]
fn a_refused_commit_leaves_the_arena_usable() {
    static KERNEL: Failing = Failing::new(Call::Open, libc::ENOMEM, 1);
    let options = RegionOptions { system: &KERNEL, ..Default::default() };
    let arena = Arena::in_region(Region::reserve(1 << 20, options).unwrap());
    let first = arena.alloc([1_u8; 4000]);
    let Err(AllocError::Region(error)) = arena.try_alloc([2_u8; 4000]) else {
        panic!("the kernel was asked for nothing");
    };
    assert_eq!((error.step(), error.errno()), (Step::Commit, libc::ENOMEM));
    let rest = arena.alloc([3_u8; 96]);
    assert_eq!((first[3999], rest[0], arena.counters().used), (1, 3, 4096));
    // One commit more passes: the wish is refused no more.
    KERNEL.let_pass(1);
    assert_eq!(arena.alloc([4_u8; 4000])[0], 4);
}

#[test]
fn a_reset_region_keeps_so_much() {
    let options = ArenaOptions { keep_bytes: 8192, ..Default::default() };
    let mut arena = Arena::in_region_with(region(1 << 20), options);
    fill(arena.alloc_bytes(100_000, 1), 1);
    arena.reset();
    let counters = arena.counters();
    assert_eq!((counters.committed, counters.idle, counters.used), (8192, 8192, 0));
    assert_eq!(arena.release(1), 4096);
    assert_eq!((arena.release(usize::MAX), arena.counters().committed), (4096, 0));
    assert_eq!(*arena.alloc(7_u64), 7);
}

#[test]
fn a_region_releases_only_what_is_behind_the_cursor() {
    let mut arena = Arena::in_region(region(1 << 20));
    arena.alloc_bytes(100_000, 1);
    arena.reset();
    let text = arena.alloc_str("stays");
    let idle = arena.idle_bytes();
    assert_eq!((arena.release_with(usize::MAX, Advice::Free), arena.idle_bytes()), (idle, 0));
    assert_eq!((&*text, arena.counters().committed), ("stays", 4096));
    assert_eq!(arena.alloc_zeroed(9000, 8).iter().filter(|byte| **byte != 0).count(), 0);
}

#[test]
fn a_region_comes_back() {
    let mut region = region(1 << 16);
    region.commit(1 << 16).unwrap();
    let arena = Arena::in_region(region);
    fill(arena.alloc_bytes(1 << 16, 1), 1);
    assert_eq!(arena.counters().grows, 0);
    let region = arena.into_region().unwrap();
    assert_eq!((region.counters().committed, region.open_bytes() == 0), (1 << 16, cfg!(debug_assertions)));
    assert_eq!(*Arena::in_region(region).alloc(1), 1);
    assert!(Arena::new().into_region().is_none());
}

#[test]
fn odd_options_are_taken_as_they_are() {
    for (first_chunk, max_chunk) in [(0, 0), (1, usize::MAX), (10_000, 1)] {
        let options = ArenaOptions { first_chunk, max_chunk, keep_bytes: 0, ..Default::default() };
        for mut arena in [Arena::with_options(options), Arena::in_region_with(region(1 << 16), options)] {
            (0..100).for_each(|at| assert_eq!(*arena.alloc(at), at));
            arena.reset();
            assert_eq!(arena.counters().committed, 0);
        }
    }
    let options = ArenaOptions { first_chunk: usize::MAX, ..Default::default() };
    assert_eq!(*Arena::in_region_with(region(1 << 16), options).alloc(1), 1);
}

#[cfg(not(miri))]
mod native {
    use super::*;
    use crate::pool::region::observed::{alone, signal_of, signal_of_write, thread_faults};

    #[cfg(debug_assertions)]
    #[test]
    fn what_a_reset_freed_faults() {
        let mut arena = Arena::in_region(region(1 << 16));
        let stale = std::ptr::from_mut(arena.alloc(1_u64)).cast::<u8>();
        assert_eq!(signal_of_write(stale), 0);
        arena.reset();
        assert_eq!(signal_of_write(stale), libc::SIGSEGV);
        assert_eq!(std::ptr::from_mut(arena.alloc(1_u64)).cast::<u8>(), stale);
        assert_eq!(signal_of_write(stale), 0);
    }

    #[test]
    fn a_write_past_the_region_faults() {
        let arena = Arena::in_region(region(1 << 16));
        let bytes = arena.alloc_bytes(1 << 16, 1);
        let last = bytes.as_mut_ptr().wrapping_add(bytes.len() - 1).cast::<u8>();
        assert_eq!((signal_of_write(last), signal_of_write(last.wrapping_add(1))), (0, libc::SIGSEGV));
    }

    #[test]
    fn a_forked_arena_is_another() {
        let arena = Arena::in_region(region(1 << 20));
        let number = arena.alloc(1_u64);
        let child = signal_of(|| {
            *number += 1;
            fill(arena.alloc_bytes(100_000, 1), 2);
        });
        assert_eq!((child, *number, arena.counters().used), (0, 1, 8));
    }

    /// In a release build; in a debug build a reset closes the region, and opening it again faults nothing either.
    #[test]
    fn a_prefaulted_arena_never_faults() {
        alone("pool::arena::tests::native::a_prefaulted_arena_never_faults", || {
            let options = RegionOptions { prefault: true, ..Default::default() };
            let mut region = Region::reserve(1 << 20, options).unwrap();
            region.commit(1 << 20).unwrap();
            let mut arena = Arena::in_region(region);
            let mut faults = [0; 5];
            for count in &mut faults {
                let before = thread_faults();
                fill(arena.alloc_bytes(1 << 20, 1), 1);
                *count = thread_faults() - before;
                arena.reset();
            }
            // The first rounds may fault the code itself in.
            assert!(faults[0] + faults[1] < 20 && faults[2..] == [0, 0, 0], "{faults:?}");
        });
    }
}
