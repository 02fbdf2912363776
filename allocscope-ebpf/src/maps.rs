//! Every map on one screen: who writes it, who reads it, why it is of that type.
//!
//! Sizes of the maps that grow with the number of processes are set by the loader.

use crate::inflight::{NativeCall, SystemCalls};
use crate::record::Recent;
use crate::slots::SlotCursor;
use crate::slow::Sampling;
use crate::thread::FaultSlot;
use crate::window::{Parked, Window};
use allocscope_common::allocation::{AllocationKey, MAX_FRAMES};
use allocscope_common::cell::{CountCell, RECENT_SLOTS, TotalsCell};
use allocscope_common::config::{DEFAULT_MIN_SIZE, INFLIGHT_SLOTS, Image, Target, WINDOW_SLOTS};
use allocscope_common::counter::{LOSS_REASONS, LiveRange, ProcessCounters};
use allocscope_common::depth::{DepthCounts, DepthKey};
use allocscope_common::go_call::{GO_CALL_SETS, GoCallSet, PARKED_SLOTS};
use allocscope_common::go_runtime::{GoAssist, GoStop};
use allocscope_common::key::{BucketKey, RangeKey, SeriesKey};
use allocscope_common::object::{OBJECT_SLOTS, Object, PLACE_SETS, PlaceSet};
use allocscope_common::phases::Split;
use allocscope_common::range::Granule;
use allocscope_common::touch::{TOUCH_SLOTS, Touch};
use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf};

/// Smallest size in bytes that counts as large. Set at load time.
#[unsafe(no_mangle)]
pub static MIN_SIZE: Global<u64> = Global::new(DEFAULT_MIN_SIZE);

/// 1 where every new process is to be traced. Set at load time.
#[unsafe(no_mangle)]
pub static FOLLOW_ALL: Global<u32> = Global::new(0);

/// Where in `struct perf_sample_data` the size of the thread page is; 0 where the kernel does not tell it. Set at
/// load time.
#[unsafe(no_mangle)]
pub static PAGE_SIZE_AT: Global<u64> = Global::new(0);

/// Log2 of the size of explicit huge pages where a mapping names none. Set at load time.
#[unsafe(no_mangle)]
pub static HUGETLB_SHIFT: Global<u32> = Global::new(allocscope_common::touch::HUGE_SHIFT);

/// 1 where exec events of untraced processes are wanted too. Set at load time.
#[unsafe(no_mangle)]
pub static REPORT_EVERY_EXEC: Global<u32> = Global::new(0);

/// The number of `PGFAULT` among the kernel's events (`enum vm_event_item`), which differs between kernels; -1 where
/// it is not known. Set at load time.
#[unsafe(no_mangle)]
pub static PAGE_FAULT_EVENT: Global<i32> = Global::new(-1);

/// The number of `THP_FAULT_ALLOC`, of the same kind.
#[unsafe(no_mangle)]
pub static THP_FAULT_EVENT: Global<i32> = Global::new(-1);

/// The number of `PGMAJFAULT`, of the same kind.
#[unsafe(no_mangle)]
pub static MAJOR_FAULT_EVENT: Global<i32> = Global::new(-1);

/// 1 where what Go's runtime does is recorded. Set at load time.
#[unsafe(no_mangle)]
pub static GO_RUNTIME: Global<u32> = Global::new(0);

/// [`allocscope_common::allocation::Recording`] as a number: which single allocations are recorded. Set at load time.
#[unsafe(no_mangle)]
pub static RECORDING: Global<u32> = Global::new(0);

/// allocscope's own process. Set at load time.
#[unsafe(no_mangle)]
pub static OWN_TGID: Global<u32> = Global::new(0);

/// 1 where stack depths are counted. Set at load time.
#[unsafe(no_mangle)]
pub static STACK_DEPTH: Global<u32> = Global::new(0);

/// Offset of `pid` in the kernel's `task_struct`, in bytes. Set at load time, from the kernel's own type information.
#[unsafe(no_mangle)]
pub static TASK_PID_OFFSET: Global<u64> = Global::new(0);

/// Traced processes by tgid. Written by the user side and, for forks, by the kernel side.
#[map]
pub static TARGETS: HashMap<u32, Target> = HashMap::with_max_entries(1024, 0);

/// Slots that no process has. Filled by the user side; both sides take from it.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1024, 0);

/// Whether return probes can hurt the process, by slot: `RETURNS_SAFE` and its like of the configuration. They can hurt
/// a Go program, whose runtime dies of a return trampoline on a stack that it walks, and a process with a seccomp filter:
/// on x86-64 since kernel 6.11 the trampoline makes a system call, which the filter may kill it for. Set by the user
/// side; by the kernel side at a fork, at an exec and before a filter comes into force.
#[map]
pub static RETURN_SAFE: Array<u32> = Array::with_max_entries(1024, 0);

/// Counters of each process, by slot: 1.5 ns a look-up, so it holds what every event counts.
#[map]
pub static PROCESSES: PerCpuArray<ProcessCounters> = PerCpuArray::with_max_entries(1024, 0);

/// The index of each series in [`TOTALS`]. Written by the kernel side; entries are removed by the user side.
#[map]
pub static SERIES: HashMap<SeriesKey, u32> = HashMap::with_max_entries(4096, 0);

