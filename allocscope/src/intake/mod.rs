//! Kernel maps and the ring buffer into a [`Reading`].

mod indexed;
mod maps;
mod reading;
pub use maps::{Events, Maps, decode_event};
pub use reading::{Reading, SeriesReading, SlotReading};
