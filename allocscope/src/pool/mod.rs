//! Memory that is kept instead of being asked for again: an object pool, a buffer pool and an arena.
//!
#![doc = include_str!("README.md")]

pub mod arena;
pub mod breaker;
pub mod buffer;
#[cfg(feature = "prometheus")]
pub mod collector;
pub mod counters;
pub mod fallback;
pub mod object;
pub mod pressure;
mod probe;
pub mod region;
mod sync;
pub mod tier;

pub use arena::{AllocError, Arena, DropArena};
pub use breaker::Breaker;
pub use buffer::{BufferPool, BufferPoolBuilder, OwnedPooledBuffer, PooledBuffer};
pub use counters::{BufferCounters, ClassCounters, PoolCounters};
pub use fallback::Fallback;
pub use object::{Limits, OwnedPooled, Pool, PoolBuilder, PoolError, Pooled, Recipe};
pub use pressure::Pressure;
pub use region::{Region, RegionError};
