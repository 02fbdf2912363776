//! A request's path and headers into its answer.

use super::SnapshotSource;
use crate::aggregate::Snapshot;
use crate::export::metrics::encode;
use crate::export::page::page;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// For a snapshot and its encoding, including the wait for scrapes before it; Prometheus' own default is 10 s.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(9);

/// What the routes share.
pub(super) struct Site<S> {
    pub(super) source: S,
    pub(super) one_at_a_time: Semaphore,
    pub(super) stopping: watch::Receiver<bool>,
}

pub(super) fn router<S: SnapshotSource>(site: Arc<Site<S>>) -> Router {
    Router::new()
        .route("/", get(index::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz::<S>))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .with_state(site)
}

async fn metrics<S: SnapshotSource>(
    State(site): State<Arc<Site<S>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let accept = accept_header(&headers);
    let answer = site.show(move |snapshot| (snapshot.sequence, encode(snapshot, Some(&accept)))).await;
    let Some((sequence, (content_type, body))) = answer else {
        return unavailable();
    };
    // A client that went away cancels this function before it comes here; HEAD shows nobody the counts.
    if method == Method::GET {
        site.source.scraped(sequence).await;
    }
    ([(header::CONTENT_TYPE, content_type), (header::VARY, "Accept")], body).into_response()
}

async fn index<S: SnapshotSource>(State(site): State<Arc<Site<S>>>) -> Response {
    let Some(html) = site.show(|snapshot| page(snapshot)).await else {
        return unavailable();
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, html).into_response()
}

async fn readyz<S: SnapshotSource>(State(site): State<Arc<Site<S>>>) -> Response {
    if site.is_stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response()
    } else if site.source.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "tracing is not attached\n").into_response()
    }
}

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "no snapshot can be had\n").into_response()
}

/// All `Accept` headers as one, which by the standard they are.
fn accept_header(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter();
    values.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

impl<S: SnapshotSource> Site<S> {
    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// What `show` makes of a fresh snapshot; `None` when stopping, when tracing has ended, or when it
    /// takes too long.
    async fn show<T: Send + 'static>(
        &self,
        show: impl FnOnce(&Arc<Snapshot>) -> T + Send + 'static,
    ) -> Option<T> {
        if self.is_stopping() {
            return None;
        }
        let shown = async {
            let _permit = self.one_at_a_time.acquire().await.ok()?;
            let snapshot = Arc::new(self.source.snapshot().await?);
            // Hundreds of processes take most of a second to encode: not on the one thread that also
            // reads the ring.
            tokio::task::spawn_blocking(move || show(&snapshot)).await.ok()
        };
        timeout(SNAPSHOT_TIMEOUT, shown).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::http::ChannelSource;

    #[tokio::test]
    async fn while_stopping_requests_get_503() {
        let (source, _requests, _ready) = ChannelSource::new();
        let (_stop, stopping) = watch::channel(true);
        let site = Arc::new(Site { source, one_at_a_time: Semaphore::new(1), stopping });
        assert_eq!(metrics(State(Arc::clone(&site)), Method::GET, HeaderMap::new()).await.status(), 503);
        assert_eq!(readyz(State(site)).await.status(), 503);
    }
}
