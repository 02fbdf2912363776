//! Buffers by class: sizes, capacities, what is dropped and what is counted.

use super::*;
use std::io::BufRead;

#[test]
fn classes_cover_each_length_and_waste_less_than_a_fifth() {
    let lengths = 1..if cfg!(miri) { 300 } else { 70_000 };
    for len in lengths.chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 30]) {
        let class = class_of(len);
        let (bytes, below) = (bytes_of(class), bytes_of(class.max(1) - 1));
        assert!(bytes >= len, "{len} in {bytes}");
        assert!(len <= 16 || below < len, "{len} fits {below} too");
        assert!(len <= 16 || (bytes - len) * 5 < bytes, "{len} in {bytes}");
    }
}

#[test]
fn a_class_is_the_class_of_its_bytes() {
    for class in class_of(16)..class_of(1 << 40) {
        assert_eq!(class_of(bytes_of(class)), class);
        assert!(bytes_of(class) < bytes_of(class + 1));
    }
}

#[test]
fn a_buffer_comes_back_empty_with_its_capacity() {
    let pool = BufferPool::default();
    let mut buffer = pool.get(5000);
    assert_eq!((buffer.len(), buffer.capacity()), (0, 5120));
    buffer.extend([7; 5000]);
    let address = buffer.as_ptr();
    drop(buffer);
    let again = pool.get(4500);
    assert_eq!((again.len(), again.capacity(), again.as_ptr()), (0, 5120, address));
    drop(again);
    let counters = pool.counters();
    assert_eq!(counters.classes.len(), 1, "other classes were never asked for");
    let class = counters.classes[0];
    assert_eq!(
        (class.bytes, class.asked_bytes, class.pool.misses, class.pool.hits.all()),
        (5120, 9500, 1, 1)
    );
    assert_eq!(class.hit_rate(), 0.5);
    assert!((class.waste() - 740.0 / 10240.0).abs() < 1e-9);
    assert_eq!((counters.idle_bytes(), pool.idle_bytes()), (5120, 5120));
}

#[test]
fn a_buffer_of_another_capacity_is_dropped() {
    let pool = BufferPool::default();
    pool.get(1024).reserve(1 << 16);
    pool.get(1024).shrink_to_fit();
    drop(std::mem::take(&mut *pool.get(1024)));
    let counters = pool.counters();
    assert_eq!((counters.regrown, counters.classes[0].pool.drops.rejected, counters.idle_bytes()), (3, 3, 0));
}

#[test]
fn what_is_larger_than_the_largest_class_is_a_plain_buffer() {
    let pool = BufferPool::builder().smallest(3000).largest(9000).build();
    assert_eq!(pool.get(1).capacity(), 4096);
    assert_eq!(pool.get(16384).capacity(), 16384);
    assert_eq!(pool.get(16385).capacity(), 16385);
    let counters = pool.counters();
    assert_eq!((counters.oversized, counters.idle_bytes()), (1, 4096 + 16384));
}

#[test]
fn no_memory_is_an_error_value() {
    let pool = BufferPool::builder().largest(usize::MAX).build();
    assert_eq!(pool.try_get(usize::MAX).unwrap_err(), PoolError::Memory(usize::MAX));
    assert_eq!(pool.counters().oversized, 1);
    // Miri ends where so much memory is asked for.
    if cfg!(not(miri)) {
        assert_eq!(pool.try_get(1 << 62).unwrap_err(), PoolError::Memory(1 << 62));
    }
}

#[test]
fn bytes_limit_each_class() {
    let limits = Limits { max_idle_bytes: Some(10_000), ..Limits::default() };
    let pool = BufferPool::builder().limits(limits).build();
    let held: Vec<_> = (0..4).map(|_| pool.get(4096)).collect();
    drop(held);
    let class = pool.counters().classes[0].pool;
    assert_eq!((class.idle, class.drops.full, class.idle_bytes), (2, 2, 8192));
}

#[test]
fn memory_is_given_back_from_the_largest_class_down() {
    let pool = BufferPool::default();
    let held = [pool.get(1024), pool.get(1024), pool.get(1 << 20), pool.get(1 << 20)];
    drop(held);
    assert_eq!(pool.release(1), 1 << 20);
    assert_eq!(pool.release((1 << 20) + 1), (1 << 20) + 1024);
    assert_eq!((pool.trim(), pool.idle_bytes()), (1024, 0));
    assert_eq!(pool.release(usize::MAX), 0);
}

