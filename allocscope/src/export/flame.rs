//! A profile into a flame graph.

use super::costs::{Costs, described};
use super::folded::folded;
use crate::config::Weight;
use inferno::flamegraph::{self, Options};

/// The SVG document.
///
/// # Errors
/// Where no stack has any weight.
pub fn flame(costs: &Costs<'_>, weight: Weight) -> Result<Vec<u8>, String> {
    let (title, unit) = described(weight);
    let mut options = Options::default();
    options.title = title.to_owned();
    options.count_name = unit.to_owned();
    let text = folded(costs, weight);
    if text.is_empty() {
        return Err(format!("no {unit} were recorded: there is nothing to draw"));
    }
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, text.lines(), &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}
