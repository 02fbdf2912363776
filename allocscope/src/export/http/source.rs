//! Requests for snapshots into messages to whoever owns the kernel maps.

use crate::aggregate::Snapshot;
use std::future::Future;
use tokio::sync::{mpsc, oneshot, watch};

/// Where snapshots come from.
pub trait SnapshotSource: Send + Sync + 'static {
    /// A snapshot of now; `None` when tracing has ended.
    fn snapshot(&self) -> impl Future<Output = Option<Snapshot>> + Send;

    /// Tells that a scrape was answered with the snapshot of this [`Snapshot::sequence`].
    fn scraped(&self, sequence: u64) -> impl Future<Output = ()> + Send;

    /// Whether tracing is attached.
    fn is_ready(&self) -> bool;
}

/// What the owner of the maps is asked through a [`ChannelSource`].
#[derive(Debug)]
pub enum Request {
    /// Read the maps and answer with a snapshot.
    Snapshot(oneshot::Sender<Snapshot>),
    /// A scrape was answered with this snapshot: see [`crate::aggregate::Aggregator::scraped`].
    Scraped(u64),
}

/// A source on the other end of a channel.
#[derive(Debug)]
pub struct ChannelSource {
    requests: mpsc::Sender<Request>,
    ready: watch::Receiver<bool>,
}

impl ChannelSource {
    /// A source, the requests made to it, and where to tell whether tracing is attached.
    pub fn new() -> (Self, mpsc::Receiver<Request>, watch::Sender<bool>) {
        // Scrapes come one at a time, so at most a request and the report of the one before wait.
        let (requests, receiver) = mpsc::channel(4);
        let (ready_sender, ready) = watch::channel(false);
        (Self { requests, ready }, receiver, ready_sender)
    }
}

impl SnapshotSource for ChannelSource {
    async fn snapshot(&self) -> Option<Snapshot> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Snapshot(sender)).await.ok()?;
        receiver.await.ok()
    }

    async fn scraped(&self, sequence: u64) {
        // Nobody is left to be told once tracing has ended.
        let _ = self.requests.send(Request::Scraped(sequence)).await;
    }

    fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}
