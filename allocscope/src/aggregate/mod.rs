//! Readings into a [`Snapshot`].

mod aggregator;
mod examples;
mod finding;
mod profile;
mod slowest;
mod snapshot;
pub use aggregator::{Aggregator, Retirement};
pub use examples::{Example, Examples};
pub use finding::{Figure, Finding, FindingKind, Setting};
pub use profile::{Profile, Site, Values};
pub use slowest::{SlowAllocation, Slowest};
pub use snapshot::{Coverage, ProcessSnapshot, Snapshot, Tier, ToolSnapshot, cost_seconds};
