//! The command line into a [`Cli`]: every flag checked for form, none acted upon.

pub mod budget;
pub mod pooled;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use allocscope_common::config::{DEFAULT_MIN_SIZE, MAX_SLOTS};
use bytesize::ByteSize;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use regex::Regex;

use crate::failure::Exit;
use budget::Budget;
use pooled::{
    BreakerArgs, BuffersArgs, FalseSharingArgs, LifetimesArgs, NumaArgs, PoolArgs, RegionsArgs, RequestsArgs,
};

/// The port that `daemon` listens on unless told otherwise. Prometheus' list of default ports starts
/// at 9100 and is filled upwards, so this one is well above the crowded part (to be entered there before a
/// release); it is also clear of Kubernetes' (10248 to 10259), Zabbix' (10050, 10051) and the ephemeral ports
/// (from 32768).
pub const DEFAULT_PORT: u16 = 10_789;

/// The largest size taken from the command line: a whole address space with five-level page tables.
const MAX_SIZE_BYTES: u64 = 1 << 57;

const RUN_HELP: &str = "\
The command keeps its own standard streams and signals; allocscope exits as it does. With --budget, where the
command succeeds, allocscope exits with 120 if a limit is broken, else with 121 if one cannot be judged. A command
that fails has its own exit code, whatever came of the limits: they are told all the same.

Examples:
  allocscope run -- ./server --port 80
  allocscope run --min-size 1MiB --no-follow-children -- make -j4
  allocscope run --env LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 -- ./server
  allocscope run --budget 'first_touch_p99<5ms,large_allocs<1000,faults<1e6' --junit budget.xml -- ./bench";

const EXAMPLES: &str = "\
Examples:
  allocscope attach --pid 4242 --duration 30s    what large allocations cost process 4242
  allocscope run -- ./server --port 80           the same from the first instruction on
  allocscope advise --pid 4242                   what would make it faster, and what that rests on
  allocscope daemon --comm '^(nginx|envoy)$'     metrics of all such processes for Prometheus
  allocscope record --pid 4242 -d 30s -o p.pb.gz which code pays for them, as a profile
  allocscope inspect 4242                        where probes would go, attaching none
  allocscope doctor                              what this machine allows";

/// Shows what large allocations really cost a running process: the allocator's call, the page faults
/// of first touch, and the release.
#[derive(Debug, Parser)]
#[command(name = "allocscope", version, after_help = after_help(), subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Say more about what is done; twice for still more
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Global options")]
    pub verbose: u8,

    /// When to use colour; `auto` is for terminals, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = ColorArg::Auto, value_name = "WHEN", global = true, help_heading = "Global options")]
    pub color: ColorArg,

    /// What to do.
    #[command(subcommand)]
    pub command: CommandArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum CommandArgs {
    /// Trace a running process and report what its large allocations cost
    Attach(AttachArgs),
    /// Start a command and trace it from its first instruction on
    Run(RunArgs),
    /// Observe a process or a command and tell what would make it faster, with the numbers behind it
    Advise(AdviseArgs),
    /// Trace many processes and serve their metrics to Prometheus
    Daemon(DaemonArgs),
    /// Record which code pays for its large allocations: a profile or a flame graph
    Record(RecordArgs),
    /// Show which allocator a process or file uses and where probes would go
    Inspect(InspectArgs),
    /// Check what this machine allows: kernel, privileges, settings
    Doctor(DoctorArgs),
    /// Run a bundled workload that knows its own costs and prints them as JSON
    #[command(subcommand)]
    Workload(Workload),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, in roff
    Man(ManArgs),
}

/// `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope attach --pid 4242
  allocscope attach --pid 4242 --duration 10s --min-size 1MiB --format json")]
pub struct AttachArgs {
    /// The process to trace
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: u32,

    /// Stop after this time, such as 30s or 5m; else on Ctrl-C or when the process ends
    #[arg(long, short, value_name = "TIME", value_parser = positive_time)]
    pub duration: Option<Duration>,

    /// Trace the children that the process forks from now on, too
    #[arg(long)]
    pub follow_children: bool,

