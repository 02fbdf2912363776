//! Readings into a [`Snapshot`].

mod snapshot;
pub use snapshot::{Coverage, ProcessSnapshot, Snapshot, Tier, ToolSnapshot};
