//! A parsed command line into a validated [`Config`]: what the core works from, free of clap.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use allocscope_common::config::MAX_SLOTS;
use regex::Regex;

use crate::cli::advise::AdviseArgs;
use crate::cli::attach::AttachArgs;
use crate::cli::daemon::{DaemonArgs, SelectionArgs};
use crate::cli::inspect::InspectArgs;
use crate::cli::probe::{AttachViaArg, PageFaultsArg, ProbeArgs};
use crate::cli::record::{ProfileFormatArg, RecordArgs, WeightArg};
use crate::cli::run::RunArgs;
use crate::cli::trace::{SlowArgs, TraceArgs};
use crate::cli::workload::Workload;
use crate::cli::{Cli, ColorArg, CommandArgs, CompletionsArgs, FormatArg, ManArgs};
use crate::failure::{Exit, Failure};

pub use crate::cli::budget::{Budget, Item, Measure, Timed, Unit as BudgetUnit};

/// One run of the program.
#[derive(Debug)]
pub struct Config {
    /// How often `-v` was given.
    pub verbosity: u8,
    /// Whether output may have colour.
    pub color: Color,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Trace a running process.
    Attach(AttachConfig),
    /// Start a command and trace it.
    Run(RunConfig),
    /// Tell what would make a process faster.
    Advise(AdviseConfig),
    /// Serve metrics of many processes.
    Daemon(DaemonConfig),
    /// Record a profile.
    Record(RecordConfig),
    /// Show a plan without attaching.
    Inspect(InspectConfig),
    /// Check the machine.
    Doctor(DoctorConfig),
    /// Be a workload.
    Workload(Workload),
    /// Print a completion script.
    Completions(CompletionsArgs),
    /// Print a manual page.
    Man(ManArgs),
}

/// What `attach` does.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachConfig {
    /// The process; not 0.
    pub pid: u32,
    /// When to stop, if not on a signal or with the process; not 0.
    pub duration: Option<Duration>,
    /// What to trace and how to tell it.
    pub trace: TraceOptions,
}

/// What `run` does.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// The program: a path, or a name to look up in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment variables for it alone.
    pub environment: Vec<(String, String)>,
    /// Limits to compare the run with.
    pub budget: Option<Budget>,
    /// The file for what came of them, as JUnit XML.
    pub junit: Option<PathBuf>,
    /// What to trace and how to tell it.
    pub trace: TraceOptions,
}

/// What `record` does.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordConfig {
    /// Which process.
    pub subject: Recorded,
    /// When to stop, if not on a signal or with the process; not 0.
    pub duration: Option<Duration>,
    /// Where to write to; `None` is standard output.
    pub output: Option<PathBuf>,
    /// What to write.
    pub format: ProfileFormat,
    /// What stacks are weighted by.
    pub weight: Weight,
    /// What to trace.
    pub trace: TraceOptions,
}

/// Which process is recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// A running one; not 0.
    Pid(u32),
    /// One that is started for it.
    Command {
        /// The program: a path, or a name to look up in `PATH`.
        program: OsString,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileFormat {
    /// profile.proto, packed by gzip.
    Pprof,
    /// Folded stacks.
    Folded,
    /// A flame graph.
    Svg,
}

/// One of a profile's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Bytes asked for.
    Bytes,
    /// Nanoseconds in calls.
    Call,
    /// Nanoseconds of first touch.
    Touch,
    /// Nanoseconds of releases.
    Release,
    /// Page faults of first touch.
    Faults,
    /// Allocations.
    Count,
}

/// Which single allocations are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowOptions {
    /// Those that take as long, and the slowest; `None` where none are.
    pub slow: Option<Duration>,
    /// Whether stack depths are counted.
    pub stack_depth: bool,
}

/// What is slow unless the command line tells: as long as a frame of a display, and longer than a disk needs.
pub const DEFAULT_SLOW: Duration = Duration::from_millis(10);

/// What `advise` does.
#[derive(Clone, Debug, PartialEq)]
pub struct AdviseConfig {
    /// Whom to observe.
    pub subject: AdviseSubject,
    /// Whether findings are told by the exit code.
    pub fail_on_finding: bool,
}

/// Whom `advise` observes.
#[derive(Clone, Debug, PartialEq)]
pub enum AdviseSubject {
    /// A process, for a time.
    Process(AttachConfig),
    /// A command, to its end.
    Command(RunConfig),
}

