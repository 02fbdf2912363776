//! The words of the workloads of pools and arenas into what they are to do.

use clap::{Args, ValueEnum};

use super::value::positive_size;
use super::workload::{HugePages, StartArgs};

/// How long a workload of pools works, and how fast.
#[derive(Clone, Debug, Args)]
pub struct PaceArgs {
    /// How long
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Rounds a second. All are done: where the machine is too slow for them, it takes longer, at most four times as long
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// When to start.
    #[command(flatten)]
    pub start: StartArgs,
}

/// Where memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// From both in turn, to compare them
    Both,
    /// From a pool or an arena
    Pool,
    /// From malloc
    Malloc,
}

impl By {
    /// Whether from a pool.
    pub fn is_pool(self) -> bool {
        self != Self::Malloc
    }

    /// Whether from malloc.
    pub fn is_malloc(self) -> bool {
        self != Self::Pool
    }
}

/// What is done with and without, in turn or one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// With and without, in turn
    Both,
    /// With
    On,
    /// Without
    Off,
}

impl Switch {
    /// Whether with.
    pub fn is_on(self) -> bool {
        self != Self::Off
    }

    /// Whether without.
    pub fn is_off(self) -> bool {
        self != Self::On
    }
}

/// `workload pool`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload pool --seconds 10 --rate 1000
  allocscope workload pool --by malloc --size 1MiB --live 8
  allocscope run -- allocscope workload pool --by pool")]
pub struct PoolArgs {
    /// Bytes of an object
    #[arg(long, default_value = "64KiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// Objects that a thread takes in each round, touches, and gives back
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub live: u64,
    /// Threads, each at the full rate
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Where objects come from
    #[arg(long, value_enum, default_value_t = By::Both)]
    pub by: By,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload buffers`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload buffers --seconds 10 --rate 500
  allocscope workload buffers --by malloc")]
pub struct BuffersArgs {
    /// Buffers that are in use at the same time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub live: u64,
    /// A new generation of the pool in so many rounds
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tick_every: u64,
    /// Where buffers come from
    #[arg(long, value_enum, default_value_t = By::Both)]
    pub by: By,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload false-sharing`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload false-sharing --threads 2 --seconds 5
  allocscope workload false-sharing --padding on")]
pub struct FalseSharingArgs {
    /// Threads, each with a counter of its own
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Whether each counter has 128 bytes for itself, or all lie together
    #[arg(long, value_enum, default_value_t = Switch::Both)]
    pub padding: Switch,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload requests`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload requests --seconds 10 --rate 500
  allocscope workload requests --by malloc --objects 1000")]
pub struct RequestsArgs {
    /// Objects of 64 bytes of each request
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub objects: u64,
    /// Bytes of each request's body, which is one more object
    #[arg(long, default_value = "128KiB", value_name = "SIZE", value_parser = positive_size)]
    pub body: u64,
    /// Where they come from
    #[arg(long, value_enum, default_value_t = By::Both)]
    pub by: By,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload lifetimes`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload lifetimes --seconds 10 --rate 200
  allocscope workload lifetimes --every 5 --held-for 100 --size 1MiB")]
pub struct LifetimesArgs {
    /// Bytes of an object
    #[arg(long, default_value = "64KiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// One in so many requests keeps its object past its end
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// For so many further requests
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub held_for: u64,
    /// A new generation of the pools in so many requests
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tick_every: u64,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload breaker`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload breaker --seconds 10 --rate 200
  allocscope workload breaker --max-total 2 --size 1MiB")]
pub struct BreakerArgs {
    /// Bytes of an object
    #[arg(long, default_value = "64KiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// Objects that the pool may have
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub max_total: u64,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload regions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload regions --size 64MiB --seconds 5 --rate 10
  allocscope workload regions --prefault on --huge-pages always")]
pub struct RegionsArgs {
    /// Bytes of a region
    #[arg(long, default_value = "2MiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// Whether pages are made real while memory is committed, or by their first write
    #[arg(long, value_enum, default_value_t = Switch::Both)]
    pub prefault: Switch,
    /// Whether to ask for transparent huge pages; without it, both in turn
    #[arg(long, value_enum)]
    pub huge_pages: Option<HugePages>,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload numa`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  allocscope workload numa --size 64MiB --seconds 5 --rate 10")]
pub struct NumaArgs {
    /// Bytes of a region
    #[arg(long, default_value = "2MiB", value_name = "SIZE", value_parser = positive_size)]
    pub size: u64,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// `workload pressure`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A round allocates 256 KiB, touches and frees them; once a second the pool may be asked for half of what it holds.

Examples:
  allocscope workload pressure --idle 512MiB --seconds 30 --rate 20")]
pub struct PressureArgs {
    /// Bytes that the pool holds idle at first, rounded up to whole MiB
    #[arg(long, default_value = "32MiB", value_name = "SIZE", value_parser = positive_size)]
    pub idle: u64,
    /// How long and how fast.
    #[command(flatten)]
    pub pace: PaceArgs,
}