/// The index of each histogram bucket in [`COUNTS`]. Sparse: only buckets that were hit have one.
#[map]
pub static BUCKETS: HashMap<BucketKey, u32> = HashMap::with_max_entries(16384, 0);

/// Totals of the series. Per CPU, so that threads of one process do not contend.
#[map]
pub static TOTALS: PerCpuArray<TotalsCell> = PerCpuArray::with_max_entries(4096, 0);

/// Histogram counts.
#[map]
pub static COUNTS: PerCpuArray<CountCell> = PerCpuArray::with_max_entries(16384, 0);

/// Indices in [`TOTALS`] that no series has. Filled by the user side; both sides take from it.
#[map]
pub static FREE_TOTALS: Queue<u32> = Queue::with_max_entries(4096, 0);

/// Indices in [`COUNTS`] that no bucket has.
#[map]
pub static FREE_COUNTS: Queue<u32> = Queue::with_max_entries(16384, 0);

/// Indices that this CPU has looked up.
#[map]
pub static RECENT: PerCpuArray<Recent> = PerCpuArray::with_max_entries(RECENT_SLOTS, 0);

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

/// Page faults that the kernel counted during the trial of one way to see their end.
#[map]
pub static FAULT_TRIALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The faults of live ranges since they were filed, by a hash of where they begin: adding to them needs no look-up
/// in [`RANGES`]. Where two ranges have the same place, the later one counts its faults in its own entry there. The
/// user side maps it: it is read whole for each snapshot.
#[map]
pub static TOUCHES: Array<Touch> = Array::with_max_entries(TOUCH_SLOTS, BPF_F_MMAPABLE);

/// The range and the 2 MiB of it that the last fault on this CPU fell into, as one word, see `touch`.
#[map]
pub static LAST_BLOCK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Live objects of heaps, see [`allocscope_common::object`]: filed at every large call, so in an array. Mapped as
/// [`TOUCHES`] is.
#[map]
pub static OBJECTS: Array<Object> = Array::with_max_entries(OBJECT_SLOTS, BPF_F_MMAPABLE);

/// Which objects overlap a granule: the index over [`OBJECTS`] by any address.
#[map]
pub static PLACES: Array<PlaceSet> = Array::with_max_entries(PLACE_SETS, 0);

/// Where a CPU looks for a free slot in [`OBJECTS`].
#[map]
pub static SLOT_CURSOR: PerCpuArray<SlotCursor> = PerCpuArray::with_max_entries(1, 0);

/// Open system calls by thread, tag-checked, and the last `mmap` of each.
#[map]
pub static SYSTEM_CALLS: Array<SystemCalls> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// The open page fault of each thread and where its last one fell, tag-checked.
#[map]
pub static FAULTS: Array<FaultSlot> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// What open windows' time has gone to so far, by thread, tag-checked.
#[map]
pub static WINDOWS: Array<Window> = Array::with_max_entries(WINDOW_SLOTS, 0);

/// Windows of goroutines' calls whose threads run other goroutines, by when they began.
#[map]
pub static PARKED: Array<Parked> = Array::with_max_entries(PARKED_SLOTS, 0);

/// Open Go allocations by (tgid, g), tag-checked with the depth.
#[map]
pub static GO_CALLS: Array<GoCallSet> = Array::with_max_entries(GO_CALL_SETS, 0);

/// Small calls that this CPU has seen where a probe is on their path.
#[map]
pub static SMALL_HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The last assist of a goroutine, by (tgid, g), tag-checked.
#[map]
pub static GO_ASSISTS: Array<GoAssist> = Array::with_max_entries(GO_CALL_SETS, 0);

/// Stops of Go's world, by slot. Cleared by the user side when a slot becomes free.
#[map]
pub static GO_STOPS: Array<GoStop> = Array::with_max_entries(1024, 0);

/// 1 while every `sync.Pool.Get` is counted. Set by the user side.
#[map]
pub static POOL_WINDOW: Array<u32> = Array::with_max_entries(1, 0);

/// Open calls of native allocators by thread, tag-checked.
#[map]
pub static NATIVE_CALLS: Array<NativeCall> = Array::with_max_entries(INFLIGHT_SLOTS, 0);

/// What was lost, by reason.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_REASONS as u32, 0);

/// Process events, in order.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Single allocations: their calls with stacks, and what their memory cost. Grown by the loader where they are recorded.
#[map]
pub static ALLOCATIONS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What takes as long is slow, in nanoseconds: now, and for whoever asked. Set by the user side, the first again and
/// again.
#[map]
pub static SLOW_NS: Array<u64> = Array::with_max_entries(2, 0);

/// How much a CPU has recorded lately.
#[map]
pub static SAMPLING: PerCpuArray<Sampling> = PerCpuArray::with_max_entries(1, 0);

/// What page faults of single allocations spent on causes other than their service. An allocation that is over leaves
/// its entry to be forgotten.
#[map]
pub static TOUCH_CAUSES: LruHashMap<AllocationKey, Split> = LruHashMap::with_max_entries(1, 0);

/// Histograms of stack depths.
#[map]
pub static DEPTHS: PerCpuHashMap<DepthKey, DepthCounts> = PerCpuHashMap::with_max_entries(1, 0);

/// Where frames are written that are only counted.
#[map]
pub static FRAMES: PerCpuArray<[u64; MAX_FRAMES]> = PerCpuArray::with_max_entries(1, 0);
