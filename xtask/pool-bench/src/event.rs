//! `pool-bench event KIND MILLISECONDS`: the same large event over and over, for tracers to be measured by.
//!
//! Writes `ready` to standard error, begins at a line of standard input, prints its truth as one line of JSON, and
//! ends when standard input does. KIND is `miss`, a pool's miss of 64 KiB that the probe `pool_miss` tells, or
//! `malloc`, 64 KiB by malloc and free. Times are of CPU time of the thread: what a tracer does is in it, what the
//! machine does meanwhile is not.

use crate::buffer::BYTES;
use crate::miss;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::hint::black_box;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

const CHUNK: u64 = 1000;
const MAX_CHUNKS: usize = 1 << 16;
/// Of the time, untimed.
const WARMING: u32 = 10;

/// Runs one kind.
pub fn run(kind: &str, milliseconds: &str) -> Result<()> {
    let time = Duration::from_millis(milliseconds.parse().context("milliseconds are no number")?);
    let pool = miss::pool();
    eprintln!("ready");
    io::stdin().read_line(&mut String::new()).context("cannot read standard input")?;
    match kind {
        "miss" => tell(time, || miss::once(&pool))?,
        // SAFETY: what malloc returned, null included, is given back once.
        "malloc" => tell(time, || unsafe { libc::free(black_box(libc::malloc(black_box(BYTES)))) })?,
        _ => bail!("there is no such kind of event"),
    }
    io::stdin().read_to_end(&mut Vec::new()).context("cannot read standard input")?;
    Ok(())
}

fn tell(time: Duration, mut once: impl FnMut()) -> Result<()> {
    let warming = chunks(time / WARMING, &mut once)?.len();
    let mut times = chunks(time, &mut once)?;
    let events = (warming + times.len()) as u64 * CHUNK;
    times.sort_unstable_by(f64::total_cmp);
    let median = times.get(times.len() / 2).context("nothing was measured")? / CHUNK as f64;
    println!("{}", json!({ "ns_per_op_median": median, "ops": events, "large": events }));
    Ok(())
}

fn chunks(time: Duration, once: &mut impl FnMut()) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(MAX_CHUNKS);
    let begun = Instant::now();
    while times.is_empty() || (times.len() < MAX_CHUNKS && begun.elapsed() < time) {
        let start = cpu_time()?;
        (0..CHUNK).for_each(|_| once());
        times.push((cpu_time()? - start).as_secs_f64() * 1e9);
    }
    Ok(times)
}

/// Of this thread.
fn cpu_time() -> Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is live and of the type that the call writes.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) } != 0 {
        bail!("cannot read the thread's CPU time");
    }
    Ok(Duration::new(u64::try_from(now.tv_sec)?, u32::try_from(now.tv_nsec)?))
}
