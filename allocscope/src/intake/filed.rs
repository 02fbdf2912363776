//! Live ranges as the kernel side files them, into fewer: those that serve nobody any more go.

use super::maps::map;
use crate::probe::WholeMap;
use allocscope_common::counter::LiveRange;
use allocscope_common::key::{RangeKey, slot_of_space};
use allocscope_common::range::Granule;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use std::collections::{BTreeMap, BTreeSet};

/// Images that may end before their ranges are looked for: all that is filed is read for that, and a program that
/// begins has some ten ranges, of 16,384 that there is room for.
const OUTDATED_AT_ONCE: u32 = 64;

/// The maps of live ranges and of the granules that lead to them.
pub struct Filed {
    ranges: HashMap<MapData, RangeKey, LiveRange>,
    granules: HashMap<MapData, RangeKey, Granule>,
    all_ranges: WholeMap<RangeKey, LiveRange>,
    all_granules: WholeMap<RangeKey, Granule>,
    granules_added: PerCpuArray<MapData, u64>,
    granules_sweep_at: u64,
    granules_capacity: u64,
    /// Slots of processes whose earlier images have ranges.
    outdated: BTreeSet<u32>,
    images_outdated: u32,
}

impl Filed {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// Where the object lacks a map, or the kernel refuses a descriptor.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let (ranges, granules) = (map(ebpf, "RANGES")?, map(ebpf, "GRANULES")?);
        let granules_capacity = max_entries(&granules).context("the size of the map GRANULES is not told")?;
        Ok(Self {
            all_ranges: WholeMap::of(&ranges).context("the map RANGES cannot be read")?,
            all_granules: WholeMap::of(&granules).context("the map GRANULES cannot be read")?,
            ranges: HashMap::try_from(ranges)?,
            granules: HashMap::try_from(granules)?,
            granules_added: PerCpuArray::try_from(map(ebpf, "GRANULES_ADDED")?)?,
            granules_sweep_at: granules_capacity / 2,
            granules_capacity,
            outdated: BTreeSet::new(),
            images_outdated: 0,
        })
    }

    /// Notes that an image of the process in `slot` is over; true where so many are that they are to be forgotten now.
    pub fn outdate(&mut self, slot: u32) -> bool {
        self.outdated.insert(slot);
        self.images_outdated += 1;
        self.images_outdated >= OUTDATED_AT_ONCE
    }

    /// Forgets the ranges of images that are over; `space_of` tells the address space of the process that is in a slot.
    pub fn forget_outdated(&mut self, space_of: impl Fn(u32) -> Option<u32>) {
        self.images_outdated = 0;
        let outdated = std::mem::take(&mut self.outdated);
        let spaces: BTreeMap<u32, u32> =
            outdated.into_iter().filter_map(|slot| Some((slot, space_of(slot)?))).collect();
        if spaces.is_empty() {
            return;
        }
        let is_gone =
            |key: &RangeKey| spaces.get(&slot_of_space(key.space)).is_some_and(|&space| space != key.space);
        for (key, _) in self.all_ranges.entries(|key, _| is_gone(key)) {
            let _ = self.ranges.remove(&key);
        }
        for (key, _) in self.all_granules.entries(|key, _| is_gone(key)) {
            let _ = self.granules.remove(&key);
        }
    }

    /// Takes empty granules out, if the map may be more than half full: the kernel side only adds.
    pub fn sweep(&mut self) {
        let added: u64 = self.granules_added.get(&0, 0).map_or(0, |counts| counts.iter().sum());
        if added < self.granules_sweep_at {
            return;
        }
        let mut kept = 0;
        let empty = self.all_granules.entries(|_, granule| {
            kept += u64::from(!granule.is_empty());
            granule.is_empty()
        });
        for (key, _) in empty {
            // Filled since it was read? Then it stays, but for the moment between these two calls.
            if self.granules.get(&key, 0).is_ok_and(|granule| granule.is_empty()) {
                let _ = self.granules.remove(&key);
            }
        }
        self.granules_sweep_at = added + (self.granules_capacity / 2).saturating_sub(kept).max(1024);
    }
}

fn max_entries(map: &Map) -> Option<u64> {
    let Map::HashMap(data) = map else { return None };
    Some(u64::from(data.info().ok()?.max_entries()))
}
