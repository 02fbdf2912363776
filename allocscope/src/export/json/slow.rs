//! A slow allocation.

use super::seconds;
use crate::aggregate::SlowAllocation;
use allocscope_common::cause::Cause;
use serde::Serialize;
use std::collections::BTreeMap;

/// A slow allocation. Times that are not known are null.
#[derive(Debug, Serialize)]
pub struct SlowView {
    /// The allocator.
    pub allocator: &'static str,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// When its call was over, or its memory filed, in seconds since boot.
    pub at_seconds: f64,
    /// The thread.
    pub tid: u32,
    /// The goroutine's number; absent outside of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goroutine: Option<u64>,
    /// Time of the call.
    pub call_seconds: Option<f64>,
    /// Time of first touch so far.
    pub touch_seconds: Option<f64>,
    /// Time of the release.
    pub release_seconds: Option<f64>,
    /// Page faults so far.
    pub faults: u64,
    /// Where the time of these stages went: the sum is theirs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cause_seconds: BTreeMap<&'static str, f64>,
    /// The functions that asked for it, the innermost first; in the last report only.
    pub frames: Vec<String>,
}

impl SlowView {
    pub(super) fn new(slow: &SlowAllocation) -> Self {
        let time = |ns: Option<u64>| ns.map(|ns| seconds(ns as f64));
        let causes_ns = slow.causes_ns();
        let causes = Cause::ALL.iter().map(|&cause| (cause.name(), causes_ns[cause as usize]));
        Self {
            allocator: slow.allocator.name(),
            size_bytes: slow.size,
            at_seconds: seconds(slow.filed_ns as f64),
            tid: slow.tid,
            goroutine: (slow.goroutine != 0).then_some(slow.goroutine),
            call_seconds: time(slow.call_ns),
            touch_seconds: time(slow.touch_ns),
            release_seconds: time(slow.release_ns),
            faults: slow.faults,
            cause_seconds: causes
                .filter(|&(_, ns)| ns > 0)
                .map(|(name, ns)| (name, seconds(ns as f64)))
                .collect(),
            frames: slow.frames.clone(),
        }
    }
}
