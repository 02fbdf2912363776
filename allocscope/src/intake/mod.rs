//! Kernel maps and the ring buffer into a [`Reading`].

mod allocations;
mod maps;
mod reading;
pub use allocations::{Allocations, Name, Stack, StackCopy, Told, decode_told};
pub use maps::{Events, Live, Maps, decode_event};
pub use reading::{Reading, SeriesReading, SlotReading};
