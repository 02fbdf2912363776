//! A [`Snapshot`] into a web page for whoever opens the port in a browser.

use super::rows::rows;
use super::table::{bytes, duration};
use crate::aggregate::{ProcessSnapshot, Snapshot};
use std::fmt::Write;

/// The page, complete in itself: no script, nothing loaded from elsewhere.
pub fn page(snapshot: &Snapshot) -> String {
    let mut html = HEAD.to_owned();
    let elapsed = duration(snapshot.elapsed.as_nanos() as f64);
    let lost: u64 = snapshot.lost.values().fold(0, |sum, &count| sum.saturating_add(count));
    let _ = writeln!(
        html,
        "<p>Version {}. Tracing for {elapsed}; {} processes; events or details lost: {lost}.</p>",
        env!("CARGO_PKG_VERSION"),
        snapshot.processes.len(),
    );
    html += TABLE_HEAD;
    for process in &snapshot.processes {
        html += &table_row(process, snapshot);
    }
    html + TAIL
}

fn table_row(process: &ProcessSnapshot, snapshot: &Snapshot) -> String {
    let rows = rows(process);
    let calls = rows.iter().filter_map(|row| row.call);
    let (count, total) = calls.fold((0u64, 0u64), |(count, total), series| {
        (count.saturating_add(series.totals.count), total.saturating_add(series.totals.bytes))
    });
    let time_ns = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.time_ns()));
    let cells = [
        process.info.id.pid.to_string(),
        process.info.comm.clone(),
        if process.alive { "runs" } else { "ended" }.to_owned(),
        process.coverage.allocator.clone(),
        process.coverage.tier.name().to_owned(),
        format!("{} of {}", process.coverage.sites_attached, process.coverage.sites_planned),
        count.to_string(),
        bytes(total),
        duration(time_ns as f64),
        duration(process.probe_cost_seconds(&snapshot.tool) * 1e9),
    ];
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
    format!("<tr>{cells}</tr>\n")
}

/// Text as it may stand in an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>allocscope</title>
<style>
body { font-family: sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th, td { padding: 0.2em 0.8em; text-align: left; border-bottom: 1px solid #ccc; }
</style>
</head>
<body>
<h1>allocscope</h1>
<p>Shows what large allocations really cost running processes: the allocator's call, the page faults of
first touch and the release.</p>
<ul>
<li><a href="/metrics">/metrics</a>: for Prometheus</li>
<li><a href="/healthz">/healthz</a>: 200 while this process lives</li>
<li><a href="/readyz">/readyz</a>: 200 while tracing is attached</li>
</ul>
"#;

const TABLE_HEAD: &str = "<table>\n<tr><th>pid</th><th>comm</th><th>state</th><th>allocator</th><th>tier</th>\
<th>sites attached</th><th>large allocations</th><th>bytes</th><th>time in all stages</th>\
<th>tracing cost</th></tr>\n";

const TAIL: &str = "</table>\n</body>\n</html>\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;

    #[test]
    fn processes_have_a_row_with_totals() {
        let page = page(&sample::snapshot());
        assert!(page.contains(
            "<tr><td>4242</td><td>server</td><td>runs</td><td>go1.22.10</td><td>large-path</td><td>3 of 4</td>\
             <td>2</td><td>128MiB</td><td>28.0ms</td><td>8.50us</td></tr>"
        ));
        assert!(page.contains("<td>ended</td>"));
        assert!(page.ends_with("</html>\n"));
    }

    #[test]
    fn names_cannot_be_markup() {
        let mut snapshot = sample::snapshot();
        snapshot.processes[0].info.comm = "<script>'\"&".to_owned();
        let page = page(&snapshot);
        assert!(page.contains("<td>&lt;script&gt;&#39;&quot;&amp;</td>"));
        assert!(!page.contains("<script"));
    }
}
