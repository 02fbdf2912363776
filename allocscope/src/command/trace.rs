//! The loop that `attach`, `run` and `daemon` share: events, reports and scrapes until something ends it.

use super::tell;
use crate::aggregate::Snapshot;
use crate::config::{Format, TraceOptions};
use crate::export::http::{self, ChannelSource, Request};
use crate::export::{json, table};
use crate::failure::{Exit, Failure};
use crate::session::Session;
use anyhow::{Context, Result};
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};

/// Between redraws of the live table, unless `--interval` says otherwise.
const LIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Between the snapshots that findings rest on: what is live in between is known at these only.
const SAMPLES: Duration = Duration::from_millis(250);

/// Between rounds of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// When nothing has come in for so long, nothing is waiting.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(10);
/// For events that have happened before the traced process ended.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);

/// Runs a command's future on one thread: the work is waiting.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(future)
}

/// Why tracing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `--duration` is over.
    Time,
    /// The process that was asked for ended.
    ProcessEnded,
    /// SIGINT or SIGTERM.
    Signal,
}

/// When tracing stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until {
    /// After this time.
    pub duration: Option<Duration>,
    /// When this process ends.
    pub process: Option<u32>,
    /// Not on SIGINT and SIGTERM: they are the traced command's business, which got them as well.
    pub ignore_signals: bool,
}

/// Handles events until something of `until` happens.
///
/// # Errors
/// Where the kernel's events can no longer be read.
pub async fn run(
    session: &mut Session,
    signals: &mut Signals,
    until: Until,
    mut live: Live,
    server: &mut Option<Server>,
) -> Result<Stop> {
    let deadline = until.duration.map(|duration| Instant::now() + duration);
    let mut housekeeping = interval_at(Instant::now() + HOUSEKEEPING, HOUSEKEEPING);
    loop {
        if until.process.is_some_and(|pid| !session.is_tracing(pid)) {
            catch_up(session).await?;
            return Ok(Stop::ProcessEnded);
        }
        let pool_window = session.pool_window_due();
        tokio::select! {
            wakeup = session.wait() => session.handle(wakeup?),
            due = live.next() => {
                let snapshot = session.snapshot();
                if due == Due::Report {
                    live.show(&snapshot);
                }
            }
            _ = housekeeping.tick() => session.housekeep(),
            () = pool_window => session.turn_pool_window(),
            request = next_request(server) => answer(session, request),
            () = signals.next(), if !until.ignore_signals => return Ok(Stop::Signal),
            () = until_deadline(deadline) => return Ok(Stop::Time),
        }
    }
}

/// Takes in what has happened already, so that the report does not take a child for running that ended
/// before its parent did. Whatever still comes in the meantime does not prolong it for ever.
async fn catch_up(session: &mut Session) -> Result<()> {
    let end = Instant::now() + CATCH_UP_LIMIT;
    while let Ok(wakeup) = timeout_at(end.min(Instant::now() + CATCH_UP_PAUSE), session.wait()).await {
        session.handle(wakeup?);
    }
    Ok(())
}

fn answer(session: &mut Session, request: Request) {
    match request {
        // Whoever asked may have gone, before it is their turn or after; then nobody misses the answer.
        Request::Snapshot(answer) if answer.is_closed() => {}
        Request::Snapshot(answer) => drop(answer.send(session.snapshot())),
        Request::Scraped(sequence) => session.scraped(sequence),
    }
}

