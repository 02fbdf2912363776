//! Memory that is kept instead of being asked for again: an object pool, a buffer pool and an arena.
//!
//! A library of its own: it imports nothing from the rest of the crate and is usable alone with
//! `default-features = false`.

pub mod arena;
pub mod breaker;
pub mod fallback;
pub mod pressure;
mod probe;
pub mod region;
pub mod tier;

pub use arena::{AllocError, Arena, DropArena};
pub use region::{Region, RegionError};
