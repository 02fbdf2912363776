//! All entries of a map, some thousand with each call of the kernel.

use super::data_of;
use aya::Pod;
use aya::maps::Map;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// linux/bpf.h, since 5.6.
const BPF_MAP_LOOKUP_BATCH: i32 = 24;
/// Entries of a call. More than the entries of any one bucket of a hash map, as the kernel wants.
const BATCH: usize = 2048;
/// More calls than the largest map needs.
const MAX_CALLS: usize = 1024;

/// `union bpf_attr`, its part for BPF_MAP_LOOKUP_BATCH (linux/bpf.h).
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// A map that is read whole.
pub struct WholeMap<K, V> {
    map: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> WholeMap<K, V> {
    /// `None` where the map is of another type, its entries have another size, or no descriptor is to be had.
    pub fn of(map: &Map) -> Option<Self> {
        let data = data_of(map)?;
        let info = data.info().ok()?;
        let fits = info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<V>();
        let map = data.fd().as_fd().try_clone_to_owned().ok()?;
        fits.then_some(Self { map, types: PhantomData })
    }

    /// Those entries that are wanted; one that comes or goes meanwhile may be missing. What cannot be read is logged.
    pub fn entries(&self, mut is_wanted: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let mut entries = Vec::new();
        let read = self.for_each(|key, value| {
            if is_wanted(key, value) {
                entries.push((*key, *value));
            }
        });
        if let Err(error) = read {
            log::warn!("a map of the kernel side cannot be read: {error}");
        }
        entries
    }

    fn for_each(&self, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
        let (mut keys, mut values) = (vec![zero::<K>(); BATCH], vec![zero::<V>(); BATCH]);
        let mut cursor = None;
        for _ in 0..MAX_CALLS {
            let (count, next) = self.look_up(cursor, &mut keys, &mut values)?;
            keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
            if next.is_none() {
                return Ok(());
            }
            cursor = next;
        }
        Ok(())
    }

    /// How many entries were read, and where the next ones begin, if there are any.
    fn look_up(
        &self,
        cursor: Option<u64>,
        keys: &mut [K],
        values: &mut [V],
    ) -> io::Result<(usize, Option<u64>)> {
        let mut next = 0u64;
        let mut attr = LookupBatch {
            in_batch: cursor.as_ref().map_or(0, |at| (&raw const *at) as u64),
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: keys.len().min(values.len()) as u32,
            map_fd: self.map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: both arrays have room for `count` entries of the map's sizes (`of`), which are plain data; a
        // cursor is four bytes here, a hash map's bucket.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<LookupBatch>())
        };
        let count = (attr.count as usize).min(keys.len());
        match io::Error::last_os_error() {
            _ if result == 0 => Ok((count, Some(next))),
            // The end: what was read is good.
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, None)),
            error => Err(error),
        }
    }
}

/// Nothing but zeros.
fn zero<T: Pod>() -> T {
    // SAFETY: any bytes are a value of plain data.
    unsafe { std::mem::zeroed() }
}