/// How probes are put.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeOptions {
    /// The only way to attach uprobes by, if not the best one.
    pub attach_via: Option<AttachVia>,
    /// Folders of separate debug files, the system's last.
    pub debug_dirs: Vec<PathBuf>,
    /// Probe what small allocations pass as well.
    pub allow_small_cost: bool,
    /// Probe Go's runtime beside its large-object path.
    pub go_runtime: bool,
    /// The most that tracing may cost a process, in percent of one CPU; above 0.
    pub max_overhead_percent: Option<f64>,
    /// What is done for each page fault.
    pub page_faults: PageFaults,
    /// Tell time off the CPU apart.
    pub off_cpu: bool,
}

/// What is done for each page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFaults {
    /// Counted, attributed to the allocation it is in, and timed.
    Timed,
    /// Counted and attributed.
    Counted,
}

/// A way to attach uprobes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachVia {
    /// Uprobe sessions.
    Session,
    /// uprobe_multi links.
    Multi,
    /// Perf events.
    Perf,
}

impl AttachVia {
    /// All, best first.
    pub const ALL: [Self; 3] = [Self::Session, Self::Multi, Self::Perf];

    /// The name in reports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Multi => "multi",
            Self::Perf => "perf",
        }
    }
}

impl fmt::Display for AttachVia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `attach` and `run` share.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// The smallest allocation of interest; 0 takes all that the large path serves.
    pub min_size_bytes: u64,
    /// Time between reports, 100 ms to 1 h; without it, one report at the end.
    pub interval: Option<Duration>,
    /// How to write reports.
    pub format: Format,
    /// Where to serve metrics meanwhile.
    pub listen: Option<SocketAddr>,
    /// Whether children are traced from their fork on.
    pub follow_children: bool,
    /// Which single allocations are told.
    pub slow: SlowOptions,
    /// How probes are put.
    pub probe: ProbeOptions,
    /// Whether reports may have colour.
    pub color: Color,
}

/// What `daemon` does.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Which processes.
    pub selection: Selection,
    /// Where to serve metrics; port 0 means any.
    pub listen: SocketAddr,
    /// The smallest allocation of interest; 0 takes all that the large path serves.
    pub min_size_bytes: u64,
    /// The most processes at a time, 1 to [`MAX_SLOTS`].
    pub max_processes: u32,
    /// Which single allocations are told.
    pub slow: SlowOptions,
    /// How probes are put.
    pub probe: ProbeOptions,
}

/// Which processes.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These: sorted, none twice, none 0, at least one.
    Pids(Vec<u32>),
    /// Those whose short name matches.
    Comm(Regex),
    /// Those whose executable's path matches.
    Exe(Regex),
    /// Every one.
    All,
}

/// What `inspect` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectConfig {
    /// What to look at.
    pub subject: Subject,
    /// Folders of separate debug files, the system's last.
    pub debug_dirs: Vec<PathBuf>,
    /// Show the plan of `--allow-small-cost`.
    pub allow_small_cost: bool,
    /// Show the plan of `--go-runtime`.
    pub go_runtime: bool,
    /// How to write the result.
    pub format: Format,
    /// Whether the result may have colour.
    pub color: Color,
}

/// What `inspect` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A process; not 0.
    Pid(u32),
    /// An executable or library.
    File(PathBuf),
}

/// What `doctor` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorConfig {
    /// How to write the result.
    pub format: Format,
    /// Whether the result may have colour.
    pub color: Color,
}

