//! Kernel maps and the ring buffer into a [`Reading`].

mod reading;
pub use reading::{Reading, SeriesReading, SlotReading};
