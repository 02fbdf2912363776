//! The kernel maps: read into a [`Reading`], and the set of traced processes.

use super::filed::Filed;
use super::indexed::Indexed;
use super::live::{Live, LiveMaps};
use super::{Reading, SeriesReading, SlotReading};
use crate::probe::{data_of, fd_info};
use allocscope_common::cell::{CountCell, TotalsCell};
use allocscope_common::config::{Image, RETURNS_SAFE, RETURNS_UNSAFE, Target};
use allocscope_common::counter::{LossReason, ProbeClass, ProcessCounters, Totals};
use allocscope_common::depth::{DepthCounts, DepthKey};
use allocscope_common::event::ProcessEvent;
use allocscope_common::go_runtime::GoStop;
use allocscope_common::key::{Allocator, BucketKey, FaultKind, FaultScope, Series, SeriesKey, space};
use allocscope_common::object::home;
use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, Queue, RingBuf};
use aya::{Ebpf, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

/// The maps of one tracing run.
pub struct Maps {
    targets: HashMap<MapData, u32, Target>,
    free_slots: Queue<MapData, u32>,
    processes: PerCpuArray<MapData, ProcessCounters>,
    return_safe: Array<MapData, u32>,
    images: Array<MapData, Image>,
    go_stops: Array<MapData, GoStop>,
    pool_window: Array<MapData, u32>,
    series: Indexed<SeriesKey, TotalsCell>,
    buckets: Indexed<BucketKey, CountCell>,
    filed: Filed,
    lost: PerCpuArray<MapData, u64>,
    depths: PerCpuHashMap<MapData, DepthKey, DepthCounts>,
    live: LiveMaps,
    /// Kernel memory that the maps hold, in bytes, as the kernel tells it.
    pub held_bytes: u64,
}

/// The ring of process events.
pub type Events = RingBuf<MapData>;

impl Maps {
    /// Takes the maps out of the loaded object and fills the queue of free slots.
    ///
    /// # Errors
    /// Where the object lacks a map, or the kernel refuses a descriptor or memory.
    pub fn take(ebpf: &mut Ebpf, max_processes: u32) -> Result<(Self, Events)> {
        let held_bytes = ebpf.maps().filter_map(|(_, map)| held_bytes(map)).sum();
        let live = LiveMaps::of(ebpf)?;
        let events = Events::try_from(map(ebpf, "EVENTS")?)?;
        let mut maps = Self {
            targets: HashMap::try_from(map(ebpf, "TARGETS")?)?,
            free_slots: Queue::try_from(map(ebpf, "FREE_SLOTS")?)?,
            processes: PerCpuArray::try_from(map(ebpf, "PROCESSES")?)?,
            return_safe: Array::try_from(map(ebpf, "RETURN_SAFE")?)?,
            images: Array::try_from(map(ebpf, "IMAGES")?)?,
            go_stops: Array::try_from(map(ebpf, "GO_STOPS")?)?,
            pool_window: Array::try_from(map(ebpf, "POOL_WINDOW")?)?,
            series: Indexed::take(ebpf, ["SERIES", "TOTALS", "FREE_TOTALS"])?,
            buckets: Indexed::take(ebpf, ["BUCKETS", "COUNTS", "FREE_COUNTS"])?,
            filed: Filed::take(ebpf)?,
            lost: PerCpuArray::try_from(map(ebpf, "LOST")?)?,
            depths: PerCpuHashMap::try_from(map(ebpf, "DEPTHS")?)?,
            live,
            held_bytes,
        };
        for slot in 0..max_processes {
            maps.free_slots.push(slot, 0).context("the queue of free slots cannot be filled")?;
        }
        Ok((maps, events))
    }

    /// A slot for a new process, or `None` where every slot is taken.
    pub fn take_slot(&mut self) -> Option<u32> {
        self.free_slots.pop(0).ok()
    }

    /// Starts counting for process `tgid`.
    ///
    /// # Errors
    /// Where the map of targets is full.
    pub fn insert_target(&mut self, tgid: u32, target: Target) -> Result<()> {
        self.targets.insert(tgid, target, 0).with_context(|| format!("process {tgid} cannot be traced"))
    }

    /// Tells whether return probes cannot hurt the process in `slot`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_return_safe(&mut self, slot: u32, safe: bool) -> Result<()> {
        Ok(self.return_safe.set(slot, if safe { RETURNS_SAFE } else { RETURNS_UNSAFE }, 0)?)
    }

    /// Opens or closes the window in which every get of a `sync.Pool` is counted.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_pool_window(&mut self, open: bool) -> Result<()> {
        Ok(self.pool_window.set(0, u32::from(open), 0)?)
    }

    /// Whether the process in `slot` is taken for safe from return probes.
    pub fn is_return_safe(&self, slot: u32) -> bool {
        self.return_safe.get(&slot, 0).is_ok_and(|returns| returns == RETURNS_SAFE)
    }

    /// What the kernel side has for process `tgid`.
    pub fn target(&self, tgid: u32) -> Option<Target> {
        self.targets.get(&tgid, 0).ok()
    }

    /// Stops counting for process `tgid`, which has ended, if `slot` is still its slot. Its live ranges stay.
    pub fn end_target(&mut self, tgid: u32, slot: u32) -> bool {
        let is_its = self.target(tgid).is_some_and(|target| target.slot == slot);
        if is_its {
            // It may have gone in between; then it is gone as it should be.
            let _ = self.targets.remove(&tgid);
        }
        is_its
    }

    /// The same of one that lives on.
    pub fn remove_target(&mut self, tgid: u32, slot: u32) {
        if self.end_target(tgid, slot) {
            // The kernel side remembers which slot a thread's process has, while the image stays the same.
            if let Err(error) = self.start_image(slot) {
                log::warn!("process {tgid} may still be traced: {error:#}");
            }
        }
    }

    /// Forgets everything counted for `slots` and makes them free.
    ///
    /// # Errors
    /// Where the kernel refuses a map operation.
    pub fn free_slots(&mut self, slots: &BTreeSet<u32>) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        self.buckets.remove(|key| slots.contains(&key.series.slot))?;
        self.series.remove(|key| slots.contains(&key.slot))?;
        let depths: Vec<_> = self.depths.keys().flatten().filter(|key| slots.contains(&key.slot)).collect();
        for key in depths {
            let _ = self.depths.remove(&key);
        }
        for &slot in slots {
            self.processes.set(slot, on_each_cpu(ProcessCounters::default())?, 0)?;
            self.start_image(slot)?;
            self.outdate(slot);
            self.go_stops.set(slot, GoStop::default(), 0)?;
            self.free_slots.push(slot, 0)?;
        }
        Ok(())
    }

    /// Gives the process in `slot` a new image: nothing that was filed for it is found any more.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn start_image(&mut self, slot: u32) -> Result<()> {
        let number = self.images.get(&slot, 0)?.number.wrapping_add(1);
        Ok(self.images.set(slot, Image { number, ..Image::default() }, 0)?)
    }

    /// Live ranges of earlier images of the process in `slot` are forgotten soon: they are found no more as it is.
    pub fn outdate(&mut self, slot: u32) {
        if self.filed.outdate(slot) {
            self.forget_outdated();
        }
    }

    /// Takes out what is filed and serves nobody any more.
    pub fn sweep(&mut self) {
        self.forget_outdated();
        self.filed.sweep();
    }

    fn forget_outdated(&mut self) {
        let Self { filed, images, .. } = self;
        filed.forget_outdated(|slot| Some(space(slot, images.get(&slot, 0).ok()?.number)));
    }

    /// Reads everything counted so far, for the processes in `slots`.
    pub fn read(&self, slots: &BTreeSet<u32>) -> Reading {
        let mut reading = Reading::default();
        for &slot in slots {
            reading
                .slots
                .insert(slot, SlotReading { counters: self.counted(slot), ..SlotReading::default() });
        }
        // Histograms first: an event in between is then in the totals and not yet in the histogram,
        // never the other way round.
        for (key, counts) in self.buckets.iter() {
            let (Some(slot), Some(series)) = (reading.slots.get_mut(&key.series.slot), key.series.decode())
            else {
                continue;
            };
            slot.series.entry(series).or_default().buckets.insert(key.bucket, sum_counts(&counts));
        }
        for (key, totals) in self.series.iter() {
            let (Some(slot), Some(series)) = (reading.slots.get_mut(&key.slot), key.decode()) else {
                continue;
            };
            let totals = sum_totals(&totals);
            if matches!(series, Series::Fault { .. }) {
                slot.counters.hits[ProbeClass::PageFault as usize] += totals.count;
            }
            slot.series.entry(series).or_default().totals = totals;
        }
        // What was all taken back; for a moment it may be more than was seen of what was counted.
        let is_counted = |reading: &SeriesReading| reading.totals.count as i64 > 0;
        reading.slots.values_mut().for_each(|slot| slot.series.retain(|_, reading| is_counted(reading)));
        for (key, counts) in self.depths.iter().flatten() {
            let allocator = u8::try_from(key.allocator).ok().and_then(Allocator::from_number);
            if let (Some(slot), Some(allocator)) = (reading.slots.get_mut(&key.slot), allocator) {
                let sum = slot.depths.entry(allocator).or_default();
                counts.iter().for_each(|count| sum.add(count));
            }
        }
        self.read_live(&mut reading);
        for &reason in LossReason::ALL {
            reading.lost[reason as usize] = self.lost(reason);
        }
        reading
    }

    /// How much was lost for one reason.
    pub fn lost(&self, reason: LossReason) -> u64 {
        self.lost.get(&(reason as u32), 0).map_or(0, |counts| counts.iter().sum())
    }

    /// Live ranges of the slots in a reading, if there are any: the maps are large.
    fn read_live(&self, reading: &mut Reading) {
        let has_live = |slot: &SlotReading| slot.counters.ranges_filed > slot.counters.ranges_ended;
        if !reading.slots.values().any(has_live) {
            return;
        }
        let numbers: BTreeMap<u32, u32> = reading
            .slots
            .keys()
            .filter_map(|slot| Some((*slot, self.images.get(slot, 0).ok()?.number)))
            .collect();
        let live = self.live.read(
            |slot, found| numbers.get(&slot).is_some_and(|&number| space(slot, number) == found),
            |slot, found| numbers.get(&slot).is_some_and(|&number| home(slot, number) == found),
        );
        for (slot, live) in live {
            if let Some(slot) = reading.slots.get_mut(&slot) {
                slot.live = live;
            }
        }
    }

    /// The first touch so far of what is allocated still.
    pub fn live(&self) -> Vec<Live> {
        self.live.touched()
    }

    /// What was counted so far for the process in `slot`, beside its series.
    pub fn counters(&self, slot: u32) -> ProcessCounters {
        let mut counters = self.counted(slot);
        counters.hits[ProbeClass::PageFault as usize] = self.faults(slot);
        counters
    }

    /// The same without page faults.
    fn counted(&self, slot: u32) -> ProcessCounters {
        self.processes
            .get(&slot, 0)
            .map_or_else(|_| ProcessCounters::default(), |values| sum_counters(&values))
    }

    /// Page faults, which the kernel side counts in their series only.
    fn faults(&self, slot: u32) -> u64 {
        let scopes = |&kind| FaultScope::ALL.iter().map(move |&scope| SeriesKey::fault(slot, kind, scope));
        let totals = FaultKind::ALL.iter().flat_map(scopes).filter_map(|key| self.series.get(&key));
        totals.map(|totals| sum_totals(&totals).count).sum()
    }
}

