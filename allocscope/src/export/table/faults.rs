//! Page faults into a table of the report, and into a line of the live table.

use super::columns::{finish, new_table};
use super::number::{duration, longest, percentile};
use crate::aggregate::ProcessSnapshot;
use crate::export::rows::faults;
use crate::intake::SeriesReading;
use allocscope_common::key::FaultKind;

pub(super) fn fault_table(process: &ProcessSnapshot) -> String {
    let mut table = new_table(&["kind", "scope", "count", "time", "p50", "p99", "max"]);
    for (kind, scope, series) in faults(process) {
        table.add_row([
            kind.name().to_owned(),
            scope.name().to_owned(),
            series.totals.count.to_string(),
            duration(series.totals.time_ns as f64),
            percentile(series, 0.50),
            percentile(series, 0.99),
            longest(series),
        ]);
    }
    if table.is_empty() { "none was seen\n".to_owned() } else { finish(table, &[0, 1]) }
}

pub(super) fn fault_line(process: &ProcessSnapshot) -> String {
    let part = |(kind, scope, series): (FaultKind, _, &SeriesReading)| {
        format!("{kind}/{scope} {} in {}", series.totals.count, duration(series.totals.time_ns as f64))
    };
    let parts: Vec<_> = faults(process).map(part).collect();
    if parts.is_empty() {
        "page faults: none".to_owned()
    } else {
        format!("page faults: {}", parts.join(", "))
    }
}