    /// What to trace and how to tell it.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = run_after_help())]
pub struct RunArgs {
    /// Trace the command's children, too (the default)
    #[arg(long, overrides_with = "no_follow_children")]
    pub follow_children: bool,

    /// Trace the command itself only
    #[arg(long)]
    pub no_follow_children: bool,

    /// Set an environment variable for the command only; may be given more than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = environment)]
    pub env: Vec<(String, String)>,

    /// Compare the run with limits, such as first_touch_p99<5ms,large_allocs<1000 (see below)
    #[arg(long, short, value_name = "LIMITS")]
    pub budget: Option<Budget>,

    /// Write what came of the limits to a file as JUnit XML
    #[arg(long, value_name = "FILE", requires = "budget")]
    pub junit: Option<PathBuf>,

    /// What to trace and how to tell it.
    #[command(flatten)]
    pub trace: TraceArgs,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `advise`.
#[derive(Debug, Args)]
#[command(after_help = "\
Findings: threshold_churn, huge_pages, over_allocation, release_storm. Each says what it would save, what that
rests on, the setting for the allocator at hand, its risk and how to check it. Below a hundredth of a CPU, ten
events and a second of observation nothing is told. Findings are not an error unless --fail-on-finding is given;
a command's own failure comes first.

Examples:
  allocscope advise --pid 4242
  allocscope advise --pid 4242 --duration 1m --format json
  allocscope advise -- ./server --port 80")]
#[command(group(clap::ArgGroup::new("subject").required(true).args(["pid", "command"])))]
pub struct AdviseArgs {
    /// The process to observe
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: Option<u32>,

    /// How long to observe it, such as 30s or 5m; a command is observed to its end
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = positive_time, conflicts_with = "command")]
    pub duration: Duration,

    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Set an environment variable for the command only, such as a setting that was advised; may be given more
    /// than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = environment, requires = "command")]
    pub env: Vec<(String, String)>,

    /// How to write the findings
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,

    /// Exit with code 11 where there are findings
    #[arg(long)]
    pub fail_on_finding: bool,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,

    /// The command and its arguments; its children are observed too
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How probes are put, in all commands that trace.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Attach uprobes this way only; else the best that the kernel has is used
    #[arg(long, value_enum, value_name = "WAY")]
    pub attach_via: Option<AttachViaArg>,

    /// A folder of separate debug files, searched by build-id before the system's; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Probe malloc and its family themselves, so that every size is seen: each small call is slowed down, by
    /// as much as is told at the start
    #[arg(long)]
    pub allow_small_cost: bool,

    /// Trace Go's runtime as well: stops of the world, assists, collections, what goes back to the system, and
    /// sync.Pool, whose every Get is probed for 100 ms every 10 s
    #[arg(long)]
    pub go_runtime: bool,

    /// Where tracing costs a process more than this percentage of one CPU, take its uprobes out, and if that is
    /// not enough leave it alone; the report says so
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub max_overhead: Option<f64>,

    /// What is done for each page fault: counting alone costs the fewest nanoseconds, and then no first touch has
    /// a duration
    #[arg(long, value_enum, default_value = "timed", value_name = "WHAT")]
    pub page_faults: PageFaultsArg,

    /// Do not watch the scheduler: time off the CPU then counts with what the thread was at, and no context switch
    /// of any program on the machine costs the tenth of a microsecond more that watching takes
    #[arg(long)]
    pub no_off_cpu: bool,
}

/// Values of `--page-faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PageFaultsArg {
    /// Counted, attributed to the allocation it is in, and timed
    Timed,
    /// Counted and attributed
    Counted,
}

/// Values of `--attach-via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachViaArg {
    /// Uprobe sessions (kernel 6.13)
    Session,
    /// uprobe_multi links (kernel 6.6)
    Multi,
    /// Perf events: slow to detach
    Perf,
}

