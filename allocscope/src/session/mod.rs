//! One tracing run: what is traced, attached and read. The wiring between the stages, nothing else.
//!
//! Construction is in order: maps, shared probes, then processes one by one. Process events come back
//! here and lead to discovery again.

mod binaries;
mod discovery;
pub mod examine;
mod examined;
mod file_bytes;
mod overhead;
mod pool_window;
mod price;
mod price_huge;
mod price_uprobe;
mod recorder;
mod selfmon;
mod spaces;
mod taken_out;
mod watch;

use crate::advice::Advisor;
use crate::aggregate::{Aggregator, Coverage, Retirement, Snapshot, Tier, ToolSnapshot};
use crate::config::{AttachVia, PageFaults, Selection};
use crate::failure::{Exit, Failure};
use crate::intake::{Events, Maps, decode_event};
use crate::probe::{FaultRung, LoadOptions, Loaded, SystemProbes, load};
use crate::target::{self, ProcessId, ProcessInfo};
use allocscope_common::allocation;
use allocscope_common::config::{FOLLOW_CHILDREN, OWN_HEAP, Target};
use allocscope_common::counter::{LossReason, ProbeClass};
use allocscope_common::event::{NO_SLOT, ProcessEvent, ProcessEventKind};
use allocscope_common::key::slot_of_space;
use anyhow::Result;
use binaries::{Attached, Binaries, Reach, Used};
use examine::Examiner;
pub use file_bytes::FileBytes;
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

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Sizes below this are not large, in bytes.
    pub min_size_bytes: u64,
    /// The most processes traced at once.
    pub max_processes: u32,
    /// Whether the children of a traced process are traced from their fork on.
    pub follow_children: bool,
    /// Whether one process is traced and no other: then the code of others that run the same binary is
    /// left as it is.
    pub one_process: bool,
    /// The only way to attach uprobes by, if not the best one.
    pub attach_via: Option<AttachVia>,
    /// What is done for each page fault.
    pub page_faults: PageFaults,
    /// How files are examined.
    pub examiner: Examiner,
    /// Which processes are traced as they appear; `None` where only those asked for by pid are.
    pub selection: Option<Selection>,
    /// The most that tracing may cost a process, in percent of one CPU.
    pub max_overhead_percent: Option<f64>,
    /// Whether time off the CPU is told apart.
    pub off_cpu: bool,
    /// What is made of single allocations; `None` where they are not told.
    pub sink: Option<Sink>,
    /// Whether stack depths are counted.
    pub stack_depth: bool,
    /// Whether the kernel side's diagnostics are read.
    pub log: bool,
    /// Which time findings are about.
    pub advice: AdviceOn,
}

/// Which time findings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdviceOn {
    /// All since tracing began.
    Run,
    /// The last minutes.
    Recent,
}

/// At the usual interval between scrapes, 15 s or 30 s, twenty or ten of them.
const RECENT: Duration = Duration::from_secs(300);

impl SessionOptions {
    /// Where processes are selected by name, a scrape is to see an ended one; else the final report is, and
    /// all of them.
    fn retirement(&self) -> Retirement {
        match self.selection {
            Some(_) => Retirement::default(),
            None => Retirement { max_ended: self.max_processes as usize, max_age: Duration::MAX },
        }
    }

