//! About allocscope itself.

use super::seconds;
use crate::aggregate::ToolSnapshot;
use serde::Serialize;
use std::collections::BTreeMap;

/// About allocscope itself.
#[derive(Debug, Serialize)]
pub struct Tool {
    /// Its version.
    pub version: &'static str,
    /// Price of a probe hit by class, in seconds; classes that could not be measured are absent.
    pub probe_price_seconds: BTreeMap<&'static str, f64>,
    /// Time of first touch by 2 MiB pages in parts of that by 4 KiB pages; null where there are none to be had.
    pub huge_touch_ratio: Option<f64>,
    /// Processes not traced because of the maximum number.
    pub processes_over_limit: u64,
    /// How uprobes were attached: `session`, `multi` or `perf`; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_via: Option<&'static str>,
    /// Whether huge pages are counted whole in `touched_bytes`; else each page fault is one of 4 KiB.
    pub page_sizes_known: bool,
    /// How page faults are seen, see `allocscope doctor`.
    pub page_faults_via: &'static str,
    /// How memory system calls are seen, see `allocscope doctor`.
    pub system_calls_via: &'static str,
    /// CPU time used.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Kernel memory of its maps.
    pub map_bytes: u64,
}

impl Tool {
    pub(super) fn new(tool: &ToolSnapshot) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            probe_price_seconds: tool
                .probe_price_ns
                .iter()
                .map(|(class, &price_ns)| (class.name(), seconds(price_ns)))
                .collect(),
            huge_touch_ratio: tool.huge_touch_ratio,
            processes_over_limit: tool.processes_over_limit,
            attached_via: tool.attached_via,
            page_sizes_known: tool.page_sizes_known,
            page_faults_via: tool.page_faults_via,
            system_calls_via: tool.system_calls_via,
            cpu_seconds: tool.cpu_seconds,
            resident_bytes: tool.resident_bytes,
            map_bytes: tool.map_bytes,
        }
    }
}
