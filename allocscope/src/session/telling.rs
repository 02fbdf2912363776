//! What the kernel side counted and recorded into snapshots and profiles.

use super::recorder::{Recorder, Recording};
use super::{Session, selfmon};
use crate::aggregate::{Snapshot, ToolSnapshot};
use crate::config::AttachVia;
use allocscope_common::counter::{LossReason, ProbeClass};
use allocscope_common::site_id::StepClass;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an example is told: as long as an ended process waits for a scrape.
const EXAMPLE_AGE: Duration = Duration::from_mins(5);

impl Session {
    /// Reads the maps and tells the state.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut reading = self.maps.read(&self.slots);
        reading.lost[LossReason::ProgramSkipped as usize] += self.system.skipped_calls();
        let kernel_over_limit = reading.lost[LossReason::SlotsExhausted as usize];
        self.monotonic_began = selfmon::monotonic_began(self.monotonic_began);
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
            monotonic_began: self.monotonic_began,
            cpu_seconds: selfmon::cpu_seconds(),
            resident_bytes: selfmon::resident_bytes(),
        });
        let mut snapshot = self.aggregator.observe(&reading, self.started.elapsed());
        self.advisor.advise(&mut snapshot);
        snapshot.slowest = self.recorder.as_ref().map(Recorder::slowest).unwrap_or_default();
        snapshot.examples = self.recorder.as_ref().map(Recorder::examples).unwrap_or_default();
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

    /// Tells that a scrape that showed snapshot `sequence` was answered.
    pub fn scraped(&mut self, sequence: u64) {
        self.aggregator.scraped(sequence);
        if let Some(recorder) = &mut self.recorder {
            recorder.forget_examples(selfmon::monotonic(), EXAMPLE_AGE);
        }
    }

    /// How much longer a small call takes at most where all of them pass a probe, in nanoseconds; `None` where none is so
    /// traced, or the price is not known.
    pub fn small_cost_ns(&self) -> Option<f64> {
        let class = match self.binaries.dearest_small_hit()? {
            StepClass::Stepped => ProbeClass::UprobeStepped,
            StepClass::Emulated | StepClass::Called => ProbeClass::UprobeEmulated,
        };
        self.prices.by_class().get(&class).copied()
    }

    pub(super) fn free_retired(&mut self) {
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

    pub(super) fn drain(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.drain();
        }
    }
}
