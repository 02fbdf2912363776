//! A process of a JSON report into the counts of one size class. Shared with the checks of `cargo xtask kernels`.

use serde_json::Value;

/// Counts of a size class: calls, touches (one for each released range), releases, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls.
    pub calls: u64,
    /// Released ranges, each with its first touches.
    pub touches: u64,
    /// Releases.
    pub releases: u64,
    /// Bytes of the calls.
    pub bytes: u64,
    /// Bytes of the releases.
    pub released_bytes: u64,
}

impl Counts {
    /// So many allocations of a size, each touched and released whole.
    pub fn whole(count: u64, size_bytes: u64) -> Self {
        let bytes = count * size_bytes;
        Self { calls: count, touches: count, releases: count, bytes, released_bytes: bytes }
    }

    /// An allocator's counts of the size class that begins there; zeros where it has none.
    pub fn of(process: &Value, allocator: &str, class_bytes: u64) -> Self {
        let rows = process["allocations"].as_array().map_or(&[][..], Vec::as_slice);
        let is_it = |row: &&Value| row["allocator"] == allocator && row["size_bytes"] == class_bytes;
        let Some(row) = rows.iter().find(is_it) else { return Self::default() };
        let number = |of: &Value| of.as_u64().unwrap_or(0);
        let stage = |name: &str| number(&row["stages"][name]["count"]);
        assert_eq!(number(&row["count"]), stage("call"), "{row}");
        Self {
            calls: stage("call"),
            touches: stage("touch"),
            releases: stage("release"),
            bytes: number(&row["bytes"]),
            released_bytes: number(&row["released_bytes"]),
        }
    }
}
