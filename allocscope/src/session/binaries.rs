//! Binaries and their probes: one set of probes for each file, shared by the processes that run it.

use crate::aggregate::{Coverage, Tier};
use crate::allocator::Examination;
use crate::probe::{AttachedSites, Loaded, Scope};
use crate::site::{Miss, Plan};
use crate::target::{self, OpenedBinary};
use std::collections::BTreeMap;
use std::sync::mpsc;

use super::examined::Examined;
use super::file_bytes::examine_file;

/// A file, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BinaryId {
    dev: u64,
    ino: u64,
}

/// The binaries of the traced processes.
#[derive(Default)]
pub struct Binaries {
    known: BTreeMap<BinaryId, Binary>,
    examined: Examined<Examination>,
    detacher: Option<Detacher>,
}

struct Binary {
    users: usize,
    coverage: Coverage,
    sites: AttachedSites,
}

impl Binaries {
    /// Examines the binary that process `pid` runs and attaches its sites, once for each file.
    pub fn attach(&mut self, loaded: &mut Loaded, pid: u32, scope: Scope) -> (Option<BinaryId>, Coverage) {
        let opened = match target::executable(pid) {
            Ok(opened) => opened,
            Err(error) => return (None, uncovered("binary_unreadable", error.to_string())),
        };
        let id = BinaryId { dev: opened.dev, ino: opened.ino };
        if let Some(binary) = self.known.get_mut(&id) {
            binary.users += 1;
            return (Some(id), binary.coverage.clone());
        }
        let (label, plan) = examine_binary(&mut self.examined, pid, &opened);
        let sites = AttachedSites::attach(loaded, &opened.file, &plan.sites, scope);
        let coverage = coverage(label, plan, &sites);
        self.known.insert(id, Binary { users: 1, coverage: coverage.clone(), sites });
        (Some(id), coverage)
    }

    /// Tells that a process no longer runs the binary; the last one detaches its probes.
    pub fn release(&mut self, id: Option<BinaryId>) {
        let Some(id) = id else { return };
        let Some(binary) = self.known.get_mut(&id) else { return };
        binary.users -= 1;
        if binary.users == 0
            && let Some(binary) = self.known.remove(&id)
        {
            // Started when first needed: by then privileges were given up, and the thread has none.
            self.detacher.get_or_insert_with(Detacher::start).detach(binary.sites);
        }
    }
}

/// A thread that detaches the probes of binaries that nobody runs any more: each probe takes the kernel a
/// tenth of a second, in which events and scrapes would wait.
struct Detacher(mpsc::Sender<AttachedSites>);

impl Detacher {
    fn start() -> Self {
        let (sender, sites) = mpsc::channel::<AttachedSites>();
        std::thread::spawn(move || sites.into_iter().for_each(drop));
        Self(sender)
    }

    fn detach(&self, sites: AttachedSites) {
        // Where the thread is gone, the probes are dropped here.
        let _ = self.0.send(sites);
    }
}

/// What allocator the process uses, and where to probe it.
fn examine_binary(examined: &mut Examined<Examination>, pid: u32, opened: &OpenedBinary) -> (String, Plan) {
    let libraries: Vec<String> = target::mapped_files(pid)
        .unwrap_or_default()
        .iter()
        .map(|mapped| mapped.path.display().to_string())
        .collect();
    let examine = || examine_file(&opened.file, &libraries);
    match examined.get_or_examine(&opened.file, &libraries, examine) {
        Ok(examination) => (examination.allocator, examination.plan),
        Err(error) => {
            let detail = format!("{}: {error}", opened.path.display());
            let miss = Miss { reason: "binary_unreadable", detail };
            ("unknown".to_owned(), Plan { sites: Vec::new(), misses: vec![miss] })
        }
    }
}

fn coverage(allocator: String, plan: Plan, sites: &AttachedSites) -> Coverage {
    let mut misses = plan.misses;
    misses.extend(sites.misses.iter().cloned());
    Coverage {
        allocator,
        tier: if sites.is_empty() { Tier::Kernel } else { Tier::LargePath },
        sites_attached: sites.len(),
        sites_planned: plan.sites.len(),
        misses,
    }
}

fn uncovered(reason: &'static str, detail: String) -> Coverage {
    Coverage {
        allocator: "unknown".to_owned(),
        tier: Tier::Kernel,
        sites_attached: 0,
        sites_planned: 0,
        misses: vec![Miss { reason, detail }],
    }
}
