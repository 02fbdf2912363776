//! What the tool knows of itself into its metrics: losses, prices, limits, its own use of CPU and memory.

use super::families::Families;
use crate::aggregate::Snapshot;
use crate::export::names;

/// Tells what is about no one process.
pub(super) fn tell_tool(snapshot: &Snapshot, families: &mut Families) {
    let tool = &snapshot.tool;
    for (reason, &count) in &snapshot.lost {
        families.add(&names::LOST, &[reason.name()], count as f64);
    }
    for (class, price_ns) in &tool.probe_price_ns {
        families.add(&names::PROBE_PRICE, &[class.name()], price_ns / 1e9);
    }
    let alive = snapshot.processes.iter().filter(|process| process.alive).count();
    families.add(&names::PROCESSES, &[], alive as f64);
    families.add(&names::PROCESSES_OVER_LIMIT, &[], tool.processes_over_limit as f64);
    families.add(&names::RETIRED_UNSCRAPED, &[], snapshot.retired_unscraped as f64);
    if tool.pool_windows > 0 {
        families.add(&names::GO_POOL_WINDOWS, &[], tool.pool_windows as f64);
        families.add(&names::GO_POOL_WINDOW_SECONDS, &[], tool.pool_window_seconds);
    }
    families.add(&names::MAP_BYTES, &[], tool.map_bytes as f64);
    families.add(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    families.add(&names::CPU_SECONDS, &[], tool.cpu_seconds);
    families.add(&names::RESIDENT_MEMORY, &[], tool.resident_bytes as f64);
}
