//! The words of the workloads into what they are to do; those of pools and arenas are in [`pooled`](super::pooled).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::pooled::{
    BreakerArgs, BuffersArgs, FalseSharingArgs, LifetimesArgs, NumaArgs, PoolArgs, PressureArgs, RegionsArgs,
    RequestsArgs,
};
use super::value::{positive_size, time};

/// `workload`: programs whose costs are known, to compare a tracer's numbers with.
#[derive(Clone, Debug, Subcommand)]
#[command(after_help = "\
Each workload prints one JSON object when it ends: what it did, counted and timed by itself.

Examples:
  allocscope workload churn --seconds 30
  allocscope workload map --sizes 64KiB,1MiB,64MiB --count 100 --wait-stdin
  allocscope workload pool --seconds 10 --rate 1000
  allocscope run -- allocscope workload lifetimes --held-for 100")]
pub enum Workload {
    /// Large, middle and small allocations of the C library at a steady, moderate rate
    Churn(ChurnArgs),
    /// Blocks of the C library: allocate, touch each page once, free, each stage timed
    Blocks(BlocksArgs),
    /// Anonymous mappings of known sizes: map, touch each page once, unmap
    Map(MapArgs),
    /// Nothing but first touches, as fast as they go
    Faults(FaultsArgs),
    /// A mapping that grows, moves, gets holes and is discarded
    Remap(RemapArgs),
    /// The heap grown and shrunk in large steps
    Brk(BrkArgs),
    /// One thread maps, another touches, a third unmaps; and a child that writes to shared pages
    Threads(ThreadsArgs),
    /// First touches of a file's pages that are not in the page cache
    FileFaults(FileFaultsArgs),
    /// A system call that is not about memory, over and over
    Syscalls(RepeatArgs),
    /// 64 bytes allocated by malloc and freed, over and over
    Small(RepeatArgs),
    /// Objects taken, touched and given back: by a pool, and by malloc
    Pool(PoolArgs),
    /// Buffers of many sizes: from a buffer pool, and each time anew
    Buffers(BuffersArgs),
    /// Threads that count, with their counters on one cache line and on lines of their own
    FalseSharing(FalseSharingArgs),
    /// Requests that make many objects: in an arena that is reset, and by malloc
    Requests(RequestsArgs),
    /// Requests of which some keep a pooled object past their end, and the same where none does
    Lifetimes(LifetimesArgs),
    /// A pool that is exhausted again and again, and a breaker that leaves it alone meanwhile
    Breaker(BreakerArgs),
    /// Regions with and without prefault, of small and of huge pages
    Regions(RegionsArgs),
    /// Regions bound to each NUMA node; where there is one node, it says so
    Numa(NumaArgs),
    /// A pool that holds idle memory while other work waits for some, and gives it back; where the kernel does not tell
    /// of such waits (PSI), it says so
    Pressure(PressureArgs),
}

/// When a workload starts.
#[derive(Clone, Debug, Default, Args)]
pub struct StartArgs {
    /// Wait for a line (or the end) of standard input first, so that a tracer can attach
    #[arg(long)]
    pub wait_stdin: bool,

    /// Wait this long first
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start_delay: Option<Duration>,
}

/// `workload churn`.
#[derive(Clone, Debug, Args)]
pub struct ChurnArgs {
    /// How long; without it, until SIGINT or SIGTERM
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub seconds: Option<u64>,
    /// Threads, each at the full rate
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload blocks`.
#[derive(Clone, Debug, Args)]
pub struct BlocksArgs {
    /// Sizes to allocate, in turn
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', default_value = "64MiB", value_parser = positive_size)]
    pub sizes: Vec<u64>,
    /// Blocks of each size
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Fix glibc's thresholds at 128 KiB: each block is a mapping of its own
    #[arg(long)]
    pub pin: bool,
    /// Whether to ask for transparent huge pages
    #[arg(long, value_enum, default_value_t = HugePages::Never)]
    pub huge_pages: HugePages,
    /// Enlarge each block to twice its size by realloc, and touch what is new
    #[arg(long)]
    pub grow: bool,
    /// Let another thread touch the blocks
    #[arg(long)]
    pub other_thread: bool,
    /// Fork while a block is live, and touch it again
    #[arg(long)]
    pub fork: bool,
    /// Free nothing
    #[arg(long)]
    pub keep: bool,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload map`.
#[derive(Clone, Debug, Args)]
pub struct MapArgs {
    /// Sizes to map, in turn
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', default_value = "64KiB,1MiB,64MiB", value_parser = positive_size)]
    pub sizes: Vec<u64>,
    /// Mappings of each size, in each thread
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Threads that do it at the same time
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Whether to ask for huge pages; sizes are multiples of explicit ones
    #[arg(long, value_enum, default_value_t = MapPages::Never)]
    pub huge_pages: MapPages,
    /// Keep every mapping until all are touched, then unmap them
    #[arg(long)]
    pub hold: bool,
    /// Do not touch the pages
    #[arg(long)]
    pub no_touch: bool,
    /// Let the kernel make all pages real while it maps
    #[arg(long)]
    pub populate: bool,
    /// Let the kernel make all pages real afterwards (MADV_POPULATE_WRITE) instead of touching them
    #[arg(long, conflicts_with = "no_touch")]
    pub prefault: bool,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload faults`.
#[derive(Clone, Debug, Args)]
pub struct FaultsArgs {
    /// The mapping's size in MiB
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub mib: u64,
    /// How often to touch all of it
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rounds: u64,
    /// Read instead of write: the cheapest fault there is, as every page is the one that holds zeros
    #[arg(long)]
    pub read: bool,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload remap`.
#[derive(Clone, Debug, Args)]
pub struct RemapArgs {
    /// How often to do it all
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload brk`.
#[derive(Clone, Debug, Args)]
pub struct BrkArgs {
    /// Bytes of a step; rounded up to whole pages
    #[arg(long, default_value = "8MiB", value_name = "SIZE", value_parser = positive_size)]
    pub step: u64,
    /// Steps up, and then as many down
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub steps: u64,
    /// How often to do it all
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload threads`.
#[derive(Clone, Debug, Args)]
pub struct ThreadsArgs {
    /// Groups of three threads
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Mappings that each group passes on
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Bytes of a mapping
    #[arg(long, default_value = "4MiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload file-faults`.
#[derive(Clone, Debug, Args)]
pub struct FileFaultsArgs {
    /// Bytes of the file
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// The folder to make the file in; on a tmpfs there are no major faults. Default: the system's
    /// folder for temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `workload syscalls` and `workload small`.
#[derive(Clone, Debug, Args)]
pub struct RepeatArgs {
    /// How often; rounded down to ten thousands
    #[arg(long, default_value_t = 10_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(10_000..))]
    pub count: u64,
    /// Then so many allocations of 1 MiB, untimed
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub large: u64,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// Values of `--huge-pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// `MADV_NOHUGEPAGE`: each 4 KiB page is a fault of its own
    Never,
    /// `MADV_HUGEPAGE`
    Always,
}

/// Values of `--huge-pages` of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MapPages {
    /// `MADV_NOHUGEPAGE`: each 4 KiB page is a fault of its own
    Never,
    /// `MADV_HUGEPAGE`
    Always,
    /// `MAP_HUGETLB`: pages that the machine has set aside (sysctl vm.nr_hugepages)
    Explicit,
}
