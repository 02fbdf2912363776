//! What allocscope itself uses.

use procfs::process::Process;

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
