//! Every map on one screen: who writes it, who reads it, why it is of that type.
//!
//! Sizes of the maps that grow with the number of processes are set by the loader.

use crate::inflight::{FaultStart, NativeCall, SystemCall};
use crate::objects::SlotCursor;
use crate::ranges::CachedRange;
use allocscope_common::config::{DEFAULT_MIN_SIZE, INFLIGHT_SLOTS, Image, Target};
use allocscope_common::counter::{LOSS_REASONS, LiveRange, ProcessCounters, Totals};
use allocscope_common::go_call::{GO_CALL_SETS, GoCallSet};
use allocscope_common::key::{BucketKey, RangeKey, SeriesKey};
use allocscope_common::object::{OBJECT_SLOTS, Object, PLACE_SETS, PlaceSet};
use allocscope_common::range::Granule;
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf};

/// Smallest size in bytes that counts as large. Set at load time.
#[unsafe(no_mangle)]
pub static MIN_SIZE: Global<u64> = Global::new(DEFAULT_MIN_SIZE);

/// 1 where every new process is to be traced. Set at load time.
#[unsafe(no_mangle)]
pub static FOLLOW_ALL: Global<u32> = Global::new(0);

/// Where in `struct perf_sample_data` the size of the faulting page is; 0 where the kernel does not tell it. Set at
/// load time.
#[unsafe(no_mangle)]
pub static PAGE_SIZE_AT: Global<u64> = Global::new(0);

/// 1 where exec events of untraced processes are wanted too. Set at load time.
#[unsafe(no_mangle)]
pub static REPORT_EVERY_EXEC: Global<u32> = Global::new(0);

/// Traced processes by tgid. Written by the user side and, for forks, by the kernel side.
#[map]
pub static TARGETS: HashMap<u32, Target> = HashMap::with_max_entries(1024, 0);

/// Slots that no process has. Filled by the user side; both sides take from it.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1024, 0);

/// 1 where return probes cannot hurt the process, by slot; else 0. They can hurt a Go program, whose runtime
/// dies of a return trampoline on a stack that it walks, and a process with a seccomp filter: on x86-64 since
/// kernel 6.11 the trampoline makes a system call, which the filter may kill it for. Set by the user side;
/// cleared by the kernel side at an exec and before a filter comes into force.
#[map]
pub static RETURN_SAFE: Array<u32> = Array::with_max_entries(1024, 0);

/// Counters of each process, by slot: 1.5 ns a look-up, so it holds what every event counts.
#[map]
pub static PROCESSES: PerCpuArray<ProcessCounters> = PerCpuArray::with_max_entries(1024, 0);

/// Totals of each series. Per CPU, so that threads of one process do not contend.
#[map]
pub static SERIES: PerCpuHashMap<SeriesKey, Totals> = PerCpuHashMap::with_max_entries(4096, 0);

/// Histogram counts. Sparse: only buckets that were hit take memory.
#[map]
pub static BUCKETS: PerCpuHashMap<BucketKey, u64> = PerCpuHashMap::with_max_entries(16384, 0);

/// What is filed for the process in a slot, by slot. Written by the kernel side; by the user side when a slot becomes
/// free and where a process starts afresh.
#[map]
pub static IMAGES: Array<Image> = Array::with_max_entries(1024, 0);

/// Live large ranges by first address: the truth about a range that is a mapping.
#[map]
pub static RANGES: HashMap<RangeKey, LiveRange> = HashMap::with_max_entries(16384, 0);

/// Which ranges overlap a granule: the index over [`RANGES`] by any address.
#[map]
pub static GRANULES: HashMap<RangeKey, Granule> = HashMap::with_max_entries(32768, 0);

/// How many granules were ever entered into [`GRANULES`]. The kernel side never takes one out: two
/// CPUs may fill and empty the same one, and an entry that goes in between would take a range with it.
/// The user side sweeps empty ones out, when this tells that the map has filled up.
#[map]
pub static GRANULES_ADDED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The last range that a fault on this CPU fell into: first touches mostly walk one range.
#[map]
pub static LAST_RANGE: PerCpuArray<CachedRange> = PerCpuArray::with_max_entries(1, 0);

/// The range and the 2 MiB of it that the last fault on this CPU fell into, as one word, see `touch`.
#[map]
pub static LAST_BLOCK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Live objects of heaps, see [`allocscope_common::object`]: filed at every large call, so in an array.
#[map]
pub static OBJECTS: Array<Object> = Array::with_max_entries(OBJECT_SLOTS, 0);

/// Which objects overlap a granule: the index over [`OBJECTS`] by any address.
#[map]
pub static PLACES: Array<PlaceSet> = Array::with_max_entries(PLACE_SETS, 0);

/// Where a CPU looks for a free slot in [`OBJECTS`].
#[map]
pub static SLOT_CURSOR: PerCpuArray<SlotCursor> = PerCpuArray::with_max_entries(1, 0);

/// Open system calls by thread, tag-checked.
#[map]
pub static SYSTEM_CALLS: Array<SystemCall> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// Open page faults by thread, tag-checked.
#[map]
pub static FAULTS: Array<FaultStart> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// Open Go allocations by (tgid, g), tag-checked with the depth.
#[map]
pub static GO_CALLS: Array<GoCallSet> = Array::with_max_entries(GO_CALL_SETS, 0);

/// Open calls of native allocators by thread, tag-checked.
#[map]
pub static NATIVE_CALLS: Array<NativeCall> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// What was lost, by reason.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_REASONS as u32, 0);

/// Process events, in order.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
