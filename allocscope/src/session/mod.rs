//! One tracing run: what is traced, attached and read. The wiring between the stages, nothing else.
//!
//! Construction is in order: maps, shared probes, then processes one by one. Process events come back
//! here and lead to discovery again.

mod binaries;
mod discovery;
pub mod examine;
mod examined;
mod file_bytes;
mod options;
mod overhead;
mod pool_window;
mod price;
mod price_huge;
mod price_uprobe;
mod process_event;
mod recorder;
mod room;
mod selfmon;
mod spaces;
mod taken_out;
mod telling;
mod watch;

use crate::advice::Advisor;
use crate::aggregate::{Aggregator, Coverage};
use crate::config::AttachVia;
use crate::failure::{Exit, Failure};
use crate::intake::{Events, Maps, decode_event};
use crate::probe::{FaultRung, Loaded, SystemProbes, load};
use crate::target::{self, ProcessId, ProcessInfo};
use allocscope_common::config::{FOLLOW_CHILDREN, OWN_HEAP, Target};
use allocscope_common::event::ProcessEvent;
use anyhow::Result;
use binaries::{Attached, Binaries, Reach, Used};
use examine::Examiner;
pub use file_bytes::FileBytes;
pub use options::{AdviceOn, SessionOptions};
use overhead::Overhead;
use pool_window::PoolWindows;
use price::Prices;
pub use price_uprobe::{UprobePrices, uprobe_prices};
use recorder::Recorder;
pub use recorder::{Recording, Sink};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use watch::Watches;

/// A tracing run. Dropping it detaches everything, without a wait.
pub struct Session {
    options: SessionOptions,
    started: Instant,
    // Dropped in this order: uprobes, then the shared probes, then maps.
    binaries: Binaries,
    system: SystemProbes,
    loaded: Loaded,
    maps: Maps,
    events: AsyncFd<Events>,
    recorder: Option<Recorder>,
    _kernel_log: Option<watch::KernelLog>,
    watches: Watches,
    aggregator: Aggregator,
    advisor: Advisor,
    tracked: BTreeMap<u32, Tracked>,
    slots: BTreeSet<u32>,
    prices: Prices,
    huge_touch_ratio: Option<f64>,
    overhead: Option<Overhead>,
    over_limit: u64,
    /// Of those over the limit, how many were looked for again.
    turned_away: u64,
    pool_windows: PoolWindows,
    monotonic_began: Duration,
}

struct Tracked {
    slot: u32,
    id: ProcessId,
    used: Used,
    /// Whether its probes are those for processes under a seccomp filter.
    is_filtered: bool,
    info: ProcessInfo,
    coverage: Coverage,
}

/// What woke the session.
#[derive(Clone, Copy, Debug)]
pub enum Wakeup {
    /// Something happened to a process.
    Process(ProcessEvent),
    /// A traced process ended.
    Ended(u32),
}

impl Session {
    /// Loads and attaches what every process shares.
    ///
    /// # Errors
    /// [`Exit::Privilege`] or [`Exit::Kernel`], with one sentence.
    pub fn start(options: SessionOptions) -> Result<Self> {
        let mut prices = Prices::before_attaching();
        let huge_touch_ratio = price_huge::huge_touch_ratio();
        let mut loaded = load(&options.load_options())?;
        let kernel_log = if options.log { watch::KernelLog::start(loaded.ebpf_mut()) } else { None };
        let (mut maps, events) = Maps::take(loaded.ebpf_mut(), options.max_processes)?;
        let looks_early = options.selection.is_none();
        let recorder = match &options.sink {
            Some(sink) => Some(Recorder::take(loaded.ebpf_mut(), sink, looks_early)?),
            None => None,
        };
        let system = SystemProbes::attach(&mut loaded)?;
        prices.measure_shared(&mut maps);
        let mut reach = Reach { one_process: options.one_process, libraries_of_all: options.traces_all() };
        if !reach.one_process && !reach.libraries_of_all {
            prices.measure_uprobes(&mut loaded, &mut maps);
            reach.libraries_of_all = loaded.attached_via() == Some(AttachVia::Session);
        }
        Ok(Self {
            started: Instant::now(),
            binaries: Binaries::new(reach, options.examiner.clone()),
            system,
            recorder,
            loaded,
            maps,
            // SAFETY: the ring owns its descriptor, never changes it and closes it only when it is dropped.
            events: unsafe { AsyncFd::register(events) }?,
            _kernel_log: kernel_log,
            watches: Watches::new(),
            aggregator: Aggregator::new(options.retirement()),
            advisor: options.advisor(),
            tracked: BTreeMap::new(),
            slots: BTreeSet::new(),
            prices,
            huge_touch_ratio,
            overhead: options.max_overhead_percent.map(Overhead::new),
            over_limit: 0,
            turned_away: 0,
            pool_windows: PoolWindows::new(options.examiner.go_runtime),
            monotonic_began: Duration::ZERO,
            options,
        })
    }

