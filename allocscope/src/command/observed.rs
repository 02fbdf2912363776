//! What was traced to its end into a report.

use super::trace::{self, Server};
use crate::aggregate::Snapshot;
use crate::config::Format;
use crate::session::Session;
use anyhow::Result;

/// A process or command that was traced until something ended that; still attached.
pub struct Observed<T> {
    /// What it was traced by.
    pub session: Session,
    /// Where metrics are served.
    pub server: Option<Server>,
    /// Why tracing stopped, or how the command ended.
    pub end: T,
}

impl<T> Observed<T> {
    /// Writes the report of the run, then stops serving metrics.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn report(&mut self, format: Format) -> Result<Snapshot> {
        let snapshot = self.session.last_snapshot();
        trace::report(&snapshot, format)?;
        if let Some(server) = self.server.take() {
            server.stop(&mut self.session).await;
        }
        Ok(snapshot)
    }
}
