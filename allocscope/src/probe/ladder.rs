//! How uprobes are attached: the best way that this kernel has, found by trying.
//!
//! | rung | kernel | what it is |
//! |---|---|---|
//! | session | 6.13 | one link for a file; a call that is filtered out at its entry gets no return trampoline |
//! | multi | 6.6 | one link for the entries of a file and one for the returns |
//! | perf | 4.17 | a perf event for each site: each takes the kernel a tenth of a second to detach |
//!
//! Plain sites (Go) have no return side, so session is multi for them.

use super::faults::program_of;
use super::held::{HeldLink, Holder};
use super::perf_link::{UprobePlace, attach_uprobe};
use super::raw::{AttachType, Points, RawObject, link};
use super::{Loaded, Scope};
use crate::config::AttachVia;
use crate::site::{CallSite, ProviderSite, Site};
use anyhow::{Context, Result, anyhow};
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The program behind what programs tell of their own memory by the provider `allocscope`.
const PROVIDER: &str = "provider_site";
/// That behind what they sample of it.
const OTEL: &str = "otel_site";

/// Programs loaded so far for each rung, and the rungs that were tried in vain.
#[derive(Default)]
pub struct Ladder {
    forced: Option<AttachVia>,
    object: Option<RawObject>,
    programs: BTreeMap<(&'static str, u32), OwnedFd>,
    refused: Vec<AttachVia>,
    used: Option<AttachVia>,
}

impl Ladder {
    /// `forced` is the only rung to try, if any. Where `object` is missing only perf events are left.
    pub fn new(forced: Option<AttachVia>, object: Option<RawObject>) -> Self {
        Self { forced, object, ..Self::default() }
    }

    /// The rung that was used last.
    pub fn used(&self) -> Option<AttachVia> {
        self.used
    }

    fn rungs(&self) -> Vec<AttachVia> {
        match self.forced {
            Some(forced) => vec![forced],
            None => AttachVia::ALL.into_iter().filter(|rung| !self.refused.contains(rung)).collect(),
        }
    }

    fn program(&mut self, name: &'static str, attach_type: AttachType) -> Result<OwnedFd> {
        let key = (name, attach_type as u32);
        if !self.programs.contains_key(&key) {
            let object = self.object.as_ref().context("the object could not be bound to its maps")?;
            self.programs.insert(key, object.load(name, attach_type)?);
        }
        Ok(self.programs.get(&key).context("a program that was just loaded")?.try_clone()?)
    }
}

/// Attaches plain sites, all or none.
///
/// # Errors
/// Why the last rung refused.
pub fn attach_sites(loaded: &mut Loaded, file: &File, sites: &[Site], scope: Scope) -> Result<Vec<HeldLink>> {
    let points = Points {
        offsets: sites.iter().map(|site| site.file_offset).collect(),
        cookies: sites.iter().map(|site| site.id.to_cookie()).collect(),
        ..Points::default()
    };
    climb(loaded, |loaded, rung| match rung {
        AttachVia::Session | AttachVia::Multi => {
            let program = loaded.ladder.program("go_site", AttachType::Multi)?;
            Ok(vec![multi(&mut loaded.holder, &program, AttachType::Multi, false, file, &points, scope)?])
        }
        AttachVia::Perf => perf(loaded, "go_site", file, &points, scope),
    })
}

/// Attaches to what programs tell of their own memory by one provider, all or none. `makes_calls`: where the kernel
/// makes calls of instructions, those are taken.
///
/// # Errors
/// Why the last rung refused.
pub fn attach_provider(
    loaded: &mut Loaded,
    file: &File,
    sites: &[ProviderSite],
    scope: Scope,
    makes_calls: bool,
) -> Result<Vec<HeldLink>> {
    let mut points = Points::default();
    let name = if sites.iter().any(|site| site.id.event.is_sample()) { OTEL } else { PROVIDER };
    for site in sites {
        let (offset, id) = site.placed(makes_calls);
        points.push(offset, id.to_cookie());
        points.counters.push(site.semaphore_offset.unwrap_or_default());
    }
    climb(loaded, |loaded, rung| match rung {
        AttachVia::Session | AttachVia::Multi => {
            let program = loaded.ladder.program(name, AttachType::Multi)?;
            Ok(vec![multi(&mut loaded.holder, &program, AttachType::Multi, false, file, &points, scope)?])
        }
        AttachVia::Perf => perf_counted(loaded, name, file, &points, scope),
    })
}

/// Attaches plain probes at the entries of calls and behind them in their callers, all or none.
///
/// # Errors
/// Why the last rung refused.
pub fn attach_calls_at_callers(
    loaded: &mut Loaded,
    file: &File,
    calls: &[CallSite],
    scope: Scope,
) -> Result<Vec<HeldLink>> {
    let (mut entries, mut exits) = (Points::default(), Points::default());
    for call in calls {
        let cookie = call.id.to_cookie_at_callers();
        entries.push(call.file_offset, cookie);
        call.exits.iter().for_each(|exit| exits.push(exit.file_offset, cookie));
    }
    let ends = [End::plain("native_exit", &exits), End::plain("native_entry", &entries)];
    climb(loaded, |loaded, rung| match rung {
        AttachVia::Session | AttachVia::Multi => multi_ends(loaded, file, ends, scope),
        AttachVia::Perf => perf_ends(loaded, file, ends, scope),
    })
}

/// Attaches both ends of calls, all or none.
///
/// # Errors
/// Why the last rung refused.
pub fn attach_calls(
    loaded: &mut Loaded,
    file: &File,
    calls: &[CallSite],
    scope: Scope,
) -> Result<Vec<HeldLink>> {
    let points = Points {
        offsets: calls.iter().map(|call| call.file_offset).collect(),
        cookies: calls.iter().map(|call| call.id.to_cookie()).collect(),
        ..Points::default()
    };
    let leave = End { program: "native_return", points: &points, is_return: true };
    let ends = [leave, End::plain("native_entry", &points)];
    climb(loaded, |loaded, rung| match rung {
        AttachVia::Session => {
            let program = loaded.ladder.program("native_session", AttachType::Session)?;
            Ok(vec![multi(&mut loaded.holder, &program, AttachType::Session, false, file, &points, scope)?])
        }
        AttachVia::Multi => multi_ends(loaded, file, ends, scope),
        AttachVia::Perf => perf_ends(loaded, file, ends, scope),
    })
}

/// What is attached at one end of calls.
#[derive(Clone, Copy)]
struct End<'p> {
    program: &'static str,
    points: &'p Points,
    is_return: bool,
}

