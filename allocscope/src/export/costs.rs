//! A profile into stacks by the names of their functions: what every format of it is made from.

use crate::aggregate::{Profile, Site, Values};
use crate::config::Weight;
use crate::symbol::{Place, PlaceNames, Stacks, callers};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A profile, and what is needed to tell it.
#[derive(Clone, Copy)]
pub struct Costs<'a> {
    /// Costs by stack.
    pub profile: &'a Profile,
    /// The stacks.
    pub stacks: &'a Stacks,
    /// Names of functions by place, the innermost first.
    pub names: &'a PlaceNames,
    /// Files by the number of their module.
    pub modules: &'a [PathBuf],
    /// Names of processes.
    pub comms: &'a BTreeMap<u32, String>,
    /// How long was recorded.
    pub duration: Duration,
    /// When the recording began, since 1970.
    pub began: Duration,
}

/// In place of a stack that was not taken, or that there was no room for.
const NO_STACK: &str = "[no stack]";

impl<'a> Costs<'a> {
    /// Values by the names on a stack, the process first, the innermost function last.
    pub fn folded(&self) -> BTreeMap<Vec<&'a str>, Values> {
        let mut folded: BTreeMap<Vec<&str>, Values> = BTreeMap::new();
        for (site, values) in self.profile.sites() {
            let sum = folded.entry(self.line(site)).or_default();
            *sum = added(sum, values);
        }
        folded
    }

    fn line(&self, site: &Site) -> Vec<&'a str> {
        let mut line = vec![self.comms.get(&site.pid).map_or("?", String::as_str)];
        let places = self.callers(site);
        for (place, skipped) in places.iter().rev() {
            line.extend(self.names_at(place).iter().skip(*skipped).rev().map(String::as_str));
        }
        if places.is_empty() {
            line.push(NO_STACK);
        }
        line
    }

    /// The places on a site's stack, the innermost first, without the allocator's; see [`callers`].
    pub fn callers(&self, site: &Site) -> Vec<(Place, usize)> {
        callers(self.stacks.get(site.stack), self.names)
    }

    /// The functions at a place, the innermost first.
    pub fn names_at(&self, place: &Place) -> &'a [String] {
        self.names.get(place).map_or(&[], Vec::as_slice)
    }
}

fn added(one: &Values, other: &Values) -> Values {
    Values {
        count: one.count.saturating_add(other.count),
        bytes: one.bytes.saturating_add(other.bytes),
        call_ns: one.call_ns.saturating_add(other.call_ns),
        touch_ns: one.touch_ns.saturating_add(other.touch_ns),
        release_ns: one.release_ns.saturating_add(other.release_ns),
        faults: one.faults.saturating_add(other.faults),
    }
}

/// The value that stacks are weighted by.
pub fn weighed(values: &Values, weight: Weight) -> u64 {
    match weight {
        Weight::Bytes => values.bytes,
        Weight::Call => values.call_ns,
        Weight::Touch => values.touch_ns,
        Weight::Release => values.release_ns,
        Weight::Faults => values.faults,
        Weight::Count => values.count,
    }
}

/// What a weight is of, and its unit.
pub fn described(weight: Weight) -> (&'static str, &'static str) {
    match weight {
        Weight::Bytes => ("Bytes of large allocations", "bytes"),
        Weight::Call => ("Time in the calls of large allocations", "ns"),
        Weight::Touch => ("Time of first touch of large allocations", "ns"),
        Weight::Release => ("Time to release large allocations", "ns"),
        Weight::Faults => ("Page faults of first touch of large allocations", "faults"),
        Weight::Count => ("Large allocations", "allocations"),
    }
}
