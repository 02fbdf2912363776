//! Time into short windows in which every `sync.Pool.Get` is probed: a probe on each is not free, and a rate does not
//! need them all.

use super::Session;
use crate::probe::PoolProbes;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// From one window to the next. With [`OPEN`] a duty of 1 %, so that a program that does nothing but `Get`, and is a
/// hundred times slower in a window, loses 1 %.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a window is open: thousands of gets, where there are enough of them to matter.
const OPEN: Duration = Duration::from_millis(100);
/// Until the first one: a program that has just started is filling its pools.
const FIRST: Duration = Duration::from_secs(1);

/// The windows of a session.
pub struct PoolWindows {
    next: Option<Instant>,
    open: Option<(Instant, Vec<PoolProbes>)>,
    /// How many there were.
    pub count: u64,
    /// How long they were open.
    pub time: Duration,
}

impl PoolWindows {
    /// None ever, where they are not wanted.
    pub fn new(wanted: bool) -> Self {
        let next = wanted.then(|| Instant::now() + FIRST);
        Self { next, open: None, count: 0, time: Duration::ZERO }
    }
}

impl Session {
    /// Until a window is to be opened or closed. Cancel-safe.
    pub fn pool_window_due(&self) -> impl Future<Output = ()> + use<> {
        let next = self.pool_windows.next;
        async move {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Opens a window, or closes the one that is open.
    pub fn turn_pool_window(&mut self) {
        let now = Instant::now();
        let wait = match self.pool_windows.open.take() {
            Some((since, probes)) => {
                self.close_pool_window(since, probes);
                PERIOD - OPEN
            }
            None => self.open_pool_window(now),
        };
        self.pool_windows.next = Some(Instant::now() + wait);
    }

    /// The kernel side counts from when all probes are in until the first is taken out. Returns until when.
    fn open_pool_window(&mut self, now: Instant) -> Duration {
        let probes = self.binaries.attach_pool_probes(&mut self.loaded);
        if probes.is_empty() {
            return PERIOD;
        }
        if let Err(error) = self.maps.set_pool_window(true) {
            log::warn!("gets of sync.Pool are not counted: {error:#}");
            return PERIOD;
        }
        self.pool_windows.open = Some((now, probes));
        OPEN
    }

    fn close_pool_window(&mut self, since: Instant, probes: Vec<PoolProbes>) {
        if let Err(error) = self.maps.set_pool_window(false) {
            log::warn!("gets of sync.Pool are still counted: {error:#}");
        }
        self.pool_windows.count += 1;
        self.pool_windows.time += since.elapsed();
        drop(probes);
    }
}
