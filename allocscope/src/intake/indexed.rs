//! Keys with an index and the arrays that these lead into, read as one map from keys to values of each CPU.

use super::maps::{map, on_each_cpu};
use crate::probe::WholeMap;
use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuValues, Queue};
use aya::{Ebpf, Pod};

/// A map from keys to values, see [`allocscope_common::cell`].
pub(super) struct Indexed<K: Pod, V: Pod> {
    indices: HashMap<MapData, K, u32>,
    all_indices: WholeMap<K, u32>,
    values: PerCpuArray<MapData, V>,
    free: Queue<MapData, u32>,
}

impl<K: Pod, V: Pod + Default> Indexed<K, V> {
    /// Takes the maps with the indices, the values, and the indices that are free, which are all.
    pub(super) fn take(ebpf: &mut Ebpf, [indices, values, free]: [&str; 3]) -> Result<Self> {
        let indices = map(ebpf, indices)?;
        let mut taken = Self {
            all_indices: WholeMap::of(&indices).context("the map of indices cannot be read")?,
            indices: HashMap::try_from(indices)?,
            values: PerCpuArray::try_from(map(ebpf, values)?)?,
            free: Queue::try_from(map(ebpf, free)?)?,
        };
        for index in 0..taken.values.len() {
            taken.free.push(index, 0).context("the queue of free indices cannot be filled")?;
        }
        Ok(taken)
    }

    /// All keys, and what was counted for them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, PerCpuValues<V>)> {
        let entries = self.all_indices.entries(|_, _| true).into_iter();
        entries.filter_map(|(key, index)| Some((key, self.values.get(&index, 0).ok()?)))
    }

    /// What was counted for a key.
    pub(super) fn get(&self, key: &K) -> Option<PerCpuValues<V>> {
        self.values.get(&self.indices.get(key, 0).ok()?, 0).ok()
    }

    /// Forgets keys and makes their indices free.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&K) -> bool) -> Result<()> {
        for (key, index) in self.all_indices.entries(|key, _| is_gone(key)) {
            self.indices.remove(&key)?;
            // Nobody's then, so that no program that remembers the index counts for a key that is gone.
            self.values.set(index, on_each_cpu(V::default())?, 0)?;
            self.free.push(index, 0)?;
        }
        Ok(())
    }
}
