//! Random programs against a model that knows where everything is and what it holds.

use super::*;
use proptest::prelude::*;
use std::slice;

#[derive(Clone, Debug)]
enum Step {
    Byte(u8),
    Word(u64),
    Lines([u64; 16]),
    Slice(Vec<u16>),
    Text(String),
    Bytes { len: usize, align: usize, value: u8 },
    Zeroed { len: usize, align: usize },
    Release(usize),
}

/// What a step placed, and what it must hold until the reset.
struct Placed<'a> {
    bytes: &'a mut [u8],
    expected: Vec<u8>,
}

fn bytes_of<T: Copy>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: integers, which have no padding.
    unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

#[allow(clippy::mut_from_ref, reason = "each call returns memory that no other call has returned")]
fn place<'a>(arena: &'a Arena, step: &Step) -> Result<&'a mut [u8], AllocError> {
    Ok(match step {
        Step::Byte(value) => slice::from_mut(arena.try_alloc(*value)?),
        Step::Word(value) => bytes_of(slice::from_mut(arena.try_alloc(*value)?)),
        Step::Lines(values) => bytes_of(arena.try_alloc_with(|| *values)?),
        Step::Slice(values) => bytes_of(arena.try_alloc_slice_clone(values)?),
        // SAFETY: only looked at as bytes from here on.
        Step::Text(text) => unsafe { arena.try_alloc_str(text)?.as_bytes_mut() },
        Step::Bytes { len, align, value } => {
            let bytes = arena.try_alloc_bytes(*len, *align)?;
            assert_eq!(bytes.as_ptr().addr() % align, 0);
            fill(bytes, *value);
            // SAFETY: all are written.
            unsafe { slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), *len) }
        }
        Step::Zeroed { len, align } => {
            let bytes = arena.try_alloc_zeroed(*len, *align)?;
            assert_eq!(bytes.as_ptr().addr() % align, 0);
            bytes
        }
        Step::Release(bytes) => {
            let idle = arena.idle_bytes();
            let given = arena.release(*bytes);
            assert!(given <= idle && (given >= *bytes || given == idle), "{given} of {bytes}, idle {idle}");
            &mut []
        }
    })
}

fn expected(step: &Step) -> Vec<u8> {
    match step {
        Step::Byte(value) => vec![*value],
        Step::Word(value) => value.to_ne_bytes().to_vec(),
        Step::Lines(values) => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Step::Slice(values) => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Step::Text(text) => text.as_bytes().to_vec(),
        Step::Bytes { len, value, .. } => vec![*value; *len],
        Step::Zeroed { len, .. } => vec![0; *len],
        Step::Release(_) => Vec::new(),
    }
}

/// Runs steps up to the reset; an arena that refuses one must be as before.
fn run(arena: &Arena, steps: &[Step]) {
    let mut all: Vec<Placed<'_>> = Vec::new();
    for step in steps {
        let before = arena.counters();
        match place(arena, step) {
            Ok(bytes) => all.push(Placed { bytes, expected: expected(step) }),
            Err(_) => assert_eq!(arena.counters().used, before.used),
        }
        let now = arena.counters();
        assert!(now.used >= all.iter().map(|placed| placed.bytes.len()).sum());
        assert!(
            now.used + now.wasted + now.idle <= now.committed && now.committed <= now.reserved,
            "{now:?}"
        );
    }
    check(&mut all);
}

/// Contents are intact, also after all is written to, and places are disjoint.
fn check(all: &mut [Placed<'_>]) {
    for placed in all.iter_mut() {
        assert_eq!(placed.bytes, placed.expected);
        placed.bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    assert!(
        all.iter().all(|placed| placed.bytes.iter().zip(&placed.expected).all(|(byte, was)| *byte == !was))
    );
    let mut ranges: Vec<_> = all.iter().map(|placed| placed.bytes.as_ptr_range()).collect();
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
}

fn step() -> impl Strategy<Value = Step> {
    let align = (0_u32..13).prop_map(|power| 1 << power);
    let len = prop_oneof![4 => 0_usize..100, 1 => 0_usize..if cfg!(miri) { 300 } else { 6000 }];
    prop_oneof![
        any::<u8>().prop_map(Step::Byte),
        any::<u64>().prop_map(Step::Word),
        any::<[u64; 16]>().prop_map(Step::Lines),
        prop::collection::vec(any::<u16>(), 0..40).prop_map(Step::Slice),
        prop::collection::vec(any::<char>(), 0..10).prop_map(|text| Step::Text(text.into_iter().collect())),
        (len.clone(), align.clone(), any::<u8>()).prop_map(|(len, align, value)| Step::Bytes {
            len,
            align,
            value
        }),
        (len, align).prop_map(|(len, align)| Step::Zeroed { len, align }),
        (0_usize..5000).prop_map(Step::Release),
    ]
}

/// A program: what happens between one reset and the next.
fn program() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let (steps, resets) = if cfg!(miri) { (8, 3) } else { (60, 5) };
    prop::collection::vec(prop::collection::vec(step(), 0..steps), 0..resets)
}

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 3 } else { 100 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn execute(mut arena: Arena, program: &[Vec<Step>], keep_bytes: usize) {
    for steps in program {
        run(&arena, steps);
        arena.reset();
        assert!(arena.counters().committed <= keep_bytes);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn chunks_follow_the_model(program in program(), refused_after in prop_oneof![Just(usize::MAX), 0_usize..6]) {
        Flaky::refuse_after(refused_after);
        execute(Arena::with_options(small_chunks()), &program, small_chunks().keep_bytes);
        prop_assert_eq!(Flaky::held_bytes(), 0);
    }

    #[test]
    fn a_limited_arena_follows_the_model(program in program(), limit in 0_usize..20_000) {
        let options = ArenaOptions { limit, ..small_chunks() };
        execute(Arena::with_options(options), &program, limit.min(options.keep_bytes));
        prop_assert_eq!(Flaky::held_bytes(), 0);
    }

    /// With a kernel that refuses to commit after so many times.
    #[test]
    fn regions_follow_the_model(
        program in program(),
        pages in 1_usize..40,
        keep_pages in 0_usize..10,
        commits in prop_oneof![Just(isize::MAX), 0_isize..10],
    ) {
        static KERNEL: Failing = Failing::new(Call::Open, libc::ENOMEM, isize::MAX);
        KERNEL.let_pass(commits);
        let options = RegionOptions { system: &KERNEL, ..Default::default() };
        let region = Region::reserve(pages * 4096, options).unwrap();
        let keep_bytes = keep_pages * 4096;
        let options = ArenaOptions { first_chunk: 1, max_chunk: 8192, keep_bytes, ..Default::default() };
        execute(Arena::in_region_with(region, options), &program, keep_bytes);
        prop_assert_eq!(KERNEL.mapped.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}
