//! The eBPF object into loaded maps: sizes and constants are set here and nowhere else.

use super::faults::page_size_at;
use super::held::Holder;
use super::kernel_types::KERNEL;
use super::ladder::Ladder;
use super::raw::RawObject;
use crate::config::{AttachVia, PageFaults};
use crate::failure::{Exit, Failure};
use allocscope_common::allocation::{Recording, TOUCH_CAUSES};
use allocscope_common::config::MAX_SLOTS;
use allocscope_common::touch::HUGE_SHIFT;
use anyhow::Result;
use aya::{Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use procfs::Current as _;
use std::rc::Rc;

/// The kernel side, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/allocscope-ebpf"));

/// What is fixed when the kernel side is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Sizes below this are not large, in bytes.
    pub min_size_bytes: u64,
    /// The most processes traced at once, 1 to 65,536.
    pub max_processes: u32,
    /// Trace every process that is forked.
    pub follow_all: bool,
    /// Report the exec of untraced processes too.
    pub report_every_exec: bool,
    /// Record what Go's runtime does.
    pub go_runtime: bool,
    /// Load the kernel side's diagnostics (`-v`).
    pub log: bool,
    /// The only way to attach uprobes by, if not the best one.
    pub attach_via: Option<AttachVia>,
    /// What is done for each page fault.
    pub page_faults: PageFaults,
    /// Watch the scheduler, so that time off the CPU is told apart.
    pub off_cpu: bool,
    /// Which single allocations are recorded.
    pub recording: Recording,
    /// Whether stack depths are counted.
    pub stack_depth: bool,
}

impl Default for LoadOptions {
    /// For one process, to try what this machine allows.
    fn default() -> Self {
        Self {
            min_size_bytes: 0,
            max_processes: 1,
            follow_all: false,
            report_every_exec: false,
            go_runtime: false,
            log: false,
            attach_via: None,
            page_faults: PageFaults::Timed,
            off_cpu: true,
            recording: Recording::Off,
            stack_depth: false,
        }
    }
}

/// The loaded kernel side: maps exist, programs are not attached.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) ladder: Ladder,
    pub(super) holder: Holder,
    pub(super) kernel_types: Option<Rc<Btf>>,
    pub(super) page_faults: PageFaults,
    /// Where a fault's sample tells the size of its page; 0 where it does not.
    pub(super) page_size_at: u64,
    pub(super) off_cpu: bool,
    /// Whether the kernel makes calls of probed instructions; `None` until it was tried.
    pub(super) makes_calls: Option<bool>,
    /// The most processes traced at once.
    pub max_processes: u32,
}

impl Loaded {
    /// How uprobes were attached last.
    pub fn attached_via(&self) -> Option<AttachVia> {
        self.ladder.used()
    }

    /// Whether the kernel tells the size of the page that a fault is served with. Where faults are only counted, that is
    /// done before they are served.
    pub const fn knows_page_sizes(&self) -> bool {
        self.page_size_at != 0 && matches!(self.page_faults, PageFaults::Timed)
    }

