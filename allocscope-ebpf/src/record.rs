//! One event into its totals, its histogram bucket and its process' counters.

use crate::atomic::add;
use crate::maps::{BUCKETS, LOST, PROCESSES, SERIES};
use allocscope_common::bucket::bucket_of_ns;
use allocscope_common::counter::{LossReason, ProbeClass, ProcessCounters, Totals};
use allocscope_common::key::{BucketKey, SeriesKey};
use aya_ebpf::bindings::BPF_NOEXIST;

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
    if let Some(counters) = counters(slot) {
        // SAFETY: a checked map value; the index is below the array's length by its type.
        unsafe { add(&raw mut (*counters).hits[class as usize], 1) };
    }
}

/// Records an event of `ns` nanoseconds over `bytes` bytes.
#[inline(always)]
pub fn record(key: SeriesKey, ns: u64, bytes: u64) {
    total(key, ns, bytes);
    bucket(BucketKey { series: key, bucket: bucket_of_ns(ns) });
}

/// Records an event without a duration: in the totals, not in the histogram.
#[inline(always)]
pub fn total(key: SeriesKey, ns: u64, bytes: u64) {
    let Some(totals) = totals(&key) else {
        lost(LossReason::SeriesFull);
        return;
    };
    // SAFETY: a checked map value.
    unsafe {
        add(&raw mut (*totals).count, 1);
        add(&raw mut (*totals).bytes, bytes);
        add(&raw mut (*totals).time_ns, ns);
        if ns > (*totals).max_ns {
            (*totals).max_ns = ns;
        }
    }
}

#[inline(always)]
fn totals(key: &SeriesKey) -> Option<*mut Totals> {
    if let Some(totals) = SERIES.get_ptr_mut(key) {
        return Some(totals);
    }
    // Another CPU may insert it at the same time: then this fails and the look-up finds that one.
    let fresh = Totals { count: 0, bytes: 0, time_ns: 0, max_ns: 0 };
    let _ = SERIES.insert(key, fresh, u64::from(BPF_NOEXIST));
    SERIES.get_ptr_mut(key)
}

#[inline(always)]
fn bucket(key: BucketKey) {
    let Some(count) = bucket_count(&key) else {
        lost(LossReason::BucketsFull);
        return;
    };
    // SAFETY: a checked map value.
    unsafe { add(count, 1) };
}

#[inline(always)]
fn bucket_count(key: &BucketKey) -> Option<*mut u64> {
    if let Some(count) = BUCKETS.get_ptr_mut(key) {
        return Some(count);
    }
    let _ = BUCKETS.insert(key, 0, u64::from(BPF_NOEXIST));
    BUCKETS.get_ptr_mut(key)
}
