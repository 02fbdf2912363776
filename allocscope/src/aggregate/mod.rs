//! Readings into a [`Snapshot`].

mod aggregator;
mod snapshot;
pub use aggregator::{Aggregator, Retirement};
pub use snapshot::{Coverage, ProcessSnapshot, Snapshot, Tier, ToolSnapshot, cost_seconds};
