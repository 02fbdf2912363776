//! jemalloc's decay: how long freed pages stay, and from which size on they do not.
//!
//! Dirty pages are purged over `dirty_decay_ms` (10 s unless set), muzzy ones over `muzzy_decay_ms` (at once, from
//! 5.3 on). Requests of `oversize_threshold` (8 MiB) and more are served by an arena that purges at once; 0 gives
//! them to the ordinary ones (jemalloc(3), "opt").

use super::Advice;
use crate::advice::cycle::Cycles;
use crate::aggregate::Setting;

/// Log2 of `oversize_threshold`.
const OVERSIZE_CLASS: u8 = 23;
/// Three times the default, so that it is a change.
const LEAST_DECAY_SECONDS: f64 = 30.0;
/// Memory that was not used for so long is not kept for the next time.
const MOST_DECAY_SECONDS: f64 = 600.0;

/// A decay ten times as long as the time from one release to the next.
pub fn keep(cycles: &Cycles, period_seconds: f64) -> Advice {
    let seconds = (10.0 * period_seconds).ceil().clamp(LEAST_DECAY_SECONDS, MOST_DECAY_SECONDS);
    let decay_ms = 1000 * seconds as u64;
    let mut conf = format!("dirty_decay_ms:{decay_ms},muzzy_decay_ms:{decay_ms}");
    if cycles.largest_class() >= OVERSIZE_CLASS {
        conf += ",oversize_threshold:0";
    }
    let text = "a jemalloc that was built into the program with a prefix reads the variable with it, such as \
                _RJEM_MALLOC_CONF for Rust's; mallctl sets the decay of a running program";
    let setting = Setting { environment: vec![("MALLOC_CONF", conf)], text: text.to_owned() };
    Advice { setting, risk: "freed pages of all sizes stay that much longer" }
}

/// `thp:always` (5.1).
pub fn huge_pages() -> Setting {
    Setting {
        environment: vec![("MALLOC_CONF", "thp:always".to_owned())],
        text: "jemalloc 5.1 or later; built with a prefix it reads the variable with it (_RJEM_MALLOC_CONF)"
            .to_owned(),
    }
}