#[test]
fn two_ticks_leave_nothing_idle() {
    let pool = BufferPool::default();
    drop(pool.get(2000));
    let kept = pool.get(1 << 16).take();
    pool.tick();
    assert_eq!(pool.idle_bytes(), 2048);
    pool.tick();
    assert_eq!((pool.idle_bytes(), kept.capacity()), (0, 1 << 16));
}

#[test]
fn owned_buffers_go_back_to_their_class_from_anywhere() {
    let pool = Arc::new(BufferPool::builder().largest(1 << 16).build());
    let held = [100, 5000, 70_000].map(|len| pool.try_get_owned(len).unwrap());
    assert_eq!(held.each_ref().map(|buffer| buffer.capacity()), [1024, 5120, 70_000]);
    assert_eq!(Arc::strong_count(&pool), 3, "a plain buffer goes nowhere");
    let mut grown = pool.get_owned(2000);
    std::thread::spawn(move || {
        grown.reserve(1 << 20);
        drop((held, grown));
    })
    .join()
    .unwrap();
    let counters = pool.counters();
    assert_eq!((counters.oversized, counters.regrown, counters.idle_bytes()), (1, 1, 1024 + 5120));
    assert_eq!((counters.classes[2].asked_bytes, Arc::strong_count(&pool)), (5000, 1));
    let taken = pool.get_owned(5000).take();
    assert_eq!((taken.capacity(), pool.idle_bytes(), Arc::strong_count(&pool)), (5120, 1024, 1));
    let mut last = pool.get_owned(100);
    drop(pool);
    last.push(7);
    assert_eq!(std::io::Cursor::new(&last).fill_buf().unwrap(), [7]);
    last.clear();
    assert_eq!(format!("{last:?}"), "0 of 1024 bytes");
}

/// The capacity of the usual class.
fn usual(pool: &BufferPool) -> Option<usize> {
    pool.usual().map(|class| class.recipe().bytes)
}

#[test]
fn each_length_is_served_by_its_class_whichever_is_the_usual_one() {
    let serves = |pool: &BufferPool| {
        for class in class_of(1 << 10)..=class_of(1 << 13) {
            let (bytes, below) = (bytes_of(class), bytes_of(class - 1));
            let lengths = [below + 1, bytes - 1, bytes].map(|len| pool.get(len).capacity());
            assert_eq!(lengths, [bytes; 3]);
        }
        assert_eq!([pool.get(0).capacity(), pool.get(1).capacity()], [1024; 2]);
        assert_eq!([pool.get(8193).capacity(), pool.get(9000).capacity()], [8193, 9000]);
    };
    for first in if cfg!(miri) { vec![4000] } else { vec![1, 1025, 4000, 8192] } {
        let pool = BufferPool::builder().smallest(1 << 10).largest(1 << 13).build();
        let capacity = pool.get(first).capacity();
        assert_eq!(usual(&pool), Some(capacity), "the only one");
        serves(&pool);
        assert_eq!(usual(&pool), None, "one of many");
        (0..ENOUGH.max(200)).for_each(|_| drop(pool.get(first)));
        pool.tick();
        let moved = Box::new(pool);
        assert_eq!(usual(&moved), Some(capacity), "most gets were of it");
        serves(&moved);
    }
}

#[test]
fn a_class_is_usual_with_three_quarters_of_all_gets() {
    let pool = BufferPool::default();
    let get = |count: u64, len: usize| (0..count).for_each(|_| drop(pool.get(len)));
    let now = || {
        let _ = pool.counters();
        usual(&pool)
    };
    get(ENOUGH / 4 * 3 - 1, 65536);
    get(ENOUGH / 4, 4096);
    assert_eq!((usual(&pool), now()), (None, None), "too few to tell");
    get(1, 65536);
    assert_eq!((usual(&pool), now()), (None, Some(65536)));
    get(1, 4096);
    assert_eq!((usual(&pool), now()), (Some(65536), None));
}