    /// How page faults are seen.
    pub fn fault_rung(&self) -> FaultRung {
        self.system.fault_rung()
    }

    /// Starts tracing process `pid`; does nothing where it is traced already.
    ///
    /// # Errors
    /// The failures of [`target::describe`], and [`Exit::Internal`] where no slot is free.
    pub fn trace(&mut self, pid: u32) -> Result<()> {
        let info = target::describe(pid).map_err(Failure::from)?;
        if self.tracked.get(&pid).is_some_and(|known| known.id == info.id) {
            return Ok(());
        }
        if self.maps.target(pid).is_some() && !self.tracked.contains_key(&pid) {
            // The kernel side has given it a slot already; its fork event is under way.
            return Ok(());
        }
        let Some(slot) = self.maps.take_slot() else {
            self.over_limit += 1;
            return Err(Failure::error(
                Exit::Internal,
                format!(
                    "process {pid} is not traced: {} are traced already (--max-processes)",
                    self.tracked.len()
                ),
            ));
        };
        self.slots.insert(slot);
        let brk = target::heap_end(pid).ok().flatten().unwrap_or(0);
        let attached = self.discover(&info);
        let target = Target { slot, flags: self.flags(&attached.coverage), brk };
        self.set_return_safe(slot, pid, attached.return_safe);
        self.maps.insert_target(pid, target)?;
        self.track(slot, info, attached);
        // What it mapped between the look at it and the first of its events.
        self.attach_libraries(pid);
        Ok(())
    }

    /// Starts tracing every running process that the selection names; those that vanish or cannot be
    /// traced are passed over with a log line.
    pub fn trace_selected(&mut self) -> Result<()> {
        let Some(selection) = self.options.selection.clone() else { return Ok(()) };
        let own = std::process::id();
        for pid in target::list().map_err(Failure::from)?.filter(|&pid| pid != own) {
            let wanted = target::describe(pid).is_ok_and(|info| target::matches(&selection, &info));
            if wanted && let Err(error) = self.trace(pid) {
                log::info!("{error:#}");
            }
        }
        Ok(())
    }

    /// Waits for something to handle. Cancel-safe.
    pub async fn wait(&mut self) -> Result<Wakeup> {
        loop {
            tokio::select! {
                guard = self.events.readable_mut() => {
                    let mut guard = guard?;
                    let event = guard.get_inner_mut().next().and_then(|record| decode_event(&record));
                    match event {
                        Some(event) => return Ok(Wakeup::Process(event)),
                        None => guard.clear_ready(),
                    }
                }
                () = due(&mut self.recorder) => self.drain(),
                pid = self.watches.ended() => return Ok(Wakeup::Ended(pid)),
            }
        }
    }

    /// How many traced processes are running.
    pub fn running(&self) -> usize {
        self.tracked.len()
    }

    /// Whether process `pid` is traced and running.
    pub fn is_tracing(&self, pid: u32) -> bool {
        self.tracked.contains_key(&pid)
    }

    /// The process has code that may be new.
    fn look(&mut self, pid: u32) {
        if let Some(recorder) = &mut self.recorder {
            recorder.look(pid);
        }
    }

    /// What is due every few seconds, whether anyone reads the maps or not.
    pub fn housekeep(&mut self) {
        self.maps.sweep();
        // An event may have been lost.
        let running: Vec<u32> = self.tracked.keys().copied().collect();
        running.into_iter().for_each(|pid| self.attach_without_returns(pid));
        self.take_out_what_is_wrong();
        self.take_out_what_costs_too_much();
        self.trace_turned_away();
    }

    fn flags(&self, coverage: &Coverage) -> u32 {
        let follow = if self.options.follow_children { FOLLOW_CHILDREN } else { 0 };
        let own_heap = if coverage.own_heap { OWN_HEAP } else { 0 };
        follow | own_heap
    }

    fn track(&mut self, slot: u32, info: ProcessInfo, attached: Attached) {
        let pid = info.id.pid;
        let Attached { used, coverage, return_safe, .. } = attached;
        self.aggregator.admit(slot, info.clone(), coverage.clone());
        self.watches.watch(info.id);
        self.look(pid);
        self.tracked
            .insert(pid, Tracked { slot, id: info.id, used, is_filtered: !return_safe, info, coverage });
        // A filter may have come into force meanwhile.
        self.attach_without_returns(pid);
    }

    /// Time since tracing began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Waits until records are to be read; for ever where there are none.
async fn due(recorder: &mut Option<Recorder>) {
    match recorder {
        Some(recorder) => recorder.due().await,
        None => std::future::pending().await,
    }
}
