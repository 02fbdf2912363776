//! Tracepoint names into ids.
//!
//! Where tracefs is mounted, that mount is read. Where it is not, a detached mount is made that only
//! this process can see and that goes with its descriptor: allocscope leaves no mount behind.

use super::detached;
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// An open tracefs.
pub struct Tracefs {
    root: OwnedFd,
}

impl Tracefs {
    /// Opens tracefs.
    ///
    /// # Errors
    /// Where it is not mounted and cannot be: no CAP_SYS_ADMIN, or a kernel before 5.2.
    pub fn open() -> Result<Self> {
        for mount in MOUNTS {
            if std::fs::metadata(format!("{mount}/events")).is_ok() {
                return Ok(Self { root: File::open(mount)?.into() });
            }
        }
        Ok(Self { root: mount().context("tracefs is not mounted and cannot be")? })
    }

    /// The id of tracepoint `name` in `category`.
    ///
    /// # Errors
    /// Where the kernel has no such tracepoint, or tracefs may not be read.
    pub fn id(&self, category: &str, name: &str) -> Result<u64> {
        let path = format!("/proc/self/fd/{}/events/{category}/{name}/id", self.root.as_raw_fd());
        let mut text = String::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| format!("the kernel has no tracepoint {category}:{name}"))?;
        text.trim().parse().map_err(|_| anyhow!("tracepoint {category}:{name} has no numeric id"))
    }
}

fn mount() -> io::Result<OwnedFd> {
    detached::open_root(&detached::mount(c"tracefs")?)
}
