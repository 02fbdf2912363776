//! The words of `attach` into what it does.

use std::time::Duration;

use super::{Color, TraceOptions, trace};
use crate::cli::attach::AttachArgs;

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

pub(super) fn config(args: AttachArgs, color: Color) -> AttachConfig {
    AttachConfig {
        pid: args.pid,
        duration: args.duration,
        trace: trace::options(args.trace, args.follow_children, color),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::probe::SYSTEM_DEBUG_DIR;
    use crate::config::tests::config;
    use crate::config::trace::DEFAULT_SLOW;
    use crate::config::{Color, Command, Format, PageFaults, ProbeOptions, SlowOptions, TraceOptions};

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
}
