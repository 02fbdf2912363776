//! The plan of one binary into uprobes. What cannot be attached becomes a miss.

use super::Loaded;
use super::called::makes_calls;
use super::held::HeldLink;
use super::ladder::{attach_calls, attach_calls_at_callers, attach_provider, attach_sites};
use crate::site::{CallSite, Miss, Plan, Site};
use std::fs::File;

/// Which processes of a binary are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One process; the code of others stays as it is.
    Process(u32),
    /// All that run the file, now and later.
    Everyone,
}

/// How the returns of native calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Returns {
    /// By return probes.
    ByProbe,
    /// By plain probes at the callers: for processes that return probes could hurt.
    AtCallers,
}

/// The live probes of one binary; dropping it detaches them.
#[derive(Default)]
pub struct AttachedSites {
    links: Vec<HeldLink>,
    attached: usize,
    /// What could not be attached.
    pub misses: Vec<Miss>,
}

impl AttachedSites {
    /// Attaches the plain sites of `plan` in `binary`, all of them or none, since an entry without its exit
    /// counts nothing; and likewise its calls. Of a plan for another machine nothing is.
    pub fn attach(loaded: &mut Loaded, binary: &File, plan: &Plan, scope: Scope, returns: Returns) -> Self {
        let mut attached = Self::default();
        if plan.is_foreign {
            return attached;
        }
        if let [first, ..] = plan.sites.as_slice() {
            let links = attach_sites(loaded, binary, &plan.sites, scope);
            attached.keep(links, plan.sites.len(), &first.function);
        }
        attached.attach_calls(loaded, binary, plan, scope, returns);
        attached.attach_told(loaded, binary, plan, scope, returns);
        attached
    }

    /// Each provider's apart: what the kernel refuses of a foreign one leaves our own.
    fn attach_told(
        &mut self,
        loaded: &mut Loaded,
        binary: &File,
        plan: &Plan,
        scope: Scope,
        returns: Returns,
    ) {
        let (samples, own): (Vec<_>, Vec<_>) =
            plan.provider.iter().copied().partition(|site| site.id.event.is_sample());
        for sites in [own, samples] {
            let [first, ..] = sites.as_slice() else { continue };
            // What a call is made of makes a system call: not in a process whose filter may not allow that.
            let can_call =
                returns == Returns::ByProbe && sites.iter().any(|site| site.called_offset.is_some());
            let makes_calls = can_call && makes_calls(loaded);
            let links = attach_provider(loaded, binary, &sites, scope, makes_calls);
            self.keep(links, sites.len(), first.id.event.name());
        }
    }

    fn attach_calls(
        &mut self,
        loaded: &mut Loaded,
        binary: &File,
        plan: &Plan,
        scope: Scope,
        returns: Returns,
    ) {
        let calls = match returns {
            Returns::ByProbe => plan.calls.clone(),
            // A release that cannot be seen to end is left out; an allocation is not.
            Returns::AtCallers => {
                let ends_seen = |call: &&CallSite| !call.id.result.is_release() || !call.exits.is_empty();
                plan.calls.iter().filter(ends_seen).cloned().collect()
            }
        };
        let [first, ..] = calls.as_slice() else { return };
        let links = match returns {
            Returns::ByProbe => attach_calls(loaded, binary, &calls, scope),
            Returns::AtCallers if calls.iter().all(|call| !call.exits.is_empty()) => {
                attach_calls_at_callers(loaded, binary, &calls, scope)
            }
            Returns::AtCallers => {
                let detail = format!(
                    "a seccomp filter is in force, which may end the process at a return probe, and not all \
                     callers of {} are known: only mmap, brk and page faults are seen",
                    first.function
                );
                self.misses.push(Miss { reason: "return_probes_unsafe", detail });
                return;
            }
        };
        self.keep(links, calls.len(), &first.function);
    }

    fn keep(&mut self, links: anyhow::Result<Vec<HeldLink>>, sites: usize, function: &str) {
        match links {
            Ok(links) => {
                self.links.extend(links);
                self.attached += sites;
            }
            Err(error) => {
                let detail = format!("the probes in {function} could not be attached: {error:#}");
                self.misses.push(Miss { reason: "attach_refused", detail });
            }
        }
    }

    /// How many sites are live.
    pub fn len(&self) -> usize {
        self.attached
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.attached == 0
    }
}

/// Where a binary's `sync.Pool.Get` is probed when it is.
pub struct PoolSites {
    file: File,
    sites: Vec<Site>,
    scope: Scope,
}

/// Live probes of [`PoolSites`]; dropping them detaches.
#[expect(dead_code, reason = "links are kept to be dropped")]
pub struct PoolProbes(Vec<HeldLink>);

impl PoolSites {
    /// `None` where there are none, or the binary's other sites are not attached.
    pub fn of(file: &File, sites: Vec<Site>, scope: Scope, others_attached: bool) -> Option<Self> {
        if sites.is_empty() || !others_attached {
            return None;
        }
        Some(Self { file: file.try_clone().ok()?, sites, scope })
    }

    /// # Errors
    /// Why the kernel refuses.
    pub fn attach(&self, loaded: &mut Loaded) -> anyhow::Result<PoolProbes> {
        attach_sites(loaded, &self.file, &self.sites, self.scope).map(PoolProbes)
    }
}
