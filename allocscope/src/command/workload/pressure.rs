//! A pool that holds more than it needs while other work waits for memory: what the kernel says of that, and what the
//! pool gives back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::pace::Pace;
use super::pool_truth::{LargeBlocks, PoolTruth};
use super::room;
use super::truth::{Faults, ns, timed};
use crate::cli::pooled::PressureArgs;
use crate::pool::pressure::{DEFAULT_STALL, Host, MemoryStall, Pressure, Stall};

/// Bytes of a pooled object.
const OBJECT: u64 = 1 << 20;
/// Bytes that a round maps anew, touches and frees.
const WORK: u64 = 256 << 10;

/// What pressure did.
#[derive(Clone, Debug, Serialize)]
pub struct PressureTruth {
    workload: &'static str,
    pid: u32,
    elapsed_ns: u64,
    rounds: u64,
    /// Blocks of malloc, which wait where memory is scarce.
    work: Work,
    stall: Stalls,
    /// Bytes that the pool held idle when it was filled.
    idle_before_bytes: u64,
    /// The same at the end.
    idle_after_bytes: u64,
    /// Steps of the policy that asked for memory.
    releases: u64,
    released_bytes: u64,
    pool: PoolTruth,
    /// Calls of malloc by both.
    large: LargeBlocks,
    faults: Faults,
}

/// Blocks that are made, touched and freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Work {
    count: u64,
    bytes: u64,
    pages_touched: u64,
    touch_ns: u64,
}

/// What the kernel said of tasks that wait for memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Stalls {
    /// Readings that it gave.
    readings: u64,
    /// The largest share of ten seconds in which a task waited; null without a reading.
    highest_share: Option<f64>,
    /// Why there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl Stalls {
    fn take(&mut self, reading: Result<Stall, &'static str>) {
        match reading {
            Ok(stall) => {
                self.readings += 1;
                self.highest_share = Some(self.highest_share.unwrap_or(0.0).max(stall.some));
            }
            Err(reason) => self.note = Some(reason),
        }
    }
}

/// Works until the time is over or a signal comes.
pub fn run(args: &PressureArgs) -> anyhow::Result<PressureTruth> {
    let before = Faults::so_far()?;
    let objects = usize::try_from(args.idle.div_ceil(OBJECT))?;
    let pool = room::pool(OBJECT)?.max_idle(objects).build();
    let mut filled = (0..objects).map(|_| pool.try_get()).collect::<Result<Vec<_>, _>>()?;
    filled.iter_mut().for_each(|object| _ = room::touch(object));
    drop(filled);
    let idle_before_bytes = pool.counters().idle_bytes;

    let stalls = Arc::new(Mutex::new(Stalls::default()));
    let mut policy = policy(&stalls);
    let (mut work, mut large) = (Work::default(), LargeBlocks::default());
    let mut pace = Pace::new(&args.pace);
    let (mut rounds, begun) = (0, Instant::now());
    for round in &mut pace {
        let mut block = room::by_malloc(WORK)?;
        work.pages_touched += timed(&mut work.touch_ns, || room::touch(&mut block));
        work.count += 1;
        work.bytes += WORK;
        let now = begun.elapsed();
        policy.look(now);
        policy.step(now, &[&pool]);
        rounds = round + 1;
    }
    large.add(work.count, WORK);
    let counters = pool.counters();
    large.add(counters.misses, OBJECT);
    let released = policy.counters();
    let stall = *stalls.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(PressureTruth {
        workload: "pressure",
        pid: std::process::id(),
        elapsed_ns: ns(pace.elapsed()),
        rounds,
        work,
        stall,
        idle_before_bytes,
        idle_after_bytes: counters.idle_bytes,
        releases: released.releases(),
        released_bytes: released.released_bytes(),
        pool: counters.into(),
        large,
        faults: Faults::so_far()? - before,
    })
}

/// By the kernel's word for this process' cgroup or the machine, which is noted.
fn policy(stalls: &Arc<Mutex<Stalls>>) -> Pressure {
    let (host, stalls) = (Host::new(), Arc::clone(stalls));
    let source = move || {
        let reading = host.stall();
        stalls.lock().unwrap_or_else(PoisonError::into_inner).take(reading);
        reading
    };
    Pressure::builder().signal(MemoryStall::new(DEFAULT_STALL, source)).build()
}
