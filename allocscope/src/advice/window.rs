//! Snapshots of one process over time into a [`Window`]: what happened between the first and the last, and what
//! was live in between.

use super::worth;
use crate::aggregate::{ProcessSnapshot, Tier};
use allocscope_common::cause::Cause;
use allocscope_common::counter::Totals;
use allocscope_common::key::{Allocator, FaultScope, Series, Stage};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a small page.
const PAGE_BYTES: f64 = 4096.0;

/// An allocator and a size class (log2, rounded down).
pub type ClassKey = (Allocator, u8);

/// A process between two moments.
#[derive(Clone, Debug)]
pub struct Window {
    /// Its length in seconds, as long as the process ran.
    pub seconds: f64,
    /// What each class did.
    pub classes: BTreeMap<ClassKey, Class>,
    /// Page faults in large ranges.
    pub faults: Totals,
    /// Time that threads of the process waited for its `mmap_lock`.
    pub mmap_lock_ns: u64,
    /// The part of the time of all calls, faults and releases in which the thread was ready to run and others had
    /// the CPU: to them it is not lost, and no setting gets it back.
    pub runnable: f64,
    /// Releases of parts of ranges, and their time.
    pub partial_releases: u64,
    /// Nanoseconds of those.
    pub partial_release_ns: u64,
    /// The most bytes of heap objects that were faulted in and not given back, at a snapshot.
    pub heap_peak_bytes: f64,
    /// Intervals in which memory was given back and faulted in.
    pub active_intervals: u32,
    /// The most time of first touch in one interval.
    pub largest_touch_ns: u64,
    /// The allocator as `Coverage` names it.
    pub allocator: String,
    /// What of it is traced.
    pub tier: Tier,
}

/// A class in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Class {
    /// Calls.
    pub call: Totals,
    /// First touches, of ranges that are over.
    pub touch: Totals,
    /// Bytes made real so far, of ranges that are live as well.
    pub real_bytes: u64,
    /// Nanoseconds of the page faults that did it.
    pub real_ns: u64,
    /// Releases.
    pub release: Totals,
    /// The most bytes at a snapshot that were asked for in the window and not released.
    pub peak_live_bytes: u64,
}

impl Class {
    /// The mean of its allocations' sizes; 0 without any.
    pub fn mean_bytes(&self) -> f64 {
        ratio(self.call.bytes as f64, self.call.count as f64)
    }

    /// The most allocations at a snapshot that were live.
    pub fn peak_live(&self) -> f64 {
        ratio(self.peak_live_bytes as f64, self.mean_bytes())
    }

    /// Whether pages of objects were faulted in whose release is not seen.
    fn is_of_heap(&self) -> bool {
        self.touch.count > self.release.count || (self.release.count == 0 && self.real_bytes > 0)
    }

    /// Nanoseconds of first touch of objects in a heap.
    pub fn heap_ns(&self) -> f64 {
        self.of_heap(self.real_ns, self.touch.time_ns)
    }

    /// The part of its touches that were of objects in a heap, of which live ones may be free: those of ranges
    /// whose release is seen come with it.
    fn of_heap(&self, real: u64, told: u64) -> f64 {
        if self.release.count == 0 {
            return real as f64;
        }
        let of_heap = self.touch.count.saturating_sub(self.release.count);
        told as f64 * ratio(of_heap as f64, self.touch.count as f64)
    }
}

impl Window {
    /// Whose setting decides over a class' memory: mappings of a process whose allocator maps by itself, and is
    /// not seen to, are that allocator's.
    pub fn family(&self, allocator: Allocator) -> Allocator {
        let unseen = self.tier <= Tier::Provider;
        match (allocator, self.allocator.as_str()) {
            (Allocator::Mmap | Allocator::Mremap, "jemalloc") => Allocator::Jemalloc,
            (Allocator::Mmap | Allocator::Mremap, "mimalloc") => Allocator::Mimalloc,
            (Allocator::Mmap | Allocator::Mremap, "tcmalloc") => Allocator::Tcmalloc,
            (Allocator::Mmap | Allocator::Mremap, "musl") => Allocator::Musl,
            (Allocator::Mmap | Allocator::Mremap, "other") => Allocator::Other,
            (Allocator::Mmap | Allocator::Mremap, "glibc") if unseen => Allocator::Glibc,
            (Allocator::Mremap, _) => Allocator::Mmap,
            (Allocator::GoArena, _) => Allocator::Go,
            (allocator, _) => allocator,
        }
    }

