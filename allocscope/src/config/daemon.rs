//! The words of `daemon` into which processes it traces, and how.

use std::net::SocketAddr;

use allocscope_common::config::MAX_SLOTS;
use regex::Regex;

use super::{ProbeOptions, SlowOptions, usage};
use crate::cli::daemon::{DaemonArgs, SelectionArgs};
use crate::failure::Failure;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;
    use crate::config::tests::config;
    use crate::failure::Exit;

    fn daemon(line: &str) -> DaemonConfig {
        match config(line).unwrap().command {
            Command::Daemon(daemon) => daemon,
            other => panic!("{other:?}"),
        }
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
}
