//! What happened to a process (fork, exec, code mapped, filter set, end) into what is traced.

use super::binaries::{Attached, Used};
use super::{Session, Tracked, Wakeup};
use crate::aggregate::Coverage;
use crate::intake::decode_event;
use crate::site::Miss;
use crate::target::{self, ProcessId, ProcessInfo};
use allocscope_common::config::{OWN_HEAP, Target};
use allocscope_common::event::{NO_SLOT, ProcessEvent, ProcessEventKind};

impl Session {
    /// Takes in what [`Self::wait`] returned.
    pub fn handle(&mut self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::Process(event) => self.handle_event(&event),
            Wakeup::Ended(pid) => {
                // What it did last comes first: an exec that nobody has heard of yet, a child.
                while let Some(event) = self.next_event() {
                    self.handle_event(&event);
                }
                self.end(pid);
            }
        }
    }

    fn next_event(&mut self) -> Option<ProcessEvent> {
        self.events.get_mut().next().and_then(|record| decode_event(&record))
    }

    fn handle_event(&mut self, event: &ProcessEvent) {
        match u8::try_from(event.kind).ok().and_then(ProcessEventKind::from_number) {
            Some(ProcessEventKind::Fork) => self.forked(event),
            Some(ProcessEventKind::Exec) => self.executed(event),
            Some(ProcessEventKind::Map) => self.attach_libraries(event.tgid),
            Some(ProcessEventKind::Filter) => self.attach_without_returns(event.tgid),
            // The process ends when its last thread does, which its handle tells.
            Some(ProcessEventKind::Exit) => log::debug!("the first thread of process {} exited", event.tgid),
            None => {}
        }
    }

    /// A child of a traced process, which the kernel side has given a slot already.
    fn forked(&mut self, event: &ProcessEvent) {
        if event.slot == NO_SLOT
            || self.tracked.get(&event.tgid).is_some_and(|known| known.slot == event.slot)
        {
            return;
        }
        self.end(event.tgid);
        self.slots.insert(event.slot);
        match target::describe(event.tgid) {
            Ok(info) => {
                let attached = self.discover(&info);
                self.set_flags(event.tgid, &attached.coverage);
                self.set_return_safe(event.slot, event.tgid, attached.return_safe);
                self.track(event.slot, info, attached);
            }
            Err(error) => {
                log::debug!("{error}");
                self.track_departed(event);
            }
        }
    }

    /// A child that ended before it could be looked at: it was its parent's image, and what it became
    /// after, its later events tell. They are read before its end is: the handle that cannot be had of it
    /// reports that.
    fn track_departed(&mut self, event: &ProcessEvent) {
        let id = ProcessId { pid: event.tgid, start_ticks: 0 };
        let Some(parent) = self.tracked.get(&event.parent_tgid) else {
            self.maps.remove_target(event.tgid, event.slot);
            self.aggregator.ended(event.slot);
            return;
        };
        let info = ProcessInfo { id, comm: comm_of(event), ..parent.info.clone() };
        let coverage = parent.coverage.clone();
        self.track(
            event.slot,
            info,
            Attached { used: Used::nothing(), coverage, return_safe: false, is_new: false },
        );
    }

    /// A process has a new image: everything known of the old one is void.
    fn executed(&mut self, event: &ProcessEvent) {
        let pid = event.tgid;
        let described = target::describe(pid);
        let wanted = match (&self.options.selection, &described) {
            (Some(selection), Ok(info)) => target::matches(selection, info) && pid != std::process::id(),
            _ => true,
        };
        let Some(known) = self.tracked.remove(&pid) else {
            if wanted && self.options.selection.is_some() {
                self.adopt(pid);
            }
            return;
        };
        let Ok(info) = described else {
            // Gone already: of the new image only its name is known.
            let info = ProcessInfo { comm: comm_of(event), ..known.info.clone() };
            self.aggregator.admit(known.slot, info.clone(), known.coverage.clone());
            self.tracked.insert(pid, Tracked { info, ..known });
            return;
        };
        if !wanted {
            self.tracked.insert(pid, known);
            self.end(pid);
            return;
        }
        let mut attached = self.discover(&info);
        if attached.is_new {
            attached.coverage.misses.push(probed_late());
        }
        self.binaries.release(known.used);
        self.set_flags(pid, &attached.coverage);
        let slot = known.slot;
        self.set_return_safe(slot, pid, attached.return_safe);
        self.maps.outdate(slot);
        self.track(slot, info, attached);
    }

    /// Starts tracing a process that has just become one of those selected.
    fn adopt(&mut self, pid: u32) {
        let over_limit = self.over_limit;
        if let Err(error) = self.trace(pid) {
            log::debug!("{error:#}");
        }
        if self.options.traces_all() {
            // The kernel side counted it at its fork.
            self.over_limit = over_limit;
        }
    }

    /// Tells the kernel side that a process manages its own heap. The process runs meanwhile: what the
    /// kernel side wrote in these microseconds is overwritten, so its ranges start afresh.
    fn set_flags(&mut self, pid: u32, coverage: &Coverage) {
        let flags = self.flags(coverage);
        if flags & OWN_HEAP == 0 {
            return;
        }
        if let Some(target) = self.maps.target(pid) {
            let started = self.maps.start_image(target.slot);
            if let Err(error) =
                started.and_then(|()| self.maps.insert_target(pid, Target { flags, ..target }))
            {
                log::debug!("{error:#}");
            }
        }
    }

    fn end(&mut self, pid: u32) {
        let Some(known) = self.tracked.remove(&pid) else { return };
        self.maps.end_target(pid, known.slot);
        self.watches.forget(pid);
        self.binaries.release(known.used);
        self.aggregator.ended(known.slot);
        self.make_room();
    }
}

/// Who runs the same file later finds it probed.
fn probed_late() -> Miss {
    let detail =
        "its executable was probed some milliseconds after it began to run: what it allocated until then by \
                  itself is not counted"
            .to_owned();
    Miss { reason: "probed_late", detail }
}

/// The short name in an event.
fn comm_of(event: &ProcessEvent) -> String {
    let end = event.comm.iter().position(|&byte| byte == 0).unwrap_or(event.comm.len());
    String::from_utf8_lossy(&event.comm[..end]).into_owned()
}
