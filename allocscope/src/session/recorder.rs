//! Ring records about single allocations into the slowest ones or a profile, while their processes live.

use super::examine::Examiner;
use super::spaces::Spaces;
use crate::aggregate::{Example, Profile, SlowAllocation, Slowest};
use crate::intake::{Allocations, Live, Told, TouchCauses, decode_told};
use crate::symbol::{Place, PlaceNames, Stacks, callers};
use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The ring is read so often: records do not wake anybody.
const DRAIN: Duration = Duration::from_millis(50);
/// Between two adjustments of the threshold.
const ADJUST: Duration = Duration::from_millis(250);
/// Records that are taken in before something else has its turn.
const AT_ONCE: usize = 4096;
/// The same at the end: more than the ring holds.
const AT_THE_END: usize = 262_144;
/// Slow allocations in a report.
const LISTED: usize = 10;

/// What is made of records.
#[derive(Clone, Debug)]
pub enum Sink {
    /// The slowest allocations, and those that take as long as this.
    Slowest(Duration),
    /// A profile.
    Profile,
}

enum Made {
    Slowest(Slowest),
    Profile(Box<Profile>),
}

/// Takes records in.
pub struct Recorder {
    ring: Allocations,
    slow_ns: Array<MapData, u64>,
    touch_causes: TouchCauses,
    spaces: Spaces,
    stacks: Stacks,
    made: Made,
    due: Interval,
    adjusted: Instant,
    /// Whether processes are looked at before anything is told of them.
    looks_early: bool,
}

/// A recording that is over: costs by stack, and names for the places on these.
pub struct Recording {
    /// Costs.
    pub profile: Profile,
    /// Stacks.
    pub stacks: Stacks,
    /// Names of functions by place, the innermost first.
    pub names: PlaceNames,
    /// Files by the number of their module.
    pub modules: Vec<PathBuf>,
    /// Whether all names were looked for.
    pub all_named: bool,
}

impl Recorder {
    /// Takes the ring out of the loaded object.
    ///
    /// # Errors
    /// Where the object lacks a map, or the kernel refuses a descriptor.
    pub fn take(ebpf: &mut Ebpf, sink: &Sink, looks_early: bool) -> Result<Self> {
        let touch_causes = TouchCauses::take(ebpf)?;
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"));
        let made = match sink {
            Sink::Slowest(asked) => {
                Made::Slowest(Slowest::new(u64::try_from(asked.as_nanos()).unwrap_or(u64::MAX)))
            }
            Sink::Profile => Made::Profile(Box::default()),
        };
        let mut due = interval(DRAIN);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recorder = Self {
            ring: Allocations::try_from(map("ALLOCATIONS")?)?,
            slow_ns: Array::try_from(map("SLOW_NS")?)?,
            touch_causes,
            spaces: Spaces::default(),
            stacks: Stacks::default(),
            made,
            due,
            adjusted: Instant::now(),
            looks_early,
        };
        recorder.set_threshold().context("the threshold of slow allocations cannot be set")?;
        Ok(recorder)
    }

    fn set_threshold(&mut self) -> Result<()> {
        if let Made::Slowest(slowest) = &self.made {
            self.slow_ns.set(0, slowest.threshold_ns(), 0)?;
            self.slow_ns.set(1, slowest.asked_ns(), 0)?;
        }
        Ok(())
    }

    /// Waits until the ring is to be read. Cancel-safe.
    pub async fn due(&mut self) {
        self.due.tick().await;
    }

    /// A process began, or has new code.
    pub fn look(&mut self, pid: u32) {
        if self.looks_early {
            self.spaces.look(pid);
        }
    }

    /// Takes in what is in the ring.
    pub fn drain(&mut self) {
        for _ in 0..AT_ONCE {
            if !self.take_next() {
                break;
            }
        }
        self.adjust();
    }

    /// Takes in the next record; false where there is none.
    fn take_next(&mut self) -> bool {
        let Some(told) = self.ring.next().map(|record| decode_told(&record)) else { return false };
        if let Some(told) = told {
            self.take_in(&told);
        }
        true
    }

    fn take_in(&mut self, told: &Told) {
        let stack = match &told.stack {
            Some(stack) => self.stacks.number(self.spaces.places(told.pid, stack)),
            None => 0,
        };
        match &mut self.made {
            Made::Slowest(slowest) => slowest.take(told, stack, || self.touch_causes.of(told.name)),
            Made::Profile(profile) => profile.take(told, stack),
        }
    }

    fn adjust(&mut self) {
        if self.adjusted.elapsed() < ADJUST {
            return;
        }
        self.adjusted = Instant::now();
        if let Made::Slowest(slowest) = &mut self.made {
            slowest.adjust();
            if let Err(error) = self.set_threshold() {
                log::debug!("{error:#}");
            }
        }
    }

    /// Examples of slow allocations.
    pub fn examples(&self) -> Vec<Example> {
        match &self.made {
            Made::Slowest(slowest) => slowest.examples(),
            Made::Profile(_) => Vec::new(),
        }
    }

    /// Lets go of examples that are so old; `now` is by the kernel side's clock.
    pub fn forget_examples(&mut self, now: Duration, age: Duration) {
        if let Made::Slowest(slowest) = &mut self.made {
            slowest.forget_examples(now.saturating_sub(age).as_nanos() as u64);
        }
    }

    /// The slowest allocations, without the names of functions.
    pub fn slowest(&self) -> Vec<SlowAllocation> {
        match &self.made {
            Made::Slowest(slowest) => slowest.slowest(usize::MAX, |_| true),
            Made::Profile(_) => Vec::new(),
        }
    }

    /// The slowest allocations of each process with the names of functions; `live` is what is allocated still.
    pub fn named_slowest(&mut self, live: &[Live], pids: &[u32], examiner: &Examiner) -> Vec<SlowAllocation> {
        let Made::Slowest(slowest) = &mut self.made else { return Vec::new() };
        for one in live {
            slowest.touched_so_far(one.name, one.touch_ns, one.faults, || self.touch_causes.of(one.name));
        }
        let mut found: Vec<_> =
            pids.iter().flat_map(|&pid| slowest.slowest(LISTED, |one| one.pid == pid)).collect();
        let wanted = found.iter().flat_map(|one| self.stacks.get(one.stack)).copied().collect();
        let (names, _) = self.spaces.names(&wanted, examiner);
        for one in &mut found {
            let places = callers(self.stacks.get(one.stack), &names);
            let at =
                |&(place, skipped): &(Place, usize)| names.get(&place).into_iter().flatten().skip(skipped);
            one.frames = places.iter().flat_map(at).cloned().collect();
        }
        found
    }

    /// Ends a recording; `live` is what is allocated still.
    pub fn finish(mut self, live: &[Live], examiner: &Examiner) -> Option<Recording> {
        // What the last turn left; the process may run on and fill the ring again.
        for _ in 0..AT_THE_END {
            if !self.take_next() {
                break;
            }
        }
        let Made::Profile(mut profile) = self.made else { return None };
        live.iter().for_each(|one| profile.touch(one.name, one.touch_ns, one.faults));
        let sites = profile.sites().keys();
        let wanted: BTreeSet<Place> = sites.flat_map(|site| self.stacks.get(site.stack)).copied().collect();
        let (names, all_named) = self.spaces.names(&wanted, examiner);
        let modules = (0..).map_while(|module| self.spaces.path(module).cloned()).collect();
        Some(Recording { profile: *profile, stacks: self.stacks, names, modules, all_named })
    }
}
