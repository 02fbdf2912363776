//! Pressure stall information of the kernel into what may stay: half of it for each step while tasks wait for memory.

use super::band::{Band, Latch};
use super::text::lines;
use super::{Asked, Keep, Signal};
use std::time::Duration;

/// The band unless another is given: a tenth of the time, down to a hundredth.
pub const DEFAULT_STALL: Band = Band::of(0.1, 0.01);

/// Shares of the last ten seconds in which tasks waited for memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// In which at least one waited.
    pub some: f64,
    /// In which all waited; the machine's file of old kernels lacks it.
    pub full: Option<f64>,
}

impl Stall {
    /// Of a text such as `some avg10=1.50 avg60=0.20 avg300=0.00 total=12` and the same of `full`.
    pub fn parse(text: &str) -> Option<Self> {
        let of = |kind: &str| lines(text).take(8).find_map(|line| tenth_seconds(line.strip_prefix(kind)?));
        Some(Self { some: of("some ")?, full: of("full ") })
    }
}

/// The share of `avg10=`, which is per cent with two decimals.
fn tenth_seconds(fields: &str) -> Option<f64> {
    let value = fields.split(' ').take(8).find_map(|field| field.strip_prefix("avg10="))?;
    let per_cent: f64 = value.parse().ok()?;
    (0.0..=100.0).contains(&per_cent).then_some(per_cent / 100.0)
}

/// The signal of tasks that wait for memory. The kernel says how long they wait and not how much is lacking: so half of
/// what is idle goes at each step while they wait.
pub struct MemoryStall<S> {
    source: S,
    latch: Latch,
    reading: Result<Stall, &'static str>,
}

impl<S: FnMut() -> Result<Stall, &'static str> + Send> MemoryStall<S> {
    /// From where readings come; see [`Host`](super::Host).
    pub fn new(band: Band, source: S) -> Self {
        Self { source, latch: Latch::new(band), reading: Err("no reading yet") }
    }

    /// Whether the high mark was reached and the low one not since.
    pub fn begun(&self) -> bool {
        self.latch.begun()
    }
}

impl<S: FnMut() -> Result<Stall, &'static str> + Send> Signal for MemoryStall<S> {
    fn name(&self) -> &'static str {
        "memory_stall"
    }

    fn look(&mut self, _now: Duration) {
        self.reading = (self.source)();
    }

    fn keep(&mut self, asked: &Asked) -> Keep {
        match self.reading {
            Err(reason) => Keep::Unknown(reason),
            Ok(stall) if self.latch.step(stall.some, true) => Keep::Bytes(half(asked)),
            Ok(_) => Keep::All,
        }
    }
}

/// Half of what is idle, or nothing of it where half is less than what is worth it.
fn half(asked: &Asked) -> usize {
    let half = asked.idle_bytes / 2;
    if asked.idle_bytes - half < asked.least_bytes { 0 } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "some avg10=12.50 avg60=4.00 avg300=0.10 total=123456\n\
                        full avg10=3.25 avg60=1.00 avg300=0.00 total=23456\n";

    #[test]
    fn both_lines_are_read() {
        assert_eq!(Stall::parse(TEXT), Some(Stall { some: 0.125, full: Some(0.0325) }));
        let old = TEXT.lines().next().unwrap();
        assert_eq!(Stall::parse(old), Some(Stall { some: 0.125, full: None }));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for value in ["nan", "inf", "-1", "101", "", "1e400", "0x1"] {
            assert_eq!(Stall::parse(&format!("some avg10={value} avg60=0")), None, "{value}");
        }
        assert_eq!(Stall::parse("full avg10=1.00"), None);
        assert_eq!(Stall::parse(""), None);
    }

    #[test]
    fn half_goes_at_each_step_until_tasks_wait_no_more() {
        let mut shares = [0.05, 0.2, 0.05, 0.01, 0.05].into_iter();
        let mut signal =
            MemoryStall::new(DEFAULT_STALL, move || Ok(Stall { some: shares.next().unwrap(), full: None }));
        let mut keep = |idle_bytes| {
            signal.look(Duration::ZERO);
            signal.keep(&Asked { now: Duration::ZERO, idle_bytes, least_bytes: 300 })
        };
        let steps = [keep(1000), keep(1000), keep(500), keep(0), keep(1000)];
        assert_eq!(steps, [Keep::All, Keep::Bytes(500), Keep::Bytes(0), Keep::All, Keep::All]);
    }

    #[test]
    fn without_the_kernels_file_it_says_so() {
        let mut signal = MemoryStall::new(DEFAULT_STALL, || Err("absent"));
        signal.look(Duration::ZERO);
        let asked = Asked { now: Duration::ZERO, idle_bytes: 1, least_bytes: 0 };
        assert_eq!(signal.keep(&asked), Keep::Unknown("absent"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Not in Miri, where patterns of text are slow to make.
        #[cfg(not(miri))]
        #[test]
        fn no_text_panics(text in "(some |full |avg10=|avg60=|[0-9.]{0,5}|nan| |\n){0,20}") {
            if let Some(stall) = Stall::parse(&text) {
                prop_assert!((0.0..=1.0).contains(&stall.some));
            }
        }
    }
}
