//! What a process could save.

use crate::aggregate::Finding;
use crate::export::names::size_label;
use serde::Serialize;
use std::collections::BTreeMap;

/// Something that a process could save. Savings of one process overlap.
#[derive(Debug, Serialize)]
pub struct FindingView<'a> {
    /// `threshold_churn`, `huge_pages`, `over_allocation` or `release_storm`.
    pub kind: &'static str,
    /// Whose memory it is about.
    pub allocator: &'static str,
    /// Lower bounds of the size classes it is about.
    pub sizes: Vec<String>,
    /// Time to be saved in each second; null where none is claimed.
    pub recoverable_seconds_per_second: Option<f64>,
    /// What happens.
    pub summary: &'a str,
    /// The numbers it rests on; each name ends with its unit.
    pub figures: BTreeMap<&'static str, f64>,
    /// Environment variables that end it; empty where the program has to change.
    pub environment: BTreeMap<&'static str, &'a str>,
    /// The same in words.
    pub setting: &'a str,
    /// What may become worse.
    pub risk: &'a str,
    /// How to see whether it helped.
    pub check: &'a str,
}

impl<'a> FindingView<'a> {
    pub(super) fn new(finding: &'a Finding) -> Self {
        let environment = &finding.setting.environment;
        Self {
            kind: finding.kind.name(),
            allocator: finding.allocator.name(),
            sizes: finding.size_classes.iter().map(|&class| size_label(class)).collect(),
            recoverable_seconds_per_second: finding.recoverable,
            summary: &finding.summary,
            figures: finding.figures.iter().map(|figure| (figure.name, figure.value)).collect(),
            environment: environment.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            setting: &finding.setting.text,
            risk: &finding.risk,
            check: &finding.check,
        }
    }
}
