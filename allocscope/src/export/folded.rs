//! A profile into folded stacks: a line for each, its functions from the outermost on, and its weight.

use super::costs::{Costs, weighed};
use crate::config::Weight;
use std::fmt::Write;

/// The lines. A stack without weight is left out.
pub fn folded(costs: &Costs<'_>, weight: Weight) -> String {
    let mut text = String::new();
    for (names, values) in costs.folded() {
        let weight = weighed(&values, weight);
        if weight > 0 {
            let _ = writeln!(text, "{} {weight}", names.join(";"));
        }
    }
    text
}