    /// Classes of memory that a program asked for: not stacks, address space or files.
    pub fn memory(&self) -> impl Iterator<Item = (ClassKey, &Class)> {
        self.classes
            .iter()
            .map(|(&key, class)| (key, class))
            .filter(|((allocator, _), _)| is_memory(*allocator))
    }

    /// Classes of which objects lie in a heap: not mappings, which an allocator's heap may itself lie in.
    pub fn heap_classes(&self) -> impl Iterator<Item = (ClassKey, &Class)> {
        let is_object = |allocator| !matches!(allocator, Allocator::Mmap | Allocator::Mremap);
        self.memory().filter(move |((allocator, _), class)| is_object(*allocator) && class.is_of_heap())
    }

    /// What gives a heap's memory back. Of allocators that map it themselves, unmapping does.
    pub fn given_back(&self) -> Totals {
        let maps_itself = ["jemalloc", "mimalloc", "tcmalloc"].contains(&self.allocator.as_str());
        let heap = |key: &ClassKey| match key.0 {
            Allocator::Brk | Allocator::Madvise => true,
            Allocator::Mmap | Allocator::Mremap => maps_itself && !self.is_cycled(key),
            _ => false,
        };
        let releases = self.classes.iter().filter(|(key, _)| heap(key)).map(|(_, class)| class.release);
        releases.fold(Totals::default(), sum)
    }

    /// Whether mappings of a class come and go whole, so that their cycles are their own.
    fn is_cycled(&self, key: &ClassKey) -> bool {
        self.classes.get(key).is_some_and(|class| class.call.count >= class.release.count)
    }

    /// Time of first touch of objects in a heap, in nanoseconds.
    pub fn heap_touch_ns(&self) -> f64 {
        self.heap_classes().map(|(_, class)| class.heap_ns()).sum()
    }

    /// Bytes of objects in a heap that were made real.
    pub fn heap_touched_bytes(&self) -> f64 {
        self.heap_classes().map(|(_, class)| class.of_heap(class.real_bytes, class.touch.bytes)).sum()
    }

    /// Whether page faults in large ranges made small pages real, by and large.
    pub fn has_small_pages(&self) -> bool {
        let touched = total(self.memory().map(|(_, class)| class.real_bytes));
        self.faults.count as f64 * PAGE_BYTES >= worth::SMALL_PAGES * touched as f64
    }

    /// Nanoseconds of calls, faults or releases as seconds per second, without those in which others had the CPU.
    pub fn per_second(&self, ns: f64) -> f64 {
        self.rate(ns * (1.0 - self.runnable))
    }

    /// Nanoseconds in the window as seconds per second.
    pub fn rate(&self, ns: f64) -> f64 {
        ratio(ns / 1e9, self.seconds)
    }

    /// Whether the window tells enough to say anything.
    pub fn is_long(&self) -> bool {
        self.seconds >= worth::SECONDS
    }

    /// Whether memory came and went all along, not in one burst.
    pub fn is_steady(&self) -> bool {
        let touch_ns = total(self.memory().map(|(_, class)| class.real_ns));
        self.active_intervals >= worth::ACTIVE_INTERVALS
            && self.largest_touch_ns as f64 <= worth::LARGEST_INTERVAL * touch_ns as f64
    }
}

const fn is_memory(allocator: Allocator) -> bool {
    !matches!(
        allocator,
        Allocator::Stack | Allocator::File | Allocator::Reserve | Allocator::Madvise | Allocator::Brk
    )
}

/// The snapshots of one process, as far as they are remembered: two overlapping stretches of time, so that a
/// window of at least half the length asked for is always at hand, and nothing grows with time.
#[derive(Clone, Debug)]
pub struct History {
    older: Stretch,
    newer: Option<Stretch>,
    last: Digest,
}