impl<'p> End<'p> {
    fn plain(program: &'static str, points: &'p Points) -> Self {
        Self { program, points, is_return: false }
    }
}

/// Attaches to both, in their order: the ends of calls come first, because an entry without its return would stay open.
fn multi_ends(loaded: &mut Loaded, file: &File, ends: [End<'_>; 2], scope: Scope) -> Result<Vec<HeldLink>> {
    let mut programs = Vec::with_capacity(ends.len());
    for end in ends {
        programs.push(loaded.ladder.program(end.program, AttachType::Multi)?);
    }
    let attached = programs.iter().zip(ends).map(|(program, end)| {
        multi(&mut loaded.holder, program, AttachType::Multi, end.is_return, file, end.points, scope)
    });
    attached.collect()
}

/// The same by perf events.
fn perf_ends(loaded: &mut Loaded, file: &File, ends: [End<'_>; 2], scope: Scope) -> Result<Vec<HeldLink>> {
    let mut links = Vec::new();
    for end in ends {
        links.extend(perf(loaded, end.program, file, end.points, scope)?);
    }
    Ok(links)
}

/// Tries the rungs from the best one on. One that fails where a lower one works is not tried again.
fn climb(
    loaded: &mut Loaded,
    mut attach: impl FnMut(&mut Loaded, AttachVia) -> Result<Vec<HeldLink>>,
) -> Result<Vec<HeldLink>> {
    let mut failed = Vec::new();
    let mut last = anyhow!("there is no way to attach");
    for rung in loaded.ladder.rungs() {
        match attach(loaded, rung) {
            Ok(links) => {
                loaded.ladder.refused.extend(failed);
                loaded.ladder.used = Some(rung);
                return Ok(links);
            }
            Err(error) => {
                log::info!("uprobes cannot be attached via {rung}: {error:#}");
                failed.push(rung);
                last = error;
            }
        }
    }
    Err(last)
}

fn multi(
    holder: &mut Holder,
    program: &OwnedFd,
    attach_type: AttachType,
    at_return: bool,
    file: &File,
    points: &Points,
    scope: Scope,
) -> Result<HeldLink> {
    let pid = match scope {
        Scope::Process(pid) => pid,
        Scope::Everyone => 0,
    };
    let fd = link(program.as_fd(), attach_type, at_return, file, points, pid)
        .with_context(|| format!("the kernel refuses a {attach_type:?} link"))?;
    Ok(holder.hold(fd))
}

/// By perf events that raise counters, of which aya knows nothing.
fn perf_counted(
    loaded: &mut Loaded,
    program: &'static str,
    file: &File,
    points: &Points,
    scope: Scope,
) -> Result<Vec<HeldLink>> {
    let program: &mut UProbe = program_of(&mut loaded.ebpf, program)?;
    if program.fd().is_err() {
        program.load()?;
    }
    let pid = match scope {
        Scope::Process(pid) => Some(pid),
        Scope::Everyone => None,
    };
    let program = program.fd()?.as_fd();
    let mut links = Vec::with_capacity(points.offsets.len());
    for ((&offset, &cookie), &counter) in points.offsets.iter().zip(&points.cookies).zip(&points.counters) {
        let at = UprobePlace { file, offset, counter, cookie };
        let link = attach_uprobe(program, &at, pid).context("the kernel refuses a uprobe with a counter")?;
        links.push(loaded.holder.hold(link));
    }
    Ok(links)
}

fn perf(
    loaded: &mut Loaded,
    program: &'static str,
    file: &File,
    points: &Points,
    scope: Scope,
) -> Result<Vec<HeldLink>> {
    let program: &mut UProbe = program_of(&mut loaded.ebpf, program)?;
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
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut links = Vec::with_capacity(points.offsets.len());
    for (&offset, &cookie) in points.offsets.iter().zip(&points.cookies) {
        let location = UProbeAttachLocation::AbsoluteOffset(offset);
        let id = program.attach(UProbeAttachPoint { location, cookie: Some(cookie) }, &path, scope)?;
        links.push(loaded.holder.hold_perf(program.take_link(id)?)?);
    }
    Ok(links)
}