/// A process event out of a ring record; `None` where the record has another size.
pub fn decode_event(record: &[u8]) -> Option<ProcessEvent> {
    let word = |index: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(record.get(index * 4..index * 4 + 4)?.try_into().ok()?))
    };
    if record.len() != size_of::<ProcessEvent>() {
        return None;
    }
    let comm = record.get(16..32)?.try_into().ok()?;
    Some(ProcessEvent { kind: word(0)?, tgid: word(1)?, parent_tgid: word(2)?, slot: word(3)?, comm })
}

/// The same value for every CPU.
pub(super) fn on_each_cpu<V: Pod>(value: V) -> Result<PerCpuValues<V>> {
    let cpus = aya::util::nr_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
    Ok(PerCpuValues::try_from(vec![value; cpus])?)
}

pub(super) fn map(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"))
}

fn held_bytes(map: &Map) -> Option<u64> {
    fd_info::number(data_of(map)?.fd().as_fd(), "memlock")
}

/// What was counted on one CPU may have been taken back on another one.
fn sum_totals(values: &PerCpuValues<TotalsCell>) -> Totals {
    values.iter().map(|cell| cell.totals).fold(Totals::default(), |sum, value| Totals {
        count: sum.count.wrapping_add(value.count),
        bytes: sum.bytes.wrapping_add(value.bytes),
        time_ns: sum.time_ns.wrapping_add(value.time_ns),
        max_ns: sum.max_ns.max(value.max_ns),
    })
}