/// From one moment on.
#[derive(Clone, Debug)]
struct Stretch {
    began: Duration,
    ended: Duration,
    base: Digest,
    peaks: BTreeMap<ClassKey, u64>,
    heap_peak_bytes: f64,
    active_intervals: u32,
    largest_touch_ns: u64,
}

/// A process' totals at one moment.
#[derive(Clone, Debug, Default)]
struct Digest {
    classes: BTreeMap<ClassKey, Class>,
    faults: Totals,
    mmap_lock_ns: u64,
    runnable_ns: u64,
    /// Of all calls, releases and page faults, each nanosecond once.
    spent_ns: u64,
    partial_releases: u64,
    partial_release_ns: u64,
}

impl History {
    /// Of a process that is seen for the first time, at `now`. Counts that it has already are of the time since
    /// the snapshot at `before`, in which it was not.
    pub fn new(process: &ProcessSnapshot, before: Duration, now: Duration) -> Self {
        let last = Digest::default();
        let began = if Digest::of(process).has_events() { before } else { now };
        Self { older: Stretch::new(began, &last), newer: None, last }
    }

    /// Takes a snapshot in that was taken at `now`; what is longer ago than `length` is forgotten sooner or later.
    pub fn observe(&mut self, process: &ProcessSnapshot, now: Duration, length: Duration) {
        let digest = Digest::of(process);
        let interval = digest.since(&self.last);
        let stretches = [Some(&mut self.older), self.newer.as_mut()];
        stretches.into_iter().flatten().for_each(|stretch| stretch.extend(&digest, &interval, process, now));
        self.last = digest;
        self.rotate(now, length);
    }

    fn rotate(&mut self, now: Duration, length: Duration) {
        let age = |stretch: &Stretch| now.saturating_sub(stretch.began);
        match &self.newer {
            Some(newer) if age(newer) >= length / 2 => {
                self.older = newer.clone();
                self.newer = Some(Stretch::new(now, &self.last));
            }
            None if age(&self.older) >= length / 2 => self.newer = Some(Stretch::new(now, &self.last)),
            _ => {}
        }
    }

    /// The window from the oldest moment remembered to the last snapshot, which was this one.
    pub fn window(&self, process: &ProcessSnapshot) -> Window {
        self.older.window(&self.last, process)
    }
}

impl Stretch {
    fn new(began: Duration, base: &Digest) -> Self {
        Self {
            began,
            ended: began,
            base: base.clone(),
            peaks: BTreeMap::new(),
            heap_peak_bytes: 0.0,
            active_intervals: 0,
            largest_touch_ns: 0,
        }
    }

    fn extend(&mut self, digest: &Digest, interval: &Digest, process: &ProcessSnapshot, now: Duration) {
        if process.alive || interval.has_events() {
            self.ended = now;
        }
        self.active_intervals += u32::from(interval.is_active());
        self.largest_touch_ns = self.largest_touch_ns.max(interval.touch_ns());
        for (&key, class) in &digest.since(&self.base).classes {
            let live = class.call.bytes.saturating_sub(class.release.bytes);
            let peak = self.peaks.entry(key).or_default();
            *peak = live.max(*peak);
        }
        let window = self.window(digest, process);
        let in_use_bytes = window.heap_touched_bytes() - window.given_back().bytes as f64;
        self.heap_peak_bytes = self.heap_peak_bytes.max(in_use_bytes);
    }

    fn window(&self, last: &Digest, process: &ProcessSnapshot) -> Window {
        let since = last.since(&self.base);
        let runnable = ratio(since.runnable_ns as f64, since.spent_ns as f64).min(1.0);
        let Digest { mut classes, faults, mmap_lock_ns, partial_releases, partial_release_ns, .. } = since;
        for (key, class) in &mut classes {
            class.peak_live_bytes = self.peaks.get(key).copied().unwrap_or_default();
        }
        Window {
            seconds: self.ended.saturating_sub(self.began).as_secs_f64(),
            classes,
            faults,
            mmap_lock_ns,
            runnable,
            partial_releases,
            partial_release_ns,
            heap_peak_bytes: self.heap_peak_bytes,
            active_intervals: self.active_intervals,
            largest_touch_ns: self.largest_touch_ns,
            allocator: process.coverage.allocator.clone(),
            tier: process.coverage.tier,
        }
    }
}