/// What `attach` and `run` share.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Report this often (100ms to 1h); without it, once at the end
    #[arg(long, short, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,

    /// How to write reports
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,

    /// Serve metrics to Prometheus meanwhile, at an address such as 127.0.0.1:10789
    #[arg(long, short, value_name = "ADDR", value_parser = listen)]
    pub listen: Option<SocketAddr>,

    /// Which single allocations are told.
    #[command(flatten)]
    pub slow: SlowArgs,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// `record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each allocation is recorded with the stack of its call; past some 3,800 a second on a CPU, one in 2, 4 or more, \
which then counts for as many. Times of allocations that are still live at the end are those so far.

Examples:
  allocscope record --pid 4242 --duration 30s -o large.pb.gz
  allocscope record --pid 4242 -d 10s --format svg --weight touch -o touch.svg
  allocscope record -o - --format folded -- ./server --port 80")]
pub struct RecordArgs {
    /// The process to record
    #[arg(long, short, value_name = "PID", value_parser = pid_parser(), required_unless_present = "command", conflicts_with = "command")]
    pub pid: Option<u32>,

    /// Stop after this time, such as 30s or 5m; else on Ctrl-C or when the process ends
    #[arg(long, short, value_name = "TIME", value_parser = positive_time)]
    pub duration: Option<Duration>,

    /// Where to write to; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,

    /// What to write: a profile for `go tool pprof`, stacks with their weights, or a flame graph
    #[arg(long, short, value_enum, default_value_t = ProfileFormatArg::Pprof)]
    pub format: ProfileFormatArg,

    /// What stacks are weighted by, in folded stacks and flame graphs; a profile has all
    #[arg(long, short, value_enum, default_value_t = WeightArg::Bytes)]
    pub weight: WeightArg,

    /// Smallest allocation to record, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Record the children of the process, too
    #[arg(long)]
    pub follow_children: bool,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,

    /// The command to start and record, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Values of `record --format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileFormatArg {
    /// profile.proto, packed by gzip
    Pprof,
    /// A line for each stack: functions, outermost first, and a number
    Folded,
    /// A flame graph
    Svg,
}

/// Values of `record --weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightArg {
    /// Bytes asked for
    Bytes,
    /// Nanoseconds in calls
    Call,
    /// Nanoseconds of first touch
    Touch,
    /// Nanoseconds of releases
    Release,
    /// Page faults of first touch
    Faults,
    /// Allocations
    Count,
}

/// Single allocations, in all commands that trace.
#[derive(Debug, Args)]
pub struct SlowArgs {
    /// List each allocation whose call, first touch or release takes at least as long, with its stack; and, as long
    /// as there are few of these, the slowest ones
    #[arg(long, value_name = "TIME", value_parser = positive_time)]
    pub slow: Option<Duration>,

    /// Count how deep the stack is when large memory is allocated, by frame pointers: code without them shows few
    #[arg(long)]
    pub stack_depth: bool,
}

/// `daemon`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope daemon --all
  allocscope daemon --pid 4242 --pid 4243 --listen 127.0.0.1:9999
  allocscope daemon --exe '^/opt/shop/' --min-size 1MiB")]
pub struct DaemonArgs {
    /// Which processes.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// The address to serve metrics at; port 0 takes any free port
    #[arg(long, short, value_name = "ADDR", default_value_t = default_listen(), value_parser = listen)]
    pub listen: SocketAddr,

    /// Smallest allocation to trace, such as 64KiB, 1M (a million bytes) or 4096; 0 for all of the
    /// allocator's large path
    #[arg(long, short = 's', value_name = "SIZE", default_value_t = DEFAULT_MIN_SIZE, value_parser = size)]
    pub min_size: u64,

    /// Trace at most this many processes at a time; more are counted, not traced
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SLOTS)))]
    pub max_processes: u32,

    /// Which single allocations are told.
    #[command(flatten)]
    pub slow: SlowArgs,

    /// How probes are put.
    #[command(flatten)]
    pub probe: ProbeArgs,
}

