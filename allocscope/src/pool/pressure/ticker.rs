//! A policy into a thread that follows it, for those who ask for one; it ends with its handle.

use super::{Pressure, Release};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::Step;

/// A thread that looks and steps at intervals until this is dropped.
#[must_use = "its thread ends when it is dropped"]
#[derive(Debug)]
pub struct Ticker {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    last: Arc<Mutex<Option<Step>>>,
}

impl Ticker {
    /// Starts the thread; an error where there can be no thread.
    pub fn start(
        pressure: Pressure,
        holders: Vec<Arc<dyn Release + Send + Sync>>,
        every: Duration,
    ) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let last = Arc::new(Mutex::new(None));
        let told = Arc::clone(&last);
        let mut pressure = pressure;
        let run = move || {
            let began = Instant::now();
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let step = tick(&mut pressure, began.elapsed(), &holders);
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
            }
        };
        let thread = Builder::new().name("pool-pressure".to_owned()).spawn(run)?;
        Ok(Self { end: Some(end), thread: Some(thread), last })
    }

    /// What the last step did; `None` before the first.
    pub fn last(&self) -> Option<Step> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn tick(pressure: &mut Pressure, now: Duration, holders: &[Arc<dyn Release + Send + Sync>]) -> Step {
    pressure.look(now);
    let holders: Vec<&dyn Release> = holders.iter().map(|holder| holder as &dyn Release).collect();
    pressure.step(now, &holders)
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.end = None;
        // A signal or a holder that panicked has ended the thread, and said so on standard error.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Half;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Held(AtomicUsize);

    impl Release for Held {
        fn idle_bytes(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }

        fn release(&self, bytes: usize) -> usize {
            self.0.fetch_sub(bytes, Ordering::SeqCst);
            bytes
        }
    }

    #[test]
    fn it_steps_until_it_is_dropped() {
        let held = Arc::new(Held(AtomicUsize::new(1024)));
        let pressure = Pressure::builder().signal(Half).least_bytes(1).every(Duration::ZERO).build();
        let counters = pressure.counters();
        let text = format!("{pressure:?}");
        assert!(text.starts_with(r#"Pressure { signals: ["half"], least_bytes: 1,"#), "{text}");
        let holders: Vec<Arc<dyn Release + Send + Sync>> = vec![Arc::clone(&held) as _];
        let ticker = Ticker::start(pressure, holders, Duration::from_millis(1)).unwrap();
        while held.idle_bytes() > 0 || ticker.last().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(ticker);
        let steps = counters.steps();
        assert_eq!((counters.releases(), counters.released_bytes()), (11, 1024));
        assert_eq!(Arc::strong_count(&held), 1, "the thread is gone");
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(counters.steps(), steps);
    }
}
