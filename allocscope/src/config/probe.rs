//! The words about probes into how they are put.

use std::fmt;
use std::path::PathBuf;

use crate::cli::probe::{AttachViaArg, PageFaultsArg, ProbeArgs};

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

/// Where distributions install debug files.
pub(super) const SYSTEM_DEBUG_DIR: &str = "/usr/lib/debug";

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

/// Folders of debug files, the system's last.
pub(super) fn with_system_dir(mut dirs: Vec<PathBuf>) -> Vec<PathBuf> {
    dirs.push(SYSTEM_DEBUG_DIR.into());
    dirs
}
