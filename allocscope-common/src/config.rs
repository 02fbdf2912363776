//! What the user side tells the kernel side: load-time constants and the set of traced processes.

/// The default of `--min-size`, in bytes: Go (since 1.22) treats every object above this as large,
/// the lowest such threshold among the supported allocators.
pub const DEFAULT_MIN_SIZE: u64 = 32_760;

/// The most processes that slots can be given to, whatever `--max-processes` says: a slot is 16 bits
/// of an address space's number.
pub const MAX_SLOTS: u32 = 65_536;

/// Places for open calls and open faults; a power of two.
pub const INFLIGHT_SLOTS: u32 = 65_536;

/// Places for windows whose time is told by cause; a power of two. Less than [`INFLIGHT_SLOTS`], since each takes
/// some hundred bytes and few threads are in one at the same time.
pub const WINDOW_SLOTS: u32 = 8_192;

/// A traced process, keyed by its tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Where its counters are.
    pub slot: u32,
    /// [`FOLLOW_CHILDREN`], [`OWN_HEAP`].
    pub flags: u32,
    /// The program break after the last `brk`; 0 where not known yet.
    pub brk: u64,
}

/// What is filed for the process in a slot, by slot. It is not in [`Target`], which the user side writes whole, and
/// outlives it: two processes that have the same slot one after the other have different images.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// How many images the slot has had: grows when its process calls exec and when the slot becomes free.
    pub number: u32,
    /// Grows whenever a live range is filed or ends, so that what was found before can be told stale.
    pub range_generation: u32,
    /// Granule classes of live ranges, a bit each.
    pub range_classes: u64,
    /// Granule classes of live objects, a bit each.
    pub object_classes: u64,
    /// When a range was last filed, in nanoseconds: an object filed later is in none that is newer.
    pub range_filed_ns: u64,
    /// When an object was last filed, in nanoseconds: tells the same of what was found among objects.
    pub object_filed_ns: u64,
    /// 1 where a range lies in a larger one, or did; else 0.
    pub has_nested_ranges: u64,
}

/// Flag of a [`Target`]: children get a slot as they are forked.
pub const FOLLOW_CHILDREN: u32 = 1;

/// Flag of a [`Target`]: its runtime manages its own heap (Go) and its large objects are probed, so
/// anonymous mappings are heap memory and not large ranges.
pub const OWN_HEAP: u32 = 2;

/// Of a process' slot: what it runs was not looked at yet, so it has no return probes.
pub const RETURNS_UNKNOWN: u32 = 0;
/// Return probes cannot hurt the process.
pub const RETURNS_SAFE: u32 = 1;
/// Return probes could hurt the process: it has plain ones behind the calls instead, or none.
pub const RETURNS_UNSAFE: u32 = 2;

const _: () = assert!(size_of::<Target>() == 16);
const _: () = assert!(size_of::<Image>() == 48);
