//! An array of the kernel side into memory of this process: its entries are read without a call of the kernel.

use super::data_of;
use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What an entry is read by; the kernel rounds the size of entries up to it (kernel/bpf/arraymap.c).
type Word = AtomicU64;

/// An array made with `BPF_F_MMAPABLE` (Linux 5.5).
pub struct MappedArray<V> {
    memory: MmapRaw,
    types: PhantomData<V>,
}

impl<V: Pod> MappedArray<V> {
    /// Words of an entry.
    const WORDS: usize = {
        assert!(size_of::<V>().is_multiple_of(size_of::<Word>()) && align_of::<V>() <= align_of::<Word>());
        size_of::<V>() / size_of::<Word>()
    };

    /// # Errors
    /// Where the map is of another type or its entries have another size, and what the kernel says.
    pub fn of(map: &Map) -> Result<Self> {
        let data = data_of(map).context("it is no array")?;
        let info = data.info()?;
        let entry = info.value_size() as usize;
        ensure!(entry == size_of::<V>(), "its entries have {entry} bytes, not {}", size_of::<V>());
        let len = info.max_entries() as usize * entry;
        let memory = MmapOptions::new().len(len).map_raw_read_only(data.fd().as_fd().as_raw_fd())?;
        Ok(Self { memory, types: PhantomData })
    }

    /// How many entries there are.
    fn len(&self) -> usize {
        self.memory.len() / size_of::<V>()
    }

    /// The entry of this number; one that is being written may be half of before and half of after.
    pub fn get(&self, index: usize) -> Option<V> {
        if index >= self.len() {
            return None;
        }
        let mut value = MaybeUninit::<V>::uninit();
        let words = value.as_mut_ptr().cast::<u64>();
        for word in 0..Self::WORDS {
            // SAFETY: the word is one of an entry below the length, mapped for as long as `self` lives and aligned, as
            // a mapping is; it may be written meanwhile, which an atomic load allows, of memory that cannot be written
            // here too. The value has as many words.
            unsafe {
                let place = self.memory.as_ptr().cast::<u64>().add(index * Self::WORDS + word);
                words.add(word).write(Word::from_ptr(place.cast_mut()).load(Ordering::Relaxed));
            }
        }
        // SAFETY: all of its words were written, and any bytes are a value of plain data.
        Some(unsafe { value.assume_init() })
    }

    /// Each entry.
    pub fn iter(&self) -> impl Iterator<Item = V> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
