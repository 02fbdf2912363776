//! A server on a port of this machine: its routes, scrapes at once, shutdown and clients that misbehave.

use super::*;
use crate::aggregate::Snapshot;
use crate::export::sample::{self, exposition};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
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
        let accept =
            format!("Accept: application/openmetrics-text;version={version},text/plain;q=0.5,*/*;q=0.1\r\n");
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