/// As [`sum_totals`].
fn sum_counts(values: &PerCpuValues<CountCell>) -> u64 {
    values.iter().fold(0, |sum, cell| sum.wrapping_add(cell.count))
}

fn sum_counters(values: &PerCpuValues<ProcessCounters>) -> ProcessCounters {
    let mut sum = ProcessCounters::default();
    for value in values.iter() {
        sum.hits.iter_mut().zip(value.hits).for_each(|(total, count)| *total += count);
        sum.untimed_faults.iter_mut().zip(value.untimed_faults).for_each(|(total, count)| *total += count);
        sum.stall_ns.iter_mut().zip(value.stall_ns).for_each(|(total, ns)| *total += ns);
        sum.call_window_ns += value.call_window_ns;
        sum.fault_in_call_ns += value.fault_in_call_ns;
        sum.fault_causes_ns += value.fault_causes_ns;
        sum.ranges_filed += value.ranges_filed;
        sum.ranges_ended += value.ranges_ended;
        sum.partial_releases += value.partial_releases;
        sum.partial_release_ns += value.partial_release_ns;
        sum.odd_results += value.odd_results;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_size_is_refused() {
        assert_eq!(decode_event(&[0; 31]), None);
        assert_eq!(decode_event(&[0; 33]), None);
        let mut bytes: Vec<u8> = [2u32, 42, 0, 7].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(*b"sixteen bytes ok");
        let event = ProcessEvent { kind: 2, tgid: 42, parent_tgid: 0, slot: 7, comm: *b"sixteen bytes ok" };
        assert_eq!(decode_event(&bytes), Some(event));
    }
}
