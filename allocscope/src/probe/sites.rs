//! The sites of one binary into uprobes. A site that cannot be attached becomes a miss.

use super::Loaded;
use crate::site::{Miss, Site};
use anyhow::Result;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

/// Which processes of a binary are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One process; the code of others stays as it is.
    Process(u32),
    /// All that run the file, now and later.
    Everyone,
}

/// The live probes of one binary; dropping it detaches them.
pub struct AttachedSites {
    links: Vec<UProbeLink>,
    /// What could not be attached.
    pub misses: Vec<Miss>,
}

impl AttachedSites {
    /// Attaches `sites` in `binary`, all of them or none: an entry without its exit counts nothing.
    pub fn attach(loaded: &mut Loaded, binary: &File, sites: &[Site], scope: Scope) -> Self {
        let mut attached = Self { links: Vec::new(), misses: Vec::new() };
        for site in sites {
            match attach_one(loaded, binary, site, scope) {
                Ok(link) => attached.links.push(link),
                Err(error) => {
                    attached.links.clear();
                    let detail = format!("{}+{:#x}: {error:#}", site.function, site.function_offset);
                    attached.misses.push(Miss { reason: "attach_refused", detail });
                    break;
                }
            }
        }
        attached
    }

    /// How many probes are live.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

fn attach_one(loaded: &mut Loaded, binary: &File, site: &Site, scope: Scope) -> Result<UProbeLink> {
    let program: &mut UProbe = loaded.program("go_site")?;
    // Loaded with the first site: a tracer of programs without sites never loads it.
    if program.fd().is_err() {
        program.load()?;
    }
    let scope = match scope {
        Scope::Process(pid) => {
            NonZeroU32::new(pid).map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess)
        }
        Scope::Everyone => UProbeScope::AllProcesses,
    };
    let point = UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(site.file_offset),
        cookie: Some(site.id.to_cookie()),
    };
    // Through the open descriptor: the very file that was examined, whatever its path now leads to.
    let path = format!("/proc/self/fd/{}", binary.as_raw_fd());
    let id = program.attach(point, path, scope)?;
    Ok(program.take_link(id)?)
}
