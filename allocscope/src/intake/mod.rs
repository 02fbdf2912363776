//! Kernel maps and the ring buffer into a [`Reading`].

mod live;
mod maps;
mod reading;
pub use live::{LiveReading, LiveTotals};
pub use maps::{Events, Maps, decode_event};
pub use reading::{Reading, SeriesReading, SlotReading};
