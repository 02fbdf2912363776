//! Rows of cells into lines with columns that stand below each other.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

pub(in crate::export) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    // Otherwise the width would be that of the terminal there happens to be.
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// The table as lines; numbers stand right, the columns `text` left.
pub(in crate::export) fn finish(mut table: Table, text: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        if !text.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}