/// How to write what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// On terminals, unless `NO_COLOR` is set to anything but the empty string.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour what goes to a stream. `is_terminal` tells what the stream is, `no_color`
    /// is the value of that environment variable.
    pub fn enabled(self, is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
        match self {
            Self::Auto => is_terminal && no_color.is_none_or(|value| value.is_empty()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl TryFrom<Cli> for Config {
    type Error = Failure;

    /// Fails with [`Exit::Usage`] where flags contradict each other in a way that clap cannot see.
    fn try_from(cli: Cli) -> Result<Self, Failure> {
        let color = Color::from(cli.color);
        let command = match cli.command {
            CommandArgs::Attach(args) => Command::Attach(attach(args, color)),
            CommandArgs::Run(args) => Command::Run(run(args, color)?),
            CommandArgs::Advise(args) => Command::Advise(advise(args, color)?),
            CommandArgs::Daemon(args) => Command::Daemon(DaemonConfig::try_from(args)?),
            CommandArgs::Record(args) => Command::Record(record(args, color)?),
            CommandArgs::Inspect(args) => Command::Inspect(inspect(args, color)?),
            CommandArgs::Doctor(args) => Command::Doctor(DoctorConfig { format: args.format.into(), color }),
            CommandArgs::Workload(workload) => Command::Workload(workload),
            CommandArgs::Completions(args) => Command::Completions(args),
            CommandArgs::Man(args) => Command::Man(args),
        };
        Ok(Self { verbosity: cli.verbose, color, command })
    }
}

impl TryFrom<DaemonArgs> for DaemonConfig {
    type Error = Failure;

    fn try_from(args: DaemonArgs) -> Result<Self, Failure> {
        let selection = Selection::try_from(args.selection)?;
        let max_processes = args.max_processes.clamp(1, MAX_SLOTS);
        if let Selection::Pids(pids) = &selection
            && pids.len() > max_processes as usize
        {
            return Err(usage(format!(
                "--pid names {} processes, but --max-processes allows {max_processes}; raise it or name fewer",
                pids.len()
            )));
        }
        let (probe, slow) = (args.probe.into(), SlowOptions::from(args.slow));
        Ok(Self { selection, listen: args.listen, min_size_bytes: args.min_size, max_processes, slow, probe })
    }
}

impl TryFrom<SelectionArgs> for Selection {
    type Error = Failure;

    fn try_from(args: SelectionArgs) -> Result<Self, Failure> {
        match args {
            SelectionArgs { mut pid, comm: None, exe: None, all: false } if !pid.is_empty() => {
                pid.sort_unstable();
                pid.dedup();
                Ok(Self::Pids(pid))
            }
            SelectionArgs { pid, comm: Some(comm), exe: None, all: false } if pid.is_empty() => {
                Ok(Self::Comm(comm))
            }
            SelectionArgs { pid, comm: None, exe: Some(exe), all: false } if pid.is_empty() => {
                Ok(Self::Exe(exe))
            }
            SelectionArgs { pid, comm: None, exe: None, all: true } if pid.is_empty() => Ok(Self::All),
            _ => Err(usage("exactly one of --pid, --comm, --exe and --all is needed".to_owned())),
        }
    }
}

/// Where distributions install debug files.
const SYSTEM_DEBUG_DIR: &str = "/usr/lib/debug";

impl From<ProbeArgs> for ProbeOptions {
    fn from(args: ProbeArgs) -> Self {
        let attach_via = args.attach_via.map(|way| match way {
            AttachViaArg::Session => AttachVia::Session,
            AttachViaArg::Multi => AttachVia::Multi,
            AttachViaArg::Perf => AttachVia::Perf,
        });
        let debug_dirs = with_system_dir(args.debug_dir);
        Self {
            attach_via,
            debug_dirs,
            allow_small_cost: args.allow_small_cost,
            go_runtime: args.go_runtime,
            max_overhead_percent: args.max_overhead,
            page_faults: match args.page_faults {
                PageFaultsArg::Timed => PageFaults::Timed,
                PageFaultsArg::Counted => PageFaults::Counted,
            },
            off_cpu: !args.no_off_cpu,
        }
    }
}

fn with_system_dir(mut dirs: Vec<PathBuf>) -> Vec<PathBuf> {
    dirs.push(SYSTEM_DEBUG_DIR.into());
    dirs
}

impl From<SlowArgs> for SlowOptions {
    fn from(args: SlowArgs) -> Self {
        Self { slow: args.slow, stack_depth: args.stack_depth }
    }
}

impl From<ProfileFormatArg> for ProfileFormat {
    fn from(format: ProfileFormatArg) -> Self {
        match format {
            ProfileFormatArg::Pprof => Self::Pprof,
            ProfileFormatArg::Folded => Self::Folded,
            ProfileFormatArg::Svg => Self::Svg,
        }
    }
}

impl From<WeightArg> for Weight {
    fn from(weight: WeightArg) -> Self {
        match weight {
            WeightArg::Bytes => Self::Bytes,
            WeightArg::Call => Self::Call,
            WeightArg::Touch => Self::Touch,
            WeightArg::Release => Self::Release,
            WeightArg::Faults => Self::Faults,
            WeightArg::Count => Self::Count,
        }
    }
}

impl From<ColorArg> for Color {
    fn from(color: ColorArg) -> Self {
        match color {
            ColorArg::Auto => Self::Auto,
            ColorArg::Always => Self::Always,
            ColorArg::Never => Self::Never,
        }
    }
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Table => Self::Table,
            FormatArg::Json => Self::Json,
        }
    }
}

fn attach(args: AttachArgs, color: Color) -> AttachConfig {
    AttachConfig {
        pid: args.pid,
        duration: args.duration,
        trace: trace(args.trace, args.follow_children, color),
    }
}

fn advise(args: AdviseArgs, color: Color) -> Result<AdviseConfig, Failure> {
    let trace = TraceOptions {
        min_size_bytes: args.min_size,
        interval: None,
        format: args.format.into(),
        listen: None,
        follow_children: args.pid.is_none(),
        slow: SlowOptions { slow: None, stack_depth: false },
        probe: args.probe.into(),
        color,
    };
    let subject = match args.pid {
        Some(pid) => AdviseSubject::Process(AttachConfig { pid, duration: Some(args.duration), trace }),
        None => {
            let (program, arguments) = command_of(args.command)?;
            AdviseSubject::Command(RunConfig {
                program,
                arguments,
                environment: args.env,
                budget: None,
                junit: None,
                trace,
            })
        }
    };
    Ok(AdviseConfig { subject, fail_on_finding: args.fail_on_finding })
}

fn run(args: RunArgs, color: Color) -> Result<RunConfig, Failure> {
    let (program, arguments) = command_of(args.command)?;
    let trace = trace(args.trace, !args.no_follow_children, color);
    let (budget, junit) = (args.budget, args.junit);
    Ok(RunConfig { program, arguments, environment: args.env, budget, junit, trace })
}

fn command_of(words: Vec<OsString>) -> Result<(OsString, Vec<OsString>), Failure> {
    let mut words = words.into_iter();
    let program = words.next().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| usage("a command is needed after `--`".to_owned()))?;
    Ok((program, words.collect()))
}

