//! HTTP requests into snapshots in the format asked for: `/metrics`, `/healthz`, `/readyz` and a page.
//!
//! Whoever owns the kernel maps is asked for a snapshot when a scrape comes in, one scrape at a time,
//! so that nothing is read when nobody looks and two scrapes never read the maps at once.

use super::metrics::encode;
use super::page::page;
use crate::aggregate::Snapshot;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// For a client to send a request's head, or to send another one on the same connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a client to take the next part of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a snapshot and its encoding, including the wait for scrapes before it; Prometheus' own default is 10 s.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(9);
/// For answers under way when shutdown begins.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// After `accept` failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// What the routes share.
struct Site<S> {
    source: S,
    one_at_a_time: Semaphore,
    stopping: watch::Receiver<bool>,
}

fn router<S: SnapshotSource>(site: Arc<Site<S>>) -> Router {
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

/// A connection that fails when the client takes nothing for [`WRITE_TIMEOUT`].
struct Impatient {
    stream: TcpStream,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    /// Passes on what a write came to, unless it has waited too long.
    fn within_deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.within_deadline(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.within_deadline(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::sample::{self, exposition};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    /// A server, and a session that takes `pause` for a snapshot.
    struct Fixture {
        address: SocketAddr,
        ready: watch::Sender<bool>,
        stop: oneshot::Sender<()>,
        server: JoinHandle<()>,
        session: JoinHandle<Vec<u64>>,
        /// Snapshots begun.
        asked: Arc<AtomicUsize>,
    }

    impl Fixture {
        async fn start(pause: Duration) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (source, mut requests, ready) = ChannelSource::new();
            let (stop, stopped) = oneshot::channel::<()>();
            let asked = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&asked);
            let session = tokio::spawn(async move {
                let (mut sequence, mut scraped) = (0, Vec::new());
                while let Some(request) = requests.recv().await {
                    match request {
                        Request::Snapshot(answer) => {
                            counter.fetch_add(1, Ordering::SeqCst);
                            sleep(pause).await;
                            sequence += 1;
                            let _ = answer.send(Snapshot { sequence, ..sample::snapshot() });
                        }
                        Request::Scraped(sequence) => scraped.push(sequence),
                    }
                }
                scraped
            });
            let server = tokio::spawn(serve(listener, source, async {
                let _ = stopped.await;
            }));
            Self { address, ready, stop, server, session, asked }
        }

        async fn get(&self, path: &str) -> Answer {
            request(self.address, "GET", path, "").await
        }

        /// Stops the server; tells the snapshots that were scraped.
        async fn stop(self) -> Vec<u64> {
            self.stop.send(()).unwrap();
            self.server.await.unwrap();
            self.session.await.unwrap()
        }
    }

    struct Answer {
        status: u16,
        head: String,
        body: Vec<u8>,
    }

    impl Answer {
        fn text(&self) -> &str {
            std::str::from_utf8(&self.body).unwrap()
        }
    }

    async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }

    async fn answer(stream: &mut TcpStream) -> Answer {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: bytes.split_off(end + 4) }
    }

    #[tokio::test]
    async fn every_route_answers() {
        let fixture = Fixture::start(Duration::ZERO).await;
        let metrics = fixture.get("/metrics").await;
        assert_eq!(metrics.status, 200);
        assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
        let families = exposition::parse(metrics.text());
        exposition::check_histograms(&families);
        assert!(families.contains_key("allocscope_build_info"));

        let health = fixture.get("/healthz").await;
        assert_eq!((health.status, health.text()), (200, "ok\n"));
        assert_eq!(fixture.get("/readyz").await.status, 503);
        fixture.ready.send_replace(true);
        assert_eq!(fixture.get("/readyz").await.status, 200);

        let page = fixture.get("/").await;
        assert_eq!(page.status, 200);
        assert!(page.head.contains("content-type: text/html; charset=utf-8"));
        assert!(page.text().contains("<td>4242</td>"));

        assert_eq!(fixture.get("/nothing").await.status, 404);
        // The page is no scrape.
        assert_eq!(fixture.stop().await, [1]);
    }

    #[tokio::test]
    async fn head_works_and_other_methods_do_not() {
        let fixture = Fixture::start(Duration::ZERO).await;
        for path in ["/", "/metrics", "/healthz"] {
            let head = request(fixture.address, "HEAD", path, "").await;
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            let post = request(fixture.address, "POST", path, "Content-Length: 0\r\n").await;
            assert_eq!(post.status, 405, "{path}");
            assert!(post.head.contains("allow: get,head"), "{}", post.head);
        }
        assert!(fixture.stop().await.is_empty(), "HEAD is no scrape");
    }

    #[tokio::test]
    async fn protobuf_is_given_to_who_prefers_it() {
        let fixture = Fixture::start(Duration::ZERO).await;
        // Two header lines are one list.
        let accept = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited\r\nAccept: text/plain;version=0.0.4;q=0.5\r\n";
        let answer = request(fixture.address, "GET", "/metrics", accept).await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: application/vnd.google.protobuf;"), "{}", answer.head);
        let name = b"allocscope_allocated_bytes_total";
        assert!(answer.body.windows(name.len()).any(|window| window == name));
        fixture.stop().await;
    }

    #[tokio::test]
    async fn openmetrics_is_given_to_who_prefers_it() {
        let fixture = Fixture::start(Duration::ZERO).await;
        for version in ["1.0.0", "0.0.1"] {
            let accept = format!(
                "Accept: application/openmetrics-text;version={version},text/plain;q=0.5,*/*;q=0.1\r\n"
            );
            let answer = request(fixture.address, "GET", "/metrics", &accept).await;
            let expected =
                format!("content-type: application/openmetrics-text; version={version}; charset=utf-8\r\n");
            assert!(answer.status == 200 && answer.head.contains(&expected), "{}", answer.head);
            assert!(answer.head.contains("vary: accept"), "{}", answer.head);
            assert!(answer.text().contains("# TYPE allocscope_allocated_bytes counter\n"));
            assert!(answer.text().ends_with("\n# EOF\n"));
        }
        assert_eq!(fixture.stop().await, [1, 2]);
    }

    #[tokio::test]
    async fn fifty_scrapes_at_once_wait_for_each_other() {
        let fixture = Fixture::start(Duration::from_millis(5)).await;
        let mut scrapes = JoinSet::new();
        for _ in 0..50 {
            scrapes.spawn(request(fixture.address, "GET", "/metrics", ""));
        }
        for answer in scrapes.join_all().await {
            assert_eq!(answer.status, 200);
            exposition::parse(answer.text());
        }
        assert_eq!(fixture.asked.load(Ordering::SeqCst), 50);
        assert_eq!(fixture.stop().await, (1..=50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_scrape_under_way_at_shutdown_is_answered() {
        let fixture = Fixture::start(Duration::from_millis(300)).await;
        let address = fixture.address;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let scrape = tokio::spawn(request(address, "GET", "/metrics", ""));
        while fixture.asked.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let started = Instant::now();
        assert_eq!(fixture.stop().await, [1]);
        assert!(started.elapsed() < Duration::from_secs(2), "an idle connection holds nothing up");
        assert_eq!(scrape.await.unwrap().status, 200);
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(TcpStream::connect(address).await.is_err(), "new connections are refused");
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_ever() {
        let fixture = Fixture::start(Duration::from_secs(60)).await;
        let scrape = tokio::spawn({
            let address = fixture.address;
            async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
                stream.read_to_end(&mut Vec::new()).await
            }
        });
        while fixture.asked.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let started = Instant::now();
        fixture.stop.send(()).unwrap();
        fixture.server.await.unwrap();
        assert!((2..4).contains(&started.elapsed().as_secs()));
        let _ = scrape.await.unwrap();
        fixture.session.abort();
    }

    #[tokio::test]
    async fn while_stopping_requests_get_503() {
        let (source, _requests, _ready) = ChannelSource::new();
        let (_stop, stopping) = watch::channel(true);
        let site = Arc::new(Site { source, one_at_a_time: Semaphore::new(1), stopping });
        assert_eq!(metrics(State(Arc::clone(&site)), Method::GET, HeaderMap::new()).await.status(), 503);
        assert_eq!(readyz(State(site)).await.status(), 503);
    }

    #[tokio::test]
    async fn when_tracing_has_ended_scrapes_get_503() {
        let fixture = Fixture::start(Duration::ZERO).await;
        fixture.session.abort();
        assert_eq!(fixture.get("/metrics").await.status, 503);
        assert_eq!(fixture.get("/healthz").await.status, 200);
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_or_nonsense_does_no_harm() {
        let fixture = Fixture::start(Duration::ZERO).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            silent.push(TcpStream::connect(fixture.address).await.unwrap());
        }
        let mut stream = TcpStream::connect(fixture.address).await.unwrap();
        stream.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        drop(stream);
        assert_eq!(fixture.get("/metrics").await.status, 200);
        let mut huge = TcpStream::connect(fixture.address).await.unwrap();
        let head = format!("GET /metrics HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
        // The server may hang up before all of it is sent.
        let _ = huge.write_all(head.as_bytes()).await;
        let mut start = [0; 12];
        if huge.read_exact(&mut start).await.is_ok() {
            assert_eq!(&start, b"HTTP/1.1 431");
        }
        fixture.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_hung_up_on() {
        let fixture = Fixture::start(Duration::ZERO).await;
        let mut stream = TcpStream::connect(fixture.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(started.elapsed() >= REQUEST_TIMEOUT);
        fixture.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Impatient { stream, deadline: None };
        let written = stream.write_all(&vec![0; 64 << 20]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
