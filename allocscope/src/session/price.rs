//! What a probe hit costs the traced process, measured on this machine at start-up.
//!
//! allocscope is its own subject: the same small batch of system calls and first touches runs before
//! anything is attached and again while allocscope traces itself; the difference of the fastest
//! batches is the price. Batches are short and many, so that on a busy machine some run undisturbed.
//! Uprobes are measured on two functions of our own, once one is needed.

use crate::intake::Maps;
use crate::probe::Loaded;
use allocscope_common::config::Target;
use allocscope_common::counter::ProbeClass;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::time::Instant;

/// Batches; the fastest one counts, since others are disturbed.
const BATCHES: usize = 400;
/// Events in a batch.
const BATCH: usize = 32;
const PAGE: usize = 4096;
/// How often a price is measured anew that is not positive.
const TRIES: usize = 3;

/// Prices by probe class.
#[derive(Debug, Default)]
pub struct Prices {
    syscall_before_ns: Option<f64>,
    fault_before_ns: Option<f64>,
    by_class: BTreeMap<ProbeClass, f64>,
    uprobes_tried: bool,
}

impl Prices {
    /// Measures what the batches take while nothing is attached.
    pub fn before_attaching() -> Self {
        let area = Area::map();
        Self {
            syscall_before_ns: area.as_ref().map(|area| area.syscall_ns()),
            fault_before_ns: area.as_ref().map(|area| area.fault_ns()),
            ..Self::default()
        }
    }

    /// Measures system calls and page faults while allocscope traces itself.
    pub fn measure_shared(&mut self, maps: &mut Maps) {
        let (Some(syscall_before), Some(fault_before)) = (self.syscall_before_ns, self.fault_before_ns)
        else {
            return;
        };
        let Some(area) = Area::map() else { return };
        self.set(ProbeClass::Syscall, price(maps, syscall_before, || area.syscall_ns()));
        self.set(ProbeClass::PageFault, price(maps, fault_before, || area.fault_ns()));
    }

    /// Measures uprobes, once.
    pub fn measure_uprobes(&mut self, loaded: &mut Loaded, maps: &mut Maps) {
        if self.uprobes_tried {
            return;
        }
        self.uprobes_tried = true;
        traced(maps, || match super::price_uprobe::measure(loaded) {
            Ok(prices) => prices.into_iter().for_each(|(class, ns)| self.set(class, ns)),
            Err(error) => log::info!("the price of uprobes is not known: {error:#}"),
        });
    }

    /// A difference that is not positive is noise: the price is then not known.
    fn set(&mut self, class: ProbeClass, ns: f64) {
        if ns > 0.0 {
            self.by_class.insert(class, ns);
        }
    }

    /// Nanoseconds per hit, of the classes that were measured.
    pub fn by_class(&self) -> BTreeMap<ProbeClass, f64> {
        self.by_class.clone()
    }
}

/// What an event costs more while allocscope traces itself than before anything was attached. Where the machine has become
/// faster since then, so that this is not positive, more than now without being traced: the look-up of who is traced, some
/// ten nanoseconds, is not in that.
fn price(maps: &mut Maps, before_ns: f64, event_ns: impl Fn() -> f64) -> f64 {
    let mut traced_ns = || {
        let mut ns = f64::NAN;
        traced(maps, || ns = event_ns());
        ns
    };
    let at_first = traced_ns() - before_ns;
    if at_first > 0.0 {
        return at_first;
    }
    (0..TRIES).map(|_| traced_ns() - event_ns()).find(|ns| *ns > 0.0).unwrap_or(0.0)
}

/// Runs `measure` while allocscope is a traced process itself.
pub(super) fn traced(maps: &mut Maps, measure: impl FnOnce()) {
    let Some(slot) = maps.take_slot() else { return };
    let pid = std::process::id();
    let target = Target { slot, ..Target::default() };
    if maps.set_return_safe(slot, true).and_then(|()| maps.insert_target(pid, target)).is_ok() {
        measure();
    }
    maps.remove_target(pid, slot);
    if let Err(error) = maps.free_slots(&BTreeSet::from([slot])) {
        log::warn!("the self-measurement's slot cannot be freed: {error:#}");
    }
}

/// An anonymous mapping to fault in, again and again.
struct Area {
    start: *mut u8,
}

impl Area {
    const LEN: usize = BATCH * PAGE;

    fn map() -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping; nothing else is affected.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), Self::LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: within the mapping. Huge pages would make one fault of many; refusal is harmless.
        unsafe { libc::madvise(start, Self::LEN, libc::MADV_NOHUGEPAGE) };
        Some(Self { start: start.cast() })
    }

    /// The price of a first touch, in nanoseconds.
    fn fault_ns(&self) -> f64 {
        fastest(|| {
            self.discard();
            let begin = Instant::now();
            for page in 0..BATCH {
                // SAFETY: within the mapping, which nothing else knows.
                unsafe { self.start.add(page * PAGE).write_volatile(1) };
            }
            begin.elapsed().as_nanos() as f64 / BATCH as f64
        })
    }

    /// The price of a memory system call that is recorded, in nanoseconds.
    fn syscall_ns(&self) -> f64 {
        self.discard();
        fastest(|| {
            let begin = Instant::now();
            for _ in 0..BATCH {
                self.discard();
            }
            begin.elapsed().as_nanos() as f64 / BATCH as f64
        })
    }

    fn discard(&self) {
        // SAFETY: within the mapping, which holds nothing of value.
        unsafe { libc::madvise(self.start.cast(), Self::LEN, libc::MADV_DONTNEED) };
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, used by nothing else.
        unsafe { libc::munmap(self.start.cast(), Self::LEN) };
    }
}

/// The fastest of a few runs.
pub(super) fn fastest(mut run: impl FnMut() -> f64) -> f64 {
    (0..BATCHES).map(|_| run()).fold(f64::INFINITY, f64::min)
}
