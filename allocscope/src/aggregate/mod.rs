//! Readings into a [`Snapshot`].

mod aggregator;
mod profile;
mod slowest;
mod snapshot;
pub use aggregator::{Aggregator, Retirement};
pub use profile::{Profile, Site, Values};
pub use slowest::{SlowAllocation, Slowest};
pub use snapshot::{Coverage, ProcessSnapshot, Snapshot, Tier, ToolSnapshot, cost_seconds};
