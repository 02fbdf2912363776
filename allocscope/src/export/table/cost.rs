//! Hits of probes and their prices into what tracing cost a process.

use super::columns::{finish, new_table};
use super::number::duration;
use crate::aggregate::{ProcessSnapshot, Snapshot};
use allocscope_common::counter::ProbeClass;
use std::fmt::Write;

/// The classes of probes that the process ran into.
pub(super) fn cost_table(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let mut table = new_table(&["probe class", "hits", "price", "cost"]);
    for &class in ProbeClass::ALL {
        let hits = process.counters.hits[class as usize];
        if hits == 0 {
            continue;
        }
        let price_ns = snapshot.tool.probe_price_ns.get(&class);
        let told = |ns: Option<f64>| ns.map_or("unknown".to_owned(), duration);
        let cost = told(price_ns.map(|price_ns| hits as f64 * price_ns));
        table.add_row([class.name().to_owned(), hits.to_string(), told(price_ns.copied()), cost]);
    }
    if table.is_empty() { "no probe was hit\n".to_owned() } else { finish(table, &[0]) }
}

/// The estimate; classes that were hit but have no price are named, as they are not in it.
pub(super) fn cost_line(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let seconds = process.probe_cost_seconds(&snapshot.tool);
    let elapsed = snapshot.elapsed.as_secs_f64();
    let percent = if elapsed > 0.0 { 100.0 * seconds / elapsed } else { 0.0 };
    let unpriced = ProbeClass::ALL.iter().filter(|&&class| {
        process.counters.hits[class as usize] > 0 && !snapshot.tool.probe_price_ns.contains_key(&class)
    });
    let unpriced: Vec<_> = unpriced.map(|class| class.name()).collect();
    let mut line = format!("tracing cost: about {}, {percent:.3}% of one CPU", duration(seconds * 1e9));
    if !unpriced.is_empty() {
        let _ = write!(line, " (without {}: price unknown)", unpriced.join(", "));
    }
    line
}