/// Which processes `daemon` traces: exactly one kind.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct SelectionArgs {
    /// This process; may be given more than once
    #[arg(long, short, value_name = "PID", value_parser = pid_parser())]
    pub pid: Vec<u32>,

    /// Every process whose short name (at most 15 bytes) matches
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    pub comm: Option<Regex>,

    /// Every process whose executable's path matches
    #[arg(long, value_name = "REGEX", value_parser = regex)]
    pub exe: Option<Regex>,

    /// Every process
    #[arg(long)]
    pub all: bool,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope inspect 4242
  allocscope inspect ./server --format json
  allocscope inspect ./4242                      a file with a number for a name")]
pub struct InspectArgs {
    /// A process id, or an executable or shared library
    #[arg(value_name = "PID|FILE")]
    pub subject: OsString,

    /// A folder of separate debug files, searched by build-id before the system's; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,

    /// Show the plan of --allow-small-cost
    #[arg(long)]
    pub allow_small_cost: bool,

    /// Show the plan of --go-runtime
    #[arg(long)]
    pub go_runtime: bool,

    /// How to write the result
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t = FormatArg::Table)]
    pub format: FormatArg,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// A subcommand, for its own page
    pub command: Option<String>,
}

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
    /// Whether to ask for transparent huge pages
    #[arg(long, value_enum, default_value_t = HugePages::Never)]
    pub huge_pages: HugePages,
    /// Keep every mapping until all are touched, then unmap them
    #[arg(long)]
    pub hold: bool,
    /// Do not touch the pages
    #[arg(long)]
    pub no_touch: bool,
    /// Let the kernel make all pages real while it maps
    #[arg(long)]
    pub populate: bool,
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

/// Values of `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On terminals, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Values of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Values of `--huge-pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// `MADV_NOHUGEPAGE`: each 4 KiB page is a fault of its own
    Never,
    /// `MADV_HUGEPAGE`
    Always,
}

/// Where `daemon` listens unless told otherwise: reachable from this machine only.
fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|number| *number > 0.0);
    number.filter(|number| number.is_finite()).ok_or_else(|| "a percentage above 0, such as 5".to_owned())
}

fn environment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is set as NAME=VALUE".to_owned()),
    }
}

fn pid_parser() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// A size in bytes.
fn size(text: &str) -> Result<u64, String> {
    let bytes = text
        .trim()
        .parse::<ByteSize>()
        .map_err(|_| "a size is a number with or without a unit, such as 64KiB, 1M or 4096".to_owned())?
        .as_u64();
    if bytes > MAX_SIZE_BYTES {
        return Err("that is more than an address space can hold".to_owned());
    }
    Ok(bytes)
}

/// A size in bytes other than 0.
fn positive_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("the size must be greater than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A length of time.
fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| "a time is a number with a unit, such as 500ms, 10s or 5m".to_owned())
}

/// A length of time other than 0.
fn positive_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("the time must be greater than 0".to_owned()),
        time => Ok(time),
    }
}

/// A length of time that reports can be apart.
fn interval(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
        Ok(time)
    } else {
        Err("the interval must be from 100ms to 1h".to_owned())
    }
}

/// An address and port; no names, because looking one up would be an act.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("an address has a port, such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}")
    })
}

/// A regular expression. The crate's own message is a drawing of several lines; its last says what is wrong.
fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        format!("not a regular expression: {}", last.trim_start_matches("error: "))
    })
}

fn run_after_help() -> String {
    format!("{RUN_HELP}\n\n{}", budget::HELP)
}

fn after_help() -> String {
    let mut text =
        format!("{EXAMPLES}\n\nExit codes:\n    0  success; `run`: whatever the command returned\n");
    for exit in EXITS {
        text.push_str(&format!("  {:3}  {}\n", exit as u8, meaning(exit)));
    }
    text
}

const EXITS: [Exit; 17] = [
    Exit::Internal,
    Exit::Usage,
    Exit::NoSuchProcess,
    Exit::Privilege,
    Exit::Kernel,
    Exit::NothingToTrace,
    Exit::BadBinary,
    Exit::ThirtyTwoBit,
    Exit::PortInUse,
    Exit::EndedEarly,
    Exit::Found,
    Exit::OverBudget,
    Exit::Unjudged,
    Exit::RunFailed,
    Exit::NotExecutable,
    Exit::NotFound,
    Exit::Interrupted,
];