async fn until_deadline(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn next_request(server: &mut Option<Server>) -> Request {
    match server {
        Some(server) => match server.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// SIGINT and SIGTERM. After the first, a second one ends the program at once with exit code 130.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes both signals over.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn install() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        end_at_the_next_signal();
    }
}

/// From here on the program only reports and detaches. A user who does not want to wait for that
/// signals again; the kernel detaches everything when the process is gone.
pub fn end_at_the_next_signal() {
    extern "C" fn leave(_signal: libc::c_int) {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(Exit::Interrupted as i32) };
    }
    let handler: extern "C" fn(libc::c_int) = leave;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler calls nothing but _exit.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Reports while tracing runs.
pub struct Live {
    ticks: Option<Interval>,
    samples: Option<Interval>,
    format: Format,
    redraw: bool,
    lines: usize,
}

impl Live {
    /// A table that is redrawn where standard error is a terminal, blocks of it where `--interval` was
    /// given, JSON lines on standard output for `--format json`; else nothing until the end.
    pub fn new(options: &TraceOptions) -> Self {
        let redraw = options.format == Format::Table && std::io::stderr().is_terminal();
        let period = options.interval.or(redraw.then_some(LIVE_INTERVAL));
        let ticks = period.map(|period| every(period, period));
        let samples = Some(every(Duration::ZERO, SAMPLES));
        Self { ticks, samples, format: options.format, redraw, lines: 0 }
    }

    /// Never anything; what findings rest on is what scrapes ask for.
    pub fn silent() -> Self {
        Self { ticks: None, samples: None, format: Format::Table, redraw: false, lines: 0 }
    }

    /// Nothing until the end; only what findings rest on.
    pub fn sampling() -> Self {
        Self { samples: Some(every(Duration::ZERO, SAMPLES)), ..Self::silent() }
    }

    async fn next(&mut self) -> Due {
        tokio::select! {
            () = tick(&mut self.ticks) => Due::Report,
            () = tick(&mut self.samples) => Due::Sample,
        }
    }

    fn show(&mut self, snapshot: &Snapshot) {
        // A report that cannot be written is no reason to stop tracing; the final one tells.
        let _ = match self.format {
            Format::Json => std::io::stdout().write_all(json::line(snapshot, false).as_bytes()),
            Format::Table => self.draw(&table::live(snapshot)),
        };
    }

    fn draw(&mut self, text: &str) -> std::io::Result<()> {
        let mut screen = std::io::stderr().lock();
        if self.redraw && self.lines > 0 {
            // ANSI X3.64: cursor up, erase to the end of the screen.
            write!(screen, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        write!(screen, "{text}")?;
        screen.flush()
    }
}

/// What a snapshot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// To be shown.
    Report,
    /// For findings alone.
    Sample,
}

fn every(first: Duration, period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

/// Writes the final report on standard output.
///
/// # Errors
/// Where it cannot be written.
pub fn report(snapshot: &Snapshot, format: Format) -> Result<()> {
    let text = match format {
        Format::Json => json::line(snapshot, true),
        Format::Table => {
            snapshot.processes.iter().map(|process| table::report(process, snapshot) + "\n").collect()
        }
    };
    print(&text)
}

/// Writes on standard output. A reader that has had enough of it is no failure.
///
/// # Errors
/// Where it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// The HTTP server, in a task of its own.
pub struct Server {
    requests: mpsc::Receiver<Request>,
    ready: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Binds and serves; not ready until [`Self::set_ready`].
    ///
    /// # Errors
    /// [`Exit::PortInUse`] where the address cannot be bound.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let message = format!("cannot listen on {address}: {error}; choose another one with --listen");
            Failure::error(Exit::PortInUse, message)
        })?;
        let address = listener.local_addr()?;
        let (source, requests, ready) = ChannelSource::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(http::serve(listener, source, async move {
            // A sender that is gone means the same.
            let _ = stopped.await;
        }));
        Ok(Self { requests, ready, stop: Some(stop), task, address })
    }

    /// Tells whether tracing is attached.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Stops serving; scrapes that are under way are still answered.
    pub async fn stop(mut self, session: &mut Session) {
        self.set_ready(false);
        drop(self.stop.take());
        loop {
            tokio::select! {
                _ = &mut self.task => return,
                Some(request) = self.requests.recv() => answer(session, request),
            }
        }
    }
}

/// Starts the server where one is asked for and says where.
///
/// # Errors
/// As [`Server::start`].
pub async fn serve(listen: Option<SocketAddr>) -> Result<Option<Server>> {
    let Some(address) = listen else { return Ok(None) };
    let server = Server::start(address).await?;
    tell(format_args!("metrics at http://{}/metrics", server.address));
    Ok(Some(server))
}
