//! One event into its totals, its histogram bucket and its process' counters.

use crate::atomic::add;
use crate::maps::{
    BUCKETS, COUNT_OWNERS, COUNTS, FREE_COUNTS, FREE_TOTALS, LOST, PROCESSES, RECENT, SERIES, TOTALS,
    TOTALS_OWNERS,
};
use allocscope_common::bucket::bucket_of_ns;
use allocscope_common::cell::{TotalsCell, bucket_word, recent_slot, series_word};
use allocscope_common::counter::{LossReason, ProbeClass, ProcessCounters};
use allocscope_common::key::{BucketKey, SeriesKey};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::maps::{Array, HashMap, Queue};

/// Indices of a bucket and of its series, as looked up last; whose they are is asked before they are used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Recent {
    totals: u32,
    count: u32,
}

/// Counts something lost.
#[inline(always)]
pub fn lost(reason: LossReason) {
    lost_many(reason, 1);
}

/// Counts `many` of something lost.
#[inline(always)]
pub fn lost_many(reason: LossReason, many: u64) {
    if let Some(count) = LOST.get_ptr_mut(reason as u32) {
        // SAFETY: a checked map value.
        unsafe { add(count, many) };
    }
}

/// The counters of the process in `slot`.
#[inline(always)]
pub fn counters(slot: u32) -> Option<*mut ProcessCounters> {
    PROCESSES.get_ptr_mut(slot)
}

/// Counts a probe's hit in the process in `slot`.
#[inline(always)]
pub fn hit(slot: u32, class: ProbeClass) {
    hits(slot, class, 1);
}

/// Counts `many` hits.
#[inline(always)]
pub fn hits(slot: u32, class: ProbeClass, many: u64) {
    if let Some(counters) = counters(slot) {
        // SAFETY: a checked map value; the index is below the array's length by its type.
        unsafe { add(&raw mut (*counters).hits[class as usize], many) };
    }
}

/// Records an event of `ns` nanoseconds over `bytes` bytes.
#[inline(always)]
pub fn record(key: SeriesKey, ns: u64, bytes: u64) {
    record_word(key.word(), ns, bytes);
}

/// The same; one of the functions that the verifier checks once and not at each call. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn record_word(series: u64, ns: u64, bytes: u64) -> u64 {
    let series = SeriesKey::from_word(series);
    let key = BucketKey { series, bucket: bucket_of_ns(ns) };
    let Some(recent) = RECENT.get_ptr_mut(recent_slot(bucket_word(key))) else { return 0 };
    // SAFETY: a checked map value of this CPU.
    let Recent { totals, count } = unsafe { *recent };
    if let Some(cell) = totals_at(totals, series)
        && let Some(counter) = count_at(count, key)
    {
        add_event(cell, ns, bytes);
        // SAFETY: a checked map value.
        unsafe { add(counter, 1) };
        return 0;
    }
    let totals = index_of_series(series);
    match totals.and_then(|index| totals_at(index, series)) {
        Some(cell) => add_event(cell, ns, bytes),
        None => lost(LossReason::SeriesFull),
    }
    let count = count_bucket(key, 1);
    // SAFETY: as above. Another program may write it in between: then it leads to two that are not each other's.
    unsafe { *recent = Recent { totals: totals.unwrap_or(0), count } };
    0
}

/// Records the touch of a range that is over: all its page faults. Faults that took no time were counted only.
#[inline(always)]
pub fn record_touch(key: SeriesKey, faults: u32, ns: u64, bytes: u64) {
    if faults != 0 && ns == 0 {
        total(key, 1, bytes);
    } else {
        record(key, ns, bytes);
    }
}

/// Records `events` without a duration: in the totals, not in the histogram.
#[inline(always)]
pub fn total(key: SeriesKey, events: u64, bytes: u64) {
    total_word(key.word(), events, bytes);
}