/// What an exit code says, for `--help`.
fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Internal => "anything not listed below",
        Exit::Usage => "bad flags: unknown, conflicting or malformed",
        Exit::NoSuchProcess => "no such process",
        Exit::Privilege => "not root, or a capability is missing",
        Exit::Kernel => "the kernel lacks something that allocscope cannot do without",
        Exit::NothingToTrace => "there is nothing to trace in the target",
        Exit::BadBinary => "the target's binary cannot be read",
        Exit::ThirtyTwoBit => "the target is a 32-bit process",
        Exit::PortInUse => "the address to listen on is in use or cannot be bound",
        Exit::EndedEarly => "the process ended before --duration was over; the report was printed",
        Exit::Found => "`advise --fail-on-finding`: there are findings",
        Exit::OverBudget => "`run --budget`: the command succeeded and broke the budget",
        Exit::Unjudged => {
            "`run --budget`: the command succeeded, and a part of the budget could not be judged"
        }
        Exit::RunFailed => "`run`: allocscope itself failed",
        Exit::NotExecutable => "`run`: the command could not be executed",
        Exit::NotFound => "`run`: the command was not found",
        Exit::Interrupted => "interrupted twice: stopped without a report",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn kind(line: &str) -> ErrorKind {
        parse(line).unwrap_err().kind()
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for exit in EXITS {
            assert!(help.contains(&format!("{:3}  {}", exit as u8, meaning(exit))), "{exit:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("1M"), Ok(1_000_000));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "x", "1X", "-1", "1e3", "1..2K", "KiB", "99999999EiB", "18446744073709551616", "１"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(positive_size("0").is_err());
        assert!(positive_size("0.1").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(time("10").is_err());
        assert!(time("ten seconds").is_err());
        assert!(positive_time("0s").is_err());
        assert!(interval("99ms").is_err());
        assert!(interval("100ms").is_ok());
        assert!(interval("1h").is_ok());
        assert!(interval("61m").is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(listen("127.0.0.1:1"), Ok(SocketAddr::from(([127, 0, 0, 1], 1))));
        assert_eq!(listen("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert!(listen("[::1]:0").is_ok());
        for bad in ["", "80", ":80", "127.0.0.1", "127.0.0.1:99999", "example.org:80", "localhost:"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_regex_is_told_in_one_line() {
        let message = regex("a(b").unwrap_err();
        assert_eq!(message, "not a regular expression: unclosed group");
    }

    #[test]
    fn selections_conflict_and_one_is_required() {
        assert_eq!(kind("allocscope daemon"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("allocscope daemon --all --pid 1"), ErrorKind::ArgumentConflict);
        assert_eq!(kind("allocscope daemon --comm a --exe b"), ErrorKind::ArgumentConflict);
        assert_eq!(kind("allocscope daemon --pid 1 --comm a"), ErrorKind::ArgumentConflict);
        assert_eq!(parse("allocscope daemon --pid 1 --comm a").unwrap_err().exit_code(), Exit::Usage as i32);
        assert!(parse("allocscope daemon --pid 1 --pid 2").is_ok());
    }

    #[test]
    fn limits() {
        assert!(parse("allocscope daemon --all --max-processes 65536").is_ok());
        assert_eq!(kind("allocscope daemon --all --max-processes 65537"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope daemon --all --max-processes 0"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach --pid 0"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach --pid -1"), ErrorKind::UnknownArgument);
        assert_eq!(kind("allocscope attach --pid 1 --min-size huge"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach --pid 1 --duration 0s"), ErrorKind::ValueValidation);
        assert_eq!(kind("allocscope attach"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("allocscope run"), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn the_command_line_of_run_is_left_alone() {
        let cli = parse("allocscope run --format json -- ls -l --color -- x").unwrap();
        let CommandArgs::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "-l", "--color", "--", "x"]);
    }
}
