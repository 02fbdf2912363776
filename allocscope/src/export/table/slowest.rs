//! The slowest allocations into a paragraph each: their stages, causes and functions.

use super::causes::slow_causes;
use super::number::{bytes, duration};
use super::plain::plain;
use crate::aggregate::{ProcessSnapshot, Snapshot};
use std::fmt::Write;

/// Slow allocations in a report, and functions that are told of each.
const SLOW_LISTED: usize = 5;
const FRAMES_LISTED: usize = 8;

/// The slowest allocations with the functions that asked for them; nothing where none was slow.
pub(super) fn slowest(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let slow = snapshot.slowest.iter().filter(|slow| slow.pid == process.info.id.pid);
    for slow in slow.take(SLOW_LISTED) {
        if text.is_empty() {
            text += "\nSlowest allocations\n";
        }
        let stage = |name: &str, ns: Option<u64>| Some(format!("{name} {}", duration(ns? as f64)));
        let stages =
            [stage("call", slow.call_ns), stage("touch", slow.touch_ns), stage("release", slow.release_ns)];
        let stages: Vec<_> = stages.into_iter().flatten().collect();
        let at = slow.filed_ns as f64 / 1e9;
        let goroutine = match slow.goroutine {
            0 => String::new(),
            number => format!(", goroutine {number}"),
        };
        let _ = writeln!(
            text,
            "{} of {}: {}; {} faults, thread {}{goroutine}, {at:.3} s after boot",
            bytes(slow.size),
            slow.allocator,
            stages.join(", "),
            slow.faults,
            slow.tid,
        );
        text += &slow_causes(slow);
        for frame in slow.frames.iter().take(FRAMES_LISTED) {
            let _ = writeln!(text, "    {}", plain(frame));
        }
    }
    text
}
