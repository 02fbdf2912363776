//! What allocscope itself uses, and its clocks.

use nix::time::{ClockId, clock_gettime};
use procfs::process::Process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the clocks may come apart, by the kernel's adjustments of one and by the time between the looks at them.
const CLOCK_WAS_SET: Duration = Duration::from_secs(1);

/// Time by `CLOCK_MONOTONIC`, the clock of the kernel side.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The Unix time at which that clock stood at 0. As long as the clock is not set
/// that stays what it was `known` to be: an event has the same time whenever it is told.
pub fn monotonic_began(known: Duration) -> Duration {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = unix.saturating_sub(monotonic());
    if began.abs_diff(known) < CLOCK_WAS_SET { known } else { began }
}

/// CPU time used so far, in seconds; 0 where /proc does not tell.
pub fn cpu_seconds() -> f64 {
    let Ok(stat) = Process::myself().and_then(|process| process.stat()) else { return 0.0 };
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// Resident memory, in bytes; 0 where /proc does not tell.
pub fn resident_bytes() -> u64 {
    let Ok(memory) = Process::myself().and_then(|process| process.statm()) else { return 0 };
    memory.resident * procfs::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_time_until_the_clock_is_set() {
        let began = monotonic_began(Duration::ZERO);
        let boot = Duration::from_secs(procfs::boot_time_secs().unwrap());
        // The other clock also runs while the machine sleeps.
        assert!(began >= boot - CLOCK_WAS_SET * 2, "{began:?}, booted at {boot:?}");
        assert_eq!(monotonic_began(began), began);
        let near = began + Duration::from_millis(400);
        assert_eq!(monotonic_began(near), near);
        let before_it_was_set = began - Duration::from_secs(60);
        assert!(monotonic_began(before_it_was_set).abs_diff(began) < Duration::from_millis(400));
    }
}
