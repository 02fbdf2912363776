//! What a session is told at its start into what its stages are set to.

use super::{Examiner, Sink};
use crate::advice::Advisor;
use crate::aggregate::Retirement;
use crate::config::{AttachVia, PageFaults, Selection};
use crate::probe::LoadOptions;
use allocscope_common::allocation::Recording;
use std::time::Duration;

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Sizes below this are not large, in bytes.
    pub min_size_bytes: u64,
    /// The most processes traced at once.
    pub max_processes: u32,
    /// Whether the children of a traced process are traced from their fork on.
    pub follow_children: bool,
    /// Whether one process is traced and no other: then the code of others that run the same binary is
    /// left as it is.
    pub one_process: bool,
    /// The only way to attach uprobes by, if not the best one.
    pub attach_via: Option<AttachVia>,
    /// What is done for each page fault.
    pub page_faults: PageFaults,
    /// How files are examined.
    pub examiner: Examiner,
    /// Which processes are traced as they appear; `None` where only those asked for by pid are.
    pub selection: Option<Selection>,
    /// The most that tracing may cost a process, in percent of one CPU.
    pub max_overhead_percent: Option<f64>,
    /// Whether time off the CPU is told apart.
    pub off_cpu: bool,
    /// What is made of single allocations; `None` where they are not told.
    pub sink: Option<Sink>,
    /// Whether stack depths are counted.
    pub stack_depth: bool,
    /// Whether the kernel side's diagnostics are read.
    pub log: bool,
    /// Which time findings are about.
    pub advice: AdviceOn,
}

/// Which time findings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdviceOn {
    /// All since tracing began.
    Run,
    /// The last minutes.
    Recent,
}

/// At the usual interval between scrapes, 15 s or 30 s, twenty or ten of them.
const RECENT: Duration = Duration::from_secs(300);

impl SessionOptions {
    /// Whether every process is traced.
    pub(super) fn traces_all(&self) -> bool {
        matches!(self.selection, Some(Selection::All))
    }

    /// What the kernel side is loaded with.
    pub(super) fn load_options(&self) -> LoadOptions {
        let follow_all = self.traces_all();
        let by_name = matches!(self.selection, Some(Selection::Comm(_) | Selection::Exe(_)));
        LoadOptions {
            min_size_bytes: self.min_size_bytes,
            max_processes: self.max_processes,
            follow_all,
            report_every_exec: by_name || follow_all,
            go_runtime: self.examiner.go_runtime,
            log: self.log,
            attach_via: self.attach_via,
            page_faults: self.page_faults,
            off_cpu: self.off_cpu,
            recording: recording_of(self.sink.as_ref()),
            stack_depth: self.stack_depth,
        }
    }

    /// Where processes are selected by name, a scrape is to see an ended one; else the final report is, and
    /// all of them.
    pub(super) fn retirement(&self) -> Retirement {
        match self.selection {
            Some(_) => Retirement::default(),
            None => Retirement { max_ended: self.max_processes as usize, max_age: Duration::MAX },
        }
    }

    /// A report tells of the whole run, a scrape of what goes on.
    pub(super) fn advisor(&self) -> Advisor {
        match self.advice {
            AdviceOn::Run => Advisor::of_run(),
            AdviceOn::Recent => Advisor::of_last(RECENT),
        }
    }
}

fn recording_of(sink: Option<&Sink>) -> Recording {
    match sink {
        None => Recording::Off,
        Some(Sink::Slowest(_)) => Recording::Slow,
        Some(Sink::Profile) => Recording::All,
    }
}