fn record(args: RecordArgs, color: Color) -> Result<RecordConfig, Failure> {
    let mut words = args.command.into_iter();
    let subject = match (args.pid, words.next().filter(|program| !program.is_empty())) {
        (Some(pid), _) => Recorded::Pid(pid),
        (None, Some(program)) => Recorded::Command { program, arguments: words.collect() },
        (None, None) => return Err(usage("`record` needs --pid, or a command after `--`".to_owned())),
    };
    let follow_children = args.follow_children;
    Ok(RecordConfig {
        subject,
        duration: args.duration,
        output: (args.output.as_os_str() != "-").then_some(args.output),
        format: args.format.into(),
        weight: args.weight.into(),
        trace: TraceOptions {
            min_size_bytes: args.min_size,
            interval: None,
            format: Format::Table,
            listen: None,
            follow_children,
            slow: SlowOptions { slow: None, stack_depth: false },
            probe: args.probe.into(),
            color,
        },
    })
}

fn trace(args: TraceArgs, follow_children: bool, color: Color) -> TraceOptions {
    TraceOptions {
        min_size_bytes: args.min_size,
        interval: args.interval,
        format: args.format.into(),
        listen: args.listen,
        follow_children,
        slow: SlowOptions { slow: args.slow.slow.or(Some(DEFAULT_SLOW)), stack_depth: args.slow.stack_depth },
        probe: args.probe.into(),
        color,
    }
}

/// Digits only are a process id; a file with such a name is given as `./123`.
fn inspect(args: InspectArgs, color: Color) -> Result<InspectConfig, Failure> {
    let digits = args
        .subject
        .to_str()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let subject = match digits {
        None if args.subject.is_empty() => {
            return Err(usage("`inspect` needs a process id or a file".to_owned()));
        }
        None => Subject::File(args.subject.into()),
        Some(digits) => match digits.parse() {
            Ok(0) | Err(_) => {
                return Err(usage(format!("{digits} is not a process id; write ./{digits} for a file")));
            }
            Ok(pid) => Subject::Pid(pid),
        },
    };
    let debug_dirs = with_system_dir(args.debug_dir);
    let allow_small_cost = args.allow_small_cost;
    let go_runtime = args.go_runtime;
    Ok(InspectConfig { subject, debug_dirs, allow_small_cost, go_runtime, format: args.format.into(), color })
}

