//! Samples of pools and arenas into a Markdown table.

use super::{Measured, OWN, Subject};
use crate::bench::report::{heading, short};
use crate::bench::stats::range;
use std::fmt::Write as _;

/// What an operation of a case is.
const UNITS: [(&str, &str); 8] = [
    ("object-4096", "object of 4 KiB: get, first byte written, put"),
    ("object-65536", "object of 64 KiB: the same"),
    ("held-4096", "objects of 4 KiB, four at a time: get, first byte written, put"),
    ("cross", "object of 4 KiB: get and write in one thread, put in another"),
    ("buffer-65536", "buffer of 64 KiB: get, first byte written, put"),
    ("arena-64", "arena: object of 64 bytes, a reset each 1000"),
    ("region-64MiB", "64 MiB: get, each page written, put"),
    ("miss", "pool: a miss that costs nothing to make"),
];

/// The table with what it was measured on.
pub fn markdown(measured: &Measured, rounds: u32, machine: &[(&'static str, String)], quick: bool) -> String {
    let mut text = heading("Pools and arenas", machine, quick);
    let _ = writeln!(
        text,
        "- rounds: {rounds}, interleaved, each sample a process of its own, threads pinned; the median over rounds of \
         the median of chunks; ratios are taken within a round\n\n\
         | operation | by | ns, 1 thread | min..max | this : ours | ns of each of 2 threads | min..max | this : ours |\n\
         |---|---|---:|---|---:|---:|---|---:|"
    );
    for (index, subject) in measured.subjects.iter().enumerate() {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            unit(&subject.case),
            subject.name,
            cells(measured, subject, index, 1),
            cells(measured, subject, index, 2)
        );
    }
    text
}

/// A case in words.
fn unit(case: &str) -> &str {
    UNITS.iter().find(|(name, _)| *name == case).map_or(case, |(_, unit)| unit)
}

fn cells(measured: &Measured, subject: &Subject, index: usize, threads: u64) -> String {
    let rounds = measured.rounds(index, threads);
    let (Some(median), Some((low, high))) = (measured.median(index, threads), range(&rounds)) else {
        return "- | - | -".to_owned();
    };
    let ratio = measured.ratio(index, threads).filter(|_| subject.name != OWN);
    let ratio = ratio.map(|ratio| format!("{ratio:.2}"));
    let ratio = ratio.unwrap_or_else(|| "-".to_owned());
    format!("{} | {}..{} | {ratio}", short(median), short(low), short(high))
}
