//! A process' size classes into how much of what was asked for was made real, and what is live.

use super::names::size_label;
use super::rows::{Row, rows};
use super::table::{bytes, duration, finish, new_table, share};
use crate::aggregate::ProcessSnapshot;

/// A line for each size class that has bytes of either kind. Empty where none has.
pub fn section(process: &ProcessSnapshot, page_sizes_known: bool) -> String {
    let mut table = new_table(&[
        "allocator",
        "size",
        "asked for",
        "touched",
        "ratio",
        "live",
        "live bytes",
        "live touched",
        "live touch time",
    ]);
    for row in rows(process).iter().filter(|row| row.touched_bytes() > 0 || row.live.ranges > 0) {
        table.add_row([
            row.allocator.name().to_owned(),
            size_label(row.size_class),
            bytes(row.asked_bytes()),
            bytes(row.touched_bytes()),
            ratio(row),
            row.live.ranges.to_string(),
            bytes(row.live.bytes),
            bytes(row.live.touched_bytes),
            duration(row.live.touch_ns as f64),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    let head =
        "Touched, of what was asked for (by page faults; live: not released, not in the table above)\n";
    let note =
        if page_sizes_known { "" } else { "each page fault is taken for 4 KiB: this kernel does not tell\n" };
    format!("\n{head}{}{note}", finish(table, &[0]))
}

/// Of memory that was asked for before tracing began, or by another call that enlarged it, there is none.
fn ratio(row: &Row<'_>) -> String {
    share(row.touched_bytes(), row.asked_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample;

    #[test]
    fn a_process_without_touches_has_no_section_and_a_guess_is_called_one() {
        let snapshot = sample::snapshot();
        assert_eq!(section(&snapshot.processes[1], true), "");
        assert!(!section(&snapshot.processes[0], true).contains("taken for"));
        let guess = section(&snapshot.processes[0], false);
        assert!(guess.ends_with("taken for 4 KiB: this kernel does not tell\n"), "{guess}");
    }
}
