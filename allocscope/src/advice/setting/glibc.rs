//! glibc's thresholds: which values keep memory of the sizes seen.
//!
//! A block of `mmap_threshold` bytes or more is a mapping of its own, unmapped by `free`. Unless a threshold is
//! set, the first free of such a block raises it to the block's size, and `trim_threshold` to twice that, but never
//! above 32 MiB (`DEFAULT_MMAP_THRESHOLD_MAX`). A set value switches that off. Until 2.34 a value above 32 MiB
//! (`HEAP_MAX_SIZE / 2`) is ignored. A heap of another arena than the main one is at most 64 MiB long
//! (`HEAP_MAX_SIZE`): what does not fit is mapped, whatever the thresholds (malloc/malloc.c, malloc/arena.c).

use super::Advice;
use crate::advice::cycle::Cycles;
use crate::aggregate::Setting;

/// `DEFAULT_MMAP_THRESHOLD_MAX` and `HEAP_MAX_SIZE / 2` of 64-bit builds.
const LARGEST_OLD_THRESHOLD: u64 = 32 << 20;
/// Log2 of a user's address space on x86-64, which no threshold need exceed.
const LARGEST_CLASS: u8 = 47;
/// Two blocks of this class (log2) do not fit into one heap of `HEAP_MAX_SIZE`, nor does one of the next.
const MAIN_ARENA_CLASS: u8 = 25;

/// Thresholds above the largest class, and above twice what was live.
pub fn keep(cycles: &Cycles) -> Advice {
    let mmap_threshold = 2u64 << cycles.largest_class().min(LARGEST_CLASS);
    let kept_bytes = (cycles.kept_bytes as u64).min(1 << LARGEST_CLASS);
    let trim_threshold = (2 * kept_bytes).next_power_of_two().max(2 * mmap_threshold);
    let mut tunables =
        format!("glibc.malloc.mmap_threshold={mmap_threshold}:glibc.malloc.trim_threshold={trim_threshold}");
    let mut text =
        "the same in the program: mallopt(M_MMAP_THRESHOLD, ...), mallopt(M_TRIM_THRESHOLD, ...), \
                    whose values are ints"
            .to_owned();
    let mut risk = "one live block above freed ones keeps them all from being given back (fragmentation); calloc \
                    has to clear what it could have got as zeros";
    if cycles.largest_class() >= MAIN_ARENA_CLASS {
        tunables += ":glibc.malloc.arena_max=1";
        text += "; arena_max=1 because arenas of other threads map what does not fit into their heaps of 64 MiB: \
                 leave it out where the first thread allocates these blocks";
        risk = "one live block above freed ones keeps them all from being given back (fragmentation); calloc has \
                to clear what it could have got as zeros; with one arena all threads share its lock";
    }
    if mmap_threshold > LARGEST_OLD_THRESHOLD {
        text += "; glibc up to 2.34 takes no mmap_threshold above 33554432, there glibc.malloc.mmap_max=0 maps \
                 nothing at all";
    }
    Advice { setting: Setting { environment: vec![("GLIBC_TUNABLES", tunables)], text }, risk }
}

/// From glibc 2.35 on.
pub fn huge_pages() -> Setting {
    Setting {
        environment: vec![("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1".to_owned())],
        text: "glibc 2.35 or later advises its heap and mappings for huge pages with it, where \
               /sys/kernel/mm/transparent_hugepage/enabled says madvise; before, madvise(MADV_HUGEPAGE) on the block"
            .to_owned(),
    }
}
