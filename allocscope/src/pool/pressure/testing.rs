//! A signal for tests of what follows signals.

use super::{Asked, Keep, Signal};
use std::time::Duration;

/// Keeps half of what is idle.
pub(crate) struct Half;

impl Signal for Half {
    fn name(&self) -> &'static str {
        "half"
    }

    fn look(&mut self, _now: Duration) {}

    fn keep(&mut self, asked: &Asked) -> Keep {
        Keep::Bytes(asked.idle_bytes / 2)
    }
}
