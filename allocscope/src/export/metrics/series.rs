//! A process' series into its metrics: what allocations, page faults, Go's runtime and providers counted and timed.

use super::families::Families;
use super::process::Process;
use crate::aggregate::Snapshot;
use crate::export::exemplars::exemplars_of;
use crate::export::go_runtime::STOPS;
use crate::export::names::{self, size_label};
use crate::intake::SeriesReading;
use allocscope_common::go_runtime::RuntimeEvent;
use allocscope_common::key::{Series, Stage};

impl Process<'_> {
    /// Tells one series.
    pub(super) fn tell_series(
        &self,
        series: &Series,
        reading: &SeriesReading,
        snapshot: &Snapshot,
        families: &mut Families,
    ) {
        let exemplars = exemplars_of(self.process, series, snapshot);
        let (count, bytes) = (reading.totals.count as f64, reading.totals.bytes as f64);
        match *series {
            Series::Stage { allocator, stage, size_class } => {
                let size = size_label(size_class);
                let labels = self.labels(&[allocator.name(), stage.name(), &size]);
                families.add_histogram(&names::ALLOCATION_DURATION, &labels, reading, &exemplars);
                let labels = self.labels(&[allocator.name(), &size]);
                match stage {
                    Stage::Call => {
                        families.add(&names::ALLOCATIONS, &labels, count);
                        families.add(&names::ALLOCATED_BYTES, &labels, bytes);
                    }
                    Stage::Release => families.add(&names::RELEASED_BYTES, &labels, bytes),
                    Stage::Touch => families.add(&names::TOUCHED_BYTES, &labels, bytes),
                }
            }
            Series::Fault { kind, scope } => {
                let labels = self.labels(&[kind.name(), scope.name()]);
                families.add_histogram(&names::PAGE_FAULT_DURATION, &labels, reading, &exemplars);
            }
            Series::Runtime(event) => self.tell_runtime_durations(event, reading, families),
            Series::Provider(event) => {
                let labels = self.labels(&[event.name()]);
                families.add(&names::PROVIDER_EVENTS, &labels, count);
                if !event.is_sample() {
                    families.add(&names::PROVIDER_SECONDS, &labels, reading.totals.time_ns as f64 / 1e9);
                }
                let size = if event.has_bytes() { bytes } else { 0.0 };
                families.add(&names::PROVIDER_BYTES, &labels, size);
            }
        }
    }

    fn tell_runtime_durations(&self, event: RuntimeEvent, reading: &SeriesReading, families: &mut Families) {
        if let Some((_, reason)) = STOPS.iter().find(|(stop, _)| *stop == event) {
            families.add_histogram(&names::GO_STOP_DURATION, &self.labels(&[reason]), reading, &[]);
        } else if event == RuntimeEvent::Assist {
            families.add_histogram(&names::GO_ASSIST_DURATION, &self.labels(&[]), reading, &[]);
        }
    }
}
