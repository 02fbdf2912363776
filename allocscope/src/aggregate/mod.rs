//! Readings into a [`Snapshot`].

mod aggregator;
mod finding;
mod snapshot;
pub use aggregator::{Aggregator, Retirement};
pub use finding::{Figure, Finding, FindingKind, Setting};
pub use snapshot::{Coverage, ProcessSnapshot, Snapshot, Tier, ToolSnapshot, cost_seconds};