    /// The maps and programs.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Creates the maps. Programs are loaded as they are attached.
///
/// # Errors
/// [`Exit::Kernel`] where the kernel lacks a map type, [`Exit::Privilege`] where it refuses.
pub fn load(options: &LoadOptions) -> Result<Loaded> {
    let processes = options.max_processes.clamp(1, MAX_SLOTS);
    // For each process: four fault series and some ten of allocators' stages and size classes; forty
    // buckets of each; bounded so that the whole stays in tens of megabytes.
    let series = processes.saturating_mul(24).clamp(4_096, 65_536);
    let buckets = processes.saturating_mul(256).clamp(16_384, 131_072);
    let ranges = processes.saturating_mul(64).clamp(16_384, 65_536);
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("TARGETS", processes)
        .map_max_entries("FREE_SLOTS", processes)
        .map_max_entries("PROCESSES", processes)
        .map_max_entries("RETURN_SAFE", processes)
        .map_max_entries("IMAGES", processes)
        .map_max_entries("GO_STOPS", processes)
        .map_max_entries("SERIES", series)
        .map_max_entries("TOTALS", series)
        .map_max_entries("FREE_TOTALS", series)
        .map_max_entries("BUCKETS", buckets)
        .map_max_entries("COUNTS", buckets)
        .map_max_entries("FREE_COUNTS", buckets)
        .map_max_entries("RANGES", ranges)
        .map_max_entries("GRANULES", ranges * 2)
        .map_max_entries("ALLOCATIONS", ring_bytes(options.recording))
        .map_max_entries("TOUCH_CAUSES", touch_causes(options.recording))
        .map_max_entries(
            "DEPTHS",
            if options.stack_depth { processes.saturating_mul(4).min(16_384) } else { 1 },
        );
    // Where it is not known, the program that needs it is not attached.
    let task_pid_offset = KERNEL.task_pid_at.map_or(0, u64::from);
    let follow_all = u32::from(options.follow_all);
    let page_size_at = page_size_at().unwrap_or(0);
    let report_every_exec = u32::from(options.report_every_exec);
    let (page_fault_event, thp_fault_event) =
        (KERNEL.page_fault.unwrap_or(-1), KERNEL.thp_fault.unwrap_or(-1));
    let major_fault_event = KERNEL.major_fault.unwrap_or(-1);
    let go_runtime = u32::from(options.go_runtime);
    let hugetlb_shift = hugetlb_shift();
    // aya-log's levels: 0 is off, 4 is debug.
    let log_level: u8 = if options.log { 4 } else { 0 };
    let stack_depth = u32::from(options.stack_depth);
    let recording = options.recording as u32;
    let own = std::process::id();
    loader
        .override_global("RECORDING", &recording, true)
        .override_global("OWN_TGID", &own, true)
        .override_global("STACK_DEPTH", &stack_depth, true)
        .override_global("TASK_PID_OFFSET", &task_pid_offset, true)
        .override_global("MIN_SIZE", &options.min_size_bytes, true)
        .override_global("FOLLOW_ALL", &follow_all, true)
        .override_global("REPORT_EVERY_EXEC", &report_every_exec, true)
        .override_global("PAGE_FAULT_EVENT", &page_fault_event, true)
        .override_global("THP_FAULT_EVENT", &thp_fault_event, true)
        .override_global("MAJOR_FAULT_EVENT", &major_fault_event, true)
        .override_global("PAGE_SIZE_AT", &page_size_at, true)
        .override_global("HUGETLB_SHIFT", &hugetlb_shift, true)
        .override_global("GO_RUNTIME", &go_runtime, true)
        .override_global("AYA_LOG_LEVEL", &log_level, false);
    // Writing its log takes the verifier longer than verifying; nobody reads it unless asked for.
    let verifier_log = if options.log { VerifierLogLevel::default() } else { VerifierLogLevel::DISABLE };
    loader.verifier_log_level(verifier_log);
    let ebpf = loader.load(OBJECT).map_err(explain)?;
    let object = RawObject::bind(OBJECT, &ebpf)
        .inspect_err(|error| log::warn!("uprobes are left to perf events: {error:#}"));
    let ladder = Ladder::new(options.attach_via, object.ok());
    Ok(Loaded {
        ebpf,
        ladder,
        holder: Holder::new(),
        kernel_types: None,
        page_faults: options.page_faults,
        page_size_at,
        off_cpu: options.off_cpu,
        makes_calls: None,
        max_processes: processes,
    })
}

/// Allocations whose first touch is kept by cause.
fn touch_causes(recording: Recording) -> u32 {
    if recording == Recording::Slow { TOUCH_CAUSES } else { 1 }
}

/// Log2 of the size of explicit huge pages where a mapping names none: the machine's, or else that of most.
fn hugetlb_shift() -> u32 {
    let machine = procfs::Meminfo::current().ok().and_then(|memory| memory.hugepagesize);
    machine.filter(|bytes| bytes.is_power_of_two()).map_or(HUGE_SHIFT, u64::ilog2)
}

/// Bytes of the ring of single allocations, a power of two. It is read every 50 ms; a record has 16 KiB at most.
fn ring_bytes(recording: Recording) -> u32 {
    match recording {
        Recording::Off => 4096,
        Recording::Slow => 4 << 20,
        Recording::All => 32 << 20,
    }
}

fn explain(error: EbpfError) -> anyhow::Error {
    let text = format!("{:#}", anyhow::Error::new(error));
    let exit = if text.contains("Operation not permitted") || text.contains("Permission denied") {
        Exit::Privilege
    } else {
        Exit::Kernel
    };
    Failure::error(exit, format!("the kernel refused allocscope's maps ({text}); run `allocscope doctor`"))
}