/// The same, see [`record_word`]. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn total_word(series: u64, events: u64, bytes: u64) -> u64 {
    let key = SeriesKey::from_word(series);
    let Some(recent) = RECENT.get_ptr_mut(recent_slot(series_word(key))) else { return 0 };
    // SAFETY: a checked map value of this CPU.
    let known = totals_at(unsafe { (*recent).totals }, key);
    let cell = known.or_else(|| {
        let index = index_of_series(key)?;
        // SAFETY: as above.
        unsafe { (*recent).totals = index };
        totals_at(index, key)
    });
    match cell {
        // SAFETY: a checked map value.
        Some(cell) => unsafe {
            add(&raw mut (*cell).totals.count, events);
            if bytes != 0 {
                add(&raw mut (*cell).totals.bytes, bytes);
            }
        },
        None => lost(LossReason::SeriesFull),
    }
    0
}

#[inline(always)]
fn index_of_series(key: SeriesKey) -> Option<u32> {
    index(&SERIES, &FREE_TOTALS, &TOTALS_OWNERS, key, series_word(key))
}

#[inline(always)]
fn count_bucket(key: BucketKey, amount: u64) -> u32 {
    let index = index(&BUCKETS, &FREE_COUNTS, &COUNT_OWNERS, key, bucket_word(key));
    match index.and_then(|index| count_at(index, key)) {
        // SAFETY: a checked map value.
        Some(counter) => unsafe { add(counter, amount) },
        None => lost(LossReason::BucketsFull),
    }
    index.unwrap_or(0)
}

/// Takes back an event of `ns` nanoseconds over `bytes` bytes that was recorded last.
#[inline(always)]
pub fn unrecord(key: SeriesKey, ns: u64, bytes: u64) {
    let Some(cell) = index_of_series(key).and_then(|index| totals_at(index, key)) else { return };
    // SAFETY: a checked map value.
    unsafe {
        add(&raw mut (*cell).totals.count, 1u64.wrapping_neg());
        add(&raw mut (*cell).totals.time_ns, ns.wrapping_neg());
        if bytes != 0 {
            add(&raw mut (*cell).totals.bytes, bytes.wrapping_neg());
        }
        if (*cell).totals.max_ns == ns {
            (*cell).totals.max_ns = (*cell).former_max_ns;
        }
    }
    count_bucket(BucketKey { series: key, bucket: bucket_of_ns(ns) }, 1u64.wrapping_neg());
}

/// Additions are atomic: programs behind uprobes can be preempted, by another one that counts on the same CPU.
#[inline(always)]
fn add_event(cell: *mut TotalsCell, ns: u64, bytes: u64) {
    // SAFETY: a checked map value.
    unsafe {
        add(&raw mut (*cell).totals.count, 1);
        if bytes != 0 {
            add(&raw mut (*cell).totals.bytes, bytes);
        }
        add(&raw mut (*cell).totals.time_ns, ns);
        if ns > (*cell).totals.max_ns {
            (*cell).former_max_ns = (*cell).totals.max_ns;
            (*cell).totals.max_ns = ns;
        }
    }
}

#[inline(always)]
fn totals_at(index: u32, key: SeriesKey) -> Option<*mut TotalsCell> {
    // SAFETY: a checked map value.
    let is_its = TOTALS_OWNERS.get_ptr(index).is_some_and(|owner| unsafe { *owner } == series_word(key));
    if is_its { TOTALS.get_ptr_mut(index) } else { None }
}

#[inline(always)]
fn count_at(index: u32, key: BucketKey) -> Option<*mut u64> {
    // SAFETY: a checked map value.
    let is_its = COUNT_OWNERS.get_ptr(index).is_some_and(|owner| unsafe { *owner } == bucket_word(key));
    if is_its { COUNTS.get_ptr_mut(index) } else { None }
}

/// The index of a key; a free one where it has none yet, `None` where none is free.
#[inline(always)]
fn index<K>(map: &HashMap<K, u32>, free: &Queue<u32>, owners: &Array<u64>, key: K, word: u64) -> Option<u32> {
    // SAFETY: a checked map value, which nobody writes.
    if let Some(index) = unsafe { map.get(&key) } {
        return Some(*index);
    }
    let Ok(Some(index)) = free.pop() else { return None };
    if let Some(owner) = owners.get_ptr_mut(index) {
        // SAFETY: a checked map value, which nobody else has.
        unsafe { *owner = word };
    }
    if map.insert(&key, index, u64::from(BPF_NOEXIST)).is_ok() {
        return Some(index);
    }
    // Another CPU has inserted it at the same time.
    let _ = free.push(index, 0);
    // SAFETY: as above.
    unsafe { map.get(&key) }.copied()
}
