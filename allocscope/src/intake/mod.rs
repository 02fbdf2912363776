//! Kernel maps and the ring buffer into a [`Reading`].

mod allocations;
mod filed;
mod indexed;
mod live;
mod maps;
mod reading;
pub use allocations::{Allocations, Name, Stack, StackCopy, Told, TouchCauses, decode_told};
pub use live::{Live, LiveReading, LiveTotals};
pub use maps::{Events, Maps, decode_event};
pub use reading::{Reading, SeriesReading, SlotReading};
