//! HTTP requests into snapshots in the format asked for: `/metrics`, `/healthz`, `/readyz` and a page.
//!
//! Whoever owns the kernel maps is asked for a snapshot when a scrape comes in, one scrape at a time,
//! so that nothing is read when nobody looks and two scrapes never read the maps at once.

mod impatient;
mod routes;
mod source;

pub use source::{ChannelSource, Request, SnapshotSource};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use impatient::Impatient;
use routes::{Site, router};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// For a client to send a request's head, or to send another one on the same connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For answers under way when shutdown begins.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// After `accept` failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done, then answers what is under way for at most two seconds. The
/// source must go on answering in that time.
pub async fn serve(listener: TcpListener, source: impl SnapshotSource, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(false);
    let site = Arc::new(Site { source, one_at_a_time: Semaphore::new(1), stopping: stopping.clone() });
    let router = router(site);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
            // Ended connections are taken out as they end, or the set would only grow.
            Some(_) = connections.join_next() => continue,
        };
        if let Some((stream, permit)) = accepted {
            let connection = connection(stream, router.clone(), stopping.clone());
            connections.spawn(async move {
                connection.await;
                drop(permit);
            });
        }
    }
    drop(listener);
    stop.send_replace(true);
    let all_done = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, all_done).await.is_err() {
        log::warn!("http: {} connections did not end in {SHUTDOWN_GRACE:?}", connections.len());
    }
    connections.shutdown().await;
}

/// A connection and the right to keep it; `None` after a failure, which has been waited out.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            log::warn!("http: cannot accept a connection: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one connection; when stopping, to the end of the answer under way.
async fn connection(stream: TcpStream, router: Router, mut stopping: watch::Receiver<bool>) {
    let io = TokioIo::new(Impatient { stream, deadline: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(io, TowerToHyperService::new(router));
    let stop = async { stopping.wait_for(|&stopping| stopping).await.is_ok() };
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        log::debug!("http: {error}");
    }
}

#[cfg(test)]
mod tests;