impl Digest {
    fn of(process: &ProcessSnapshot) -> Self {
        let mut digest = Self {
            mmap_lock_ns: process.counters.stall_ns[Cause::MmapLock as usize],
            runnable_ns: process.counters.stall_ns[Cause::Runnable as usize],
            spent_ns: process.windows_ns(),
            partial_releases: process.counters.partial_releases,
            partial_release_ns: process.counters.partial_release_ns,
            ..Self::default()
        };
        for (series, reading) in &process.series {
            match *series {
                Series::Stage { allocator, stage, size_class } => {
                    let class = digest.classes.entry((allocator, size_class)).or_default();
                    *class.stage_mut(stage) = reading.totals;
                }
                Series::Fault { scope: FaultScope::Large, .. } => {
                    digest.faults = sum(digest.faults, reading.totals);
                }
                Series::Fault { scope: FaultScope::Other, .. } | Series::Runtime(_) | Series::Provider(_) => {
                }
            }
        }
        for class in digest.classes.values_mut() {
            (class.real_bytes, class.real_ns) = (class.touch.bytes, class.touch.time_ns);
        }
        for (&key, live) in &process.live {
            let class = digest.classes.entry(key).or_default();
            class.real_bytes = class.real_bytes.saturating_add(live.touched_bytes);
            class.real_ns = class.real_ns.saturating_add(live.touch_ns);
        }
        digest
    }

    /// What came since an earlier moment. Counts only grow.
    fn since(&self, earlier: &Self) -> Self {
        let class = |(&key, class): (&ClassKey, &Class)| {
            let before = earlier.classes.get(&key).copied().unwrap_or_default();
            let [call, touch, release] = [
                difference(class.call, before.call),
                difference(class.touch, before.touch),
                difference(class.release, before.release),
            ];
            let real_bytes = class.real_bytes.saturating_sub(before.real_bytes);
            let real_ns = class.real_ns.saturating_sub(before.real_ns);
            (key, Class { call, touch, release, real_bytes, real_ns, peak_live_bytes: 0 })
        };
        Self {
            classes: self.classes.iter().map(class).collect(),
            faults: difference(self.faults, earlier.faults),
            mmap_lock_ns: self.mmap_lock_ns.saturating_sub(earlier.mmap_lock_ns),
            runnable_ns: self.runnable_ns.saturating_sub(earlier.runnable_ns),
            spent_ns: self.spent_ns.saturating_sub(earlier.spent_ns),
            partial_releases: self.partial_releases.saturating_sub(earlier.partial_releases),
            partial_release_ns: self.partial_release_ns.saturating_sub(earlier.partial_release_ns),
        }
    }

    fn touch_ns(&self) -> u64 {
        let memory = self.classes.iter().filter(|((allocator, _), _)| is_memory(*allocator));
        total(memory.map(|(_, class)| class.real_ns))
    }

    fn has_events(&self) -> bool {
        let counts = |class: &Class| class.call.count | class.touch.count | class.release.count;
        self.classes.values().any(|class| counts(class) > 0)
    }

    /// Memory came and went.
    fn is_active(&self) -> bool {
        self.touch_ns() > 0 && self.classes.values().any(|class| class.release.count > 0)
    }
}

impl Class {
    fn stage_mut(&mut self, stage: Stage) -> &mut Totals {
        match stage {
            Stage::Call => &mut self.call,
            Stage::Touch => &mut self.touch,
            Stage::Release => &mut self.release,
        }
    }
}

fn difference(later: Totals, earlier: Totals) -> Totals {
    Totals {
        count: later.count.saturating_sub(earlier.count),
        bytes: later.bytes.saturating_sub(earlier.bytes),
        time_ns: later.time_ns.saturating_sub(earlier.time_ns),
        max_ns: later.max_ns,
    }
}

/// Both together.
pub fn sum(a: Totals, b: Totals) -> Totals {
    Totals {
        count: a.count.saturating_add(b.count),
        bytes: a.bytes.saturating_add(b.bytes),
        time_ns: a.time_ns.saturating_add(b.time_ns),
        max_ns: a.max_ns.max(b.max_ns),
    }
}

/// Of counts that come from outside: too many stay the most there are.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// A part of a whole; 0 of nothing.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