fn usage(message: String) -> Failure {
    Failure { exit: Exit::Usage, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::ffi::OsStr;

    fn config(line: &str) -> Result<Config, Failure> {
        Config::try_from(Cli::try_parse_from(line.split_whitespace()).unwrap())
    }

    fn daemon(line: &str) -> DaemonConfig {
        match config(line).unwrap().command {
            Command::Daemon(daemon) => daemon,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn attach_has_defaults() {
        let Command::Attach(attach) = config("allocscope attach --pid 7").unwrap().command else {
            panic!("not attach")
        };
        assert_eq!(attach.pid, 7);
        assert_eq!(attach.duration, None);
        let expected = TraceOptions {
            min_size_bytes: 32_760,
            interval: None,
            format: Format::Table,
            listen: None,
            follow_children: false,
            slow: SlowOptions { slow: Some(DEFAULT_SLOW), stack_depth: false },
            probe: ProbeOptions {
                attach_via: None,
                debug_dirs: vec![SYSTEM_DEBUG_DIR.into()],
                allow_small_cost: false,
                go_runtime: false,
                max_overhead_percent: None,
                page_faults: PageFaults::Timed,
                off_cpu: true,
            },
            color: Color::Auto,
        };
        assert_eq!(attach.trace, expected);
    }

    #[test]
    fn run_follows_children_unless_told_not_to() {
        let follows = |line: &str| match config(line).unwrap().command {
            Command::Run(run) => run.trace.follow_children,
            other => panic!("{other:?}"),
        };
        assert!(follows("allocscope run -- true"));
        assert!(follows("allocscope run --follow-children -- true"));
        assert!(!follows("allocscope run --no-follow-children -- true"));
        assert!(follows("allocscope run --no-follow-children --follow-children -- true"));
        assert!(!follows("allocscope run --follow-children --no-follow-children -- true"));
    }

    #[test]
    fn daemon_selections() {
        let Selection::Pids(pids) = daemon("allocscope daemon --pid 9 --pid 3 --pid 9").selection else {
            panic!()
        };
        assert_eq!(pids, [3, 9]);
        assert!(matches!(daemon("allocscope daemon --comm ^a").selection, Selection::Comm(_)));
        assert!(matches!(daemon("allocscope daemon --exe bin/").selection, Selection::Exe(_)));
        let all = daemon("allocscope daemon --all --min-size 0");
        assert!(matches!(all.selection, Selection::All));
        assert_eq!((all.min_size_bytes, all.max_processes), (0, 1000));
        assert_eq!(all.listen, SocketAddr::from(([127, 0, 0, 1], crate::cli::DEFAULT_PORT)));
    }

    #[test]
    fn more_pids_than_processes_allowed() {
        let failure = config("allocscope daemon --pid 1 --pid 2 --max-processes 1").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("--pid names 2 processes"), "{failure}");
        assert!(config("allocscope daemon --pid 1 --pid 1 --max-processes 1").is_ok());
    }

    #[test]
    fn inspect_tells_processes_from_files() {
        let subject = |word: &str| match config(&format!("allocscope inspect {word}"))?.command {
            Command::Inspect(inspect) => Ok(inspect.subject),
            other => panic!("{other:?}"),
        };
        assert_eq!(subject("12").unwrap(), Subject::Pid(12));
        assert_eq!(subject("./12").unwrap(), Subject::File("./12".into()));
        assert_eq!(subject("12a").unwrap(), Subject::File("12a".into()));
        assert_eq!(subject("0").map_err(|failure: Failure| failure.exit), Err(Exit::Usage));
        assert_eq!(subject("99999999999").map_err(|failure| failure.exit), Err(Exit::Usage));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let config = config("allocscope doctor --color never -vv").unwrap();
        assert_eq!((config.verbosity, config.color), (2, Color::Never));
    }

    #[test]
    fn colour_honours_no_color() {
        assert!(Color::Auto.enabled(true, None));
        assert!(Color::Auto.enabled(true, Some(OsStr::new(""))));
        assert!(!Color::Auto.enabled(true, Some(OsStr::new("1"))));
        assert!(!Color::Auto.enabled(false, None));
        assert!(Color::Always.enabled(false, Some(OsStr::new("1"))));
        assert!(!Color::Never.enabled(true, None));
    }
}