    /// A report tells of the whole run, a scrape of what goes on.
    fn advisor(&self) -> Advisor {
        match self.advice {
            AdviceOn::Run => Advisor::of_run(),
            AdviceOn::Recent => Advisor::of_last(RECENT),
        }
    }
}

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
    pool_windows: PoolWindows,
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
        let follow_all = matches!(options.selection, Some(Selection::All));
        let by_name = matches!(options.selection, Some(Selection::Comm(_) | Selection::Exe(_)));
        let reach = Reach { one_process: options.one_process, libraries_of_all: follow_all };
        let mut prices = Prices::before_attaching();
        let huge_touch_ratio = price_huge::huge_touch_ratio();
        let mut loaded = load(&LoadOptions {
            min_size_bytes: options.min_size_bytes,
            max_processes: options.max_processes,
            follow_all,
            report_every_exec: by_name || follow_all,
            go_runtime: options.examiner.go_runtime,
            log: options.log,
            attach_via: options.attach_via,
            page_faults: options.page_faults,
            off_cpu: options.off_cpu,
            recording: recording_of(options.sink.as_ref()),
            stack_depth: options.stack_depth,
        })?;
        let kernel_log = if options.log { watch::KernelLog::start(loaded.ebpf_mut()) } else { None };
        let (mut maps, events) = Maps::take(loaded.ebpf_mut(), options.max_processes)?;
        let looks_early = options.selection.is_none();
        let recorder = match &options.sink {
            Some(sink) => Some(Recorder::take(loaded.ebpf_mut(), sink, looks_early)?),
            None => None,
        };
        let system = SystemProbes::attach(&mut loaded)?;
        prices.measure_shared(&mut maps);
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
            pool_windows: PoolWindows::new(options.examiner.go_runtime),
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

    /// Takes in what [`Self::wait`] returned.
    pub fn handle(&mut self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::Process(event) => self.handle_event(&event),
            Wakeup::Ended(pid) => {
                // What it did last comes first: an exec that nobody has heard of yet, a child.
                while let Some(event) = self.next_event() {
                    self.handle_event(&event);
                }
                self.end(pid);
            }
        }
    }

    fn next_event(&mut self) -> Option<ProcessEvent> {
        self.events.get_mut().next().and_then(|record| decode_event(&record))
    }

    fn handle_event(&mut self, event: &ProcessEvent) {
        match u8::try_from(event.kind).ok().and_then(ProcessEventKind::from_number) {
            Some(ProcessEventKind::Fork) => self.forked(event),
            Some(ProcessEventKind::Exec) => self.executed(event),
            Some(ProcessEventKind::Map) => self.attach_libraries(event.tgid),
            Some(ProcessEventKind::Filter) => self.attach_without_returns(event.tgid),
            // The process ends when its last thread does, which its handle tells.
            Some(ProcessEventKind::Exit) => log::debug!("the first thread of process {} exited", event.tgid),
            None => {}
        }
    }

    /// What a small allocation costs a process more where all of them pass a probe, in nanoseconds; `None` where
    /// none is so traced, or the price is not known.
    pub fn small_cost_ns(&self) -> Option<f64> {
        let filtered = self.tracked.values().any(|known| known.coverage.tier == Tier::Filtered);
        filtered.then(|| self.prices.by_class().get(&ProbeClass::UprobeEmulated).copied())?
    }

    /// How many traced processes are running.
    pub fn running(&self) -> usize {
        self.tracked.len()
    }

    /// Whether process `pid` is traced and running.
    pub fn is_tracing(&self, pid: u32) -> bool {
        self.tracked.contains_key(&pid)
    }

    /// Reads the maps and tells the state.
    pub fn snapshot(&mut self) -> Snapshot {
        let reading = self.maps.read(&self.slots);
        let kernel_over_limit = reading.lost[LossReason::SlotsExhausted as usize];
        self.aggregator.describe_tool(ToolSnapshot {
            probe_price_ns: self.prices.by_class(),
            huge_touch_ratio: self.huge_touch_ratio,
            processes_over_limit: self.over_limit + kernel_over_limit,
            attached_via: self.loaded.attached_via().map(AttachVia::name),
            page_sizes_known: self.loaded.knows_page_sizes(),
            page_faults_via: self.system.fault_rung().name(),
            system_calls_via: self.system.call_rung().name(),
            map_bytes: self.maps.held_bytes,
            pool_windows: self.pool_windows.count,
            pool_window_seconds: self.pool_windows.time.as_secs_f64(),
            cpu_seconds: selfmon::cpu_seconds(),
            resident_bytes: selfmon::resident_bytes(),
        });
        let mut snapshot = self.aggregator.observe(&reading, self.started.elapsed());
        self.advisor.advise(&mut snapshot);
        snapshot.slowest = self.recorder.as_ref().map(Recorder::slowest).unwrap_or_default();
        self.free_retired();
        snapshot
    }

    /// The last snapshot of a run, with the names of the functions that allocated slowly.
    pub fn last_snapshot(&mut self) -> Snapshot {
        self.drain();
        let mut snapshot = self.snapshot();
        if let Some(recorder) = &mut self.recorder {
            let pids: Vec<u32> = snapshot.processes.iter().map(|process| process.info.id.pid).collect();
            snapshot.slowest = recorder.named_slowest(&self.maps.live(), &pids, &self.options.examiner);
        }
        snapshot
    }

    /// Ends the recording of a profile; `None` where none was recorded.
    pub fn finish_recording(&mut self) -> Option<Recording> {
        self.recorder.take()?.finish(&self.maps.live(), &self.options.examiner)
    }

    fn drain(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.drain();
        }
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
    }

    /// Tells that a scrape that showed snapshot `sequence` was answered.
    pub fn scraped(&mut self, sequence: u64) {
        self.aggregator.scraped(sequence);
    }

    fn free_retired(&mut self) {
        let retired: BTreeSet<u32> = self.aggregator.take_retired().into_iter().collect();
        if let Err(error) = self.maps.free_slots(&retired) {
            log::warn!("slots of ended processes cannot be freed: {error:#}");
            return;
        }
        for slot in retired {
            self.slots.remove(&slot);
            self.aggregator.freed(slot);
        }
    }

    fn flags(&self, coverage: &Coverage) -> u32 {
        let follow = if self.options.follow_children { FOLLOW_CHILDREN } else { 0 };
        let own_heap = if coverage.own_heap { OWN_HEAP } else { 0 };
        follow | own_heap
    }

    fn track(&mut self, slot: u32, info: ProcessInfo, attached: Attached) {
        let pid = info.id.pid;
        let Attached { used, coverage, return_safe } = attached;
        self.aggregator.admit(slot, info.clone(), coverage.clone());
        self.watches.watch(info.id);
        self.look(pid);
        self.tracked
            .insert(pid, Tracked { slot, id: info.id, used, is_filtered: !return_safe, info, coverage });
        // A filter may have come into force meanwhile.
        self.attach_without_returns(pid);
    }

    /// A child of a traced process, which the kernel side has given a slot already.
    fn forked(&mut self, event: &ProcessEvent) {
        if event.slot == NO_SLOT
            || self.tracked.get(&event.tgid).is_some_and(|known| known.slot == event.slot)
        {
            return;
        }
        self.end(event.tgid);
        self.slots.insert(event.slot);
        match target::describe(event.tgid) {
            Ok(info) => {
                let attached = self.discover(&info);
                self.set_flags(event.tgid, &attached.coverage);
                self.set_return_safe(event.slot, event.tgid, attached.return_safe);
                self.track(event.slot, info, attached);
            }
            Err(error) => {
                log::debug!("{error}");
                self.track_departed(event);
            }
        }
    }

    /// A child that ended before it could be looked at: it was its parent's image, and what it became
    /// after, its later events tell. They are read before its end is: the handle that cannot be had of it
    /// reports that.
    fn track_departed(&mut self, event: &ProcessEvent) {
        let id = ProcessId { pid: event.tgid, start_ticks: 0 };
        let Some(parent) = self.tracked.get(&event.parent_tgid) else {
            self.maps.remove_target(event.tgid, event.slot);
            self.aggregator.ended(event.slot);
            return;
        };
        let info = ProcessInfo { id, comm: comm_of(event), ..parent.info.clone() };
        let coverage = parent.coverage.clone();
        self.track(event.slot, info, Attached { used: Used::nothing(), coverage, return_safe: false });
    }

    /// Starts tracing a process that has just become one of those selected.
    fn adopt(&mut self, pid: u32) {
        let over_limit = self.over_limit;
        if let Err(error) = self.trace(pid) {
            log::debug!("{error:#}");
        }
        if matches!(self.options.selection, Some(Selection::All)) {
            // The kernel side counted it at its fork.
            self.over_limit = over_limit;
        }
    }

    /// A process has a new image: everything known of the old one is void.
    fn executed(&mut self, event: &ProcessEvent) {
        let pid = event.tgid;
        let described = target::describe(pid);
        let wanted = match (&self.options.selection, &described) {
            (Some(selection), Ok(info)) => target::matches(selection, info) && pid != std::process::id(),
            _ => true,
        };
        let Some(known) = self.tracked.remove(&pid) else {
            if wanted && self.options.selection.is_some() {
                self.adopt(pid);
            }
            return;
        };
        let Ok(info) = described else {
            // Gone already: of the new image only its name is known.
            let info = ProcessInfo { comm: comm_of(event), ..known.info.clone() };
            self.aggregator.admit(known.slot, info.clone(), known.coverage.clone());
            self.tracked.insert(pid, Tracked { info, ..known });
            return;
        };
        if !wanted {
            self.tracked.insert(pid, known);
            self.end(pid);
            return;
        }
        let attached = self.discover(&info);
        self.binaries.release(known.used);
        self.set_flags(pid, &attached.coverage);
        let slot = known.slot;
        self.set_return_safe(slot, pid, attached.return_safe);
        let space = self.maps.space(slot);
        self.maps.forget_ranges(|key| slot_of_space(key.space) == slot && Some(key.space) != space);
        self.track(slot, info, attached);
    }

    /// Tells the kernel side that a process manages its own heap. The process runs meanwhile: what the
    /// kernel side wrote in these microseconds is overwritten, so its ranges start afresh.
    fn set_flags(&mut self, pid: u32, coverage: &Coverage) {
        let flags = self.flags(coverage);
        if flags & OWN_HEAP == 0 {
            return;
        }
        if let Some(target) = self.maps.target(pid) {
            let started = self.maps.start_image(target.slot);
            if let Err(error) =
                started.and_then(|()| self.maps.insert_target(pid, Target { flags, ..target }))
            {
                log::debug!("{error:#}");
            }
        }
    }

    fn end(&mut self, pid: u32) {
        let Some(known) = self.tracked.remove(&pid) else { return };
        self.maps.end_target(pid, known.slot);
        self.watches.forget(pid);
        self.binaries.release(known.used);
        self.aggregator.ended(known.slot);
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

fn recording_of(sink: Option<&Sink>) -> allocation::Recording {
    match sink {
        None => allocation::Recording::Off,
        Some(Sink::Slowest(_)) => allocation::Recording::Slow,
        Some(Sink::Profile) => allocation::Recording::All,
    }
}

/// The short name in an event.
fn comm_of(event: &ProcessEvent) -> String {
    let end = event.comm.iter().position(|&byte| byte == 0).unwrap_or(event.comm.len());
    String::from_utf8_lossy(&event.comm[..end]).into_owned()
}
