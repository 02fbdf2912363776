//! Counters of named pools, arenas, breakers and policies into Prometheus metrics, read when they are scraped.
//!
//! ```
//! use allocscope::pool::{Pool, collector::PoolCollector};
//! use std::sync::Arc;
//!
//! let pool = Arc::new(Pool::builder(|| vec![0u8; 4096]).build());
//! let read = Arc::clone(&pool);
//! let collector = PoolCollector::builder().pool("requests", move || read.counters()).build()?;
//! let registry = prometheus::Registry::new();
//! registry.register(Box::new(collector))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod families;

use super::arena::ArenaCounters;
use super::breaker::{BreakerCounters, BreakerState};
use super::counters::{BufferCounters, PoolCounters};
use super::fallback::FallbackCounters;
use super::pressure::PressureCounters;
use families as of;
use families::{Family, Kind};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Things of one kind that a collector tells of.
const MAX_NAMES: usize = 256;
/// Bytes of a name.
const MAX_NAME: usize = 64;
/// Size classes of a buffer pool that are told.
const MAX_CLASSES: usize = 128;

/// Why a collector cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorError {
    /// A name is empty, longer than 64 bytes, or has control characters.
    Name(String),
    /// Two of a kind have this name.
    Twice(String),
    /// More than 256 of a kind.
    TooMany,
    /// Prometheus refuses a family, which is a mistake of this file.
    Family(String),
}

impl fmt::Display for CollectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "{name:?} is no name of 1 to {MAX_NAME} bytes without control characters")
            }
            Self::Twice(name) => write!(f, "two are named {name:?}"),
            Self::TooMany => write!(f, "there are more than {MAX_NAMES} of a kind"),
            Self::Family(reason) => write!(f, "a metric is refused: {reason}"),
        }
    }
}

impl std::error::Error for CollectorError {}

/// Named sources of one kind of counters.
type Named<T> = Vec<(String, Box<dyn Fn() -> T + Send + Sync>)>;

/// What a collector tells of.
#[derive(Default)]
struct Sources {
    pools: Named<PoolCounters>,
    buffers: Named<BufferCounters>,
    arenas: Named<ArenaCounters>,
    breakers: Named<BreakerCounters>,
    fallbacks: Named<FallbackCounters>,
    policies: Named<Arc<PressureCounters>>,
}

impl fmt::Debug for Sources {
    /// Their names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Sources");
        out.field("pools", &names(&self.pools)).field("buffers", &names(&self.buffers));
        out.field("arenas", &names(&self.arenas)).field("breakers", &names(&self.breakers));
        out.field("fallbacks", &names(&self.fallbacks)).field("policies", &names(&self.policies)).finish()
    }
}

fn names<T>(named: &Named<T>) -> Vec<&str> {
    named.iter().map(|(name, _)| name.as_str()).collect()
}

/// A [`PoolCollector`] being made. Each source is a name, which becomes a label, and how its counters are read.
#[must_use = "it tells of nothing until it is built and registered"]
#[derive(Debug, Default)]
pub struct PoolCollectorBuilder(Sources);

macro_rules! sources {
    ($($(#[$doc:meta])* $name:ident: $list:ident of $counters:ty;)*) => { $(
        $(#[$doc])*
        pub fn $name(
            mut self,
            name: impl Into<String>,
            read: impl Fn() -> $counters + Send + Sync + 'static,
        ) -> Self {
            self.0.$list.push((name.into(), Box::new(read)));
            self
        }
    )* };
}

impl PoolCollectorBuilder {
    sources! {
        /// One more object pool.
        pool: pools of PoolCounters;
        /// One more buffer pool.
        buffer_pool: buffers of BufferCounters;
        /// One more arena: as an arena is of one thread, its owner shares a copy of its counters now and then.
        arena: arenas of ArenaCounters;
        /// One more breaker.
        breaker: breakers of BreakerCounters;
        /// One more fallback, by the name of its pool.
        fallback: fallbacks of FallbackCounters;
        /// One more policy of release.
        pressure: policies of Arc<PressureCounters>;
    }

    /// Done.
    ///
    /// # Errors
    ///
    /// Where a name is no name, or two of a kind have the same, or there are too many of a kind.
    pub fn build(self) -> Result<PoolCollector, CollectorError> {
        let sources = self.0;
        check(&sources.pools)?;
        check(&sources.buffers)?;
        check(&sources.arenas)?;
        check(&sources.breakers)?;
        check(&sources.fallbacks)?;
        check(&sources.policies)?;
        let desc = |family: &&Family| {
            let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
                .map_err(|error| CollectorError::Family(error.to_string()))
        };
        let descs = of::ALL.iter().map(desc).collect::<Result<_, _>>()?;
        Ok(PoolCollector { sources, descs })
    }
}

fn check<T>(named: &Named<T>) -> Result<(), CollectorError> {
    if named.len() > MAX_NAMES {
        return Err(CollectorError::TooMany);
    }
    let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    for (at, (name, _)) in named.iter().enumerate() {
        if !is_name(name) {
            return Err(CollectorError::Name(name.clone()));
        }
        if named[..at].iter().any(|(other, _)| other == name) {
            return Err(CollectorError::Twice(name.clone()));
        }
    }
    Ok(())
}

/// A source of metrics for a Prometheus registry. Register one with all there is: two would tell the same families.
#[derive(Debug)]
pub struct PoolCollector {
    sources: Sources,
    descs: Vec<Desc>,
}

impl PoolCollector {
    /// A collector that tells of nothing yet.
    pub fn builder() -> PoolCollectorBuilder {
        PoolCollectorBuilder::default()
    }
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut told = Told::default();
        let sources = &self.sources;
        sources.pools.iter().for_each(|(name, read)| told.pool(name, &read()));
        sources.buffers.iter().for_each(|(name, read)| told.buffer_pool(name, &read()));
        sources.arenas.iter().for_each(|(name, read)| told.arena(name, &read()));
        sources.breakers.iter().for_each(|(name, read)| told.breaker(name, &read()));
        sources.fallbacks.iter().for_each(|(name, read)| told.fallback(name, &read()));
        sources.policies.iter().for_each(|(name, read)| told.policy(name, &read()));
        told.0.into_values().collect()
    }
}

/// Families by name, as far as something is told of them.
#[derive(Default)]
struct Told(BTreeMap<&'static str, MetricFamily>);

impl Told {
    fn pool(&mut self, name: &str, counters: &PoolCounters) {
        for (family, value) in [
            (&of::POOL_GETS, counters.gets),
            (&of::POOL_MISSES, counters.misses),
            (&of::POOL_FAILURES, counters.failures),
            (&of::POOL_TAKES, counters.takes),
            (&of::POOL_WAITS, counters.waits),
            (&of::POOL_TIMEOUTS, counters.timeouts),
            (&of::POOL_BEYOND_LIMIT, counters.beyond_limit),
            (&of::POOL_GENERATIONS, counters.ticks),
            (&of::POOL_IN_USE, counters.in_use),
            (&of::POOL_IDLE, counters.idle),
            (&of::POOL_IDLE_BYTES, counters.idle_bytes),
        ] {
            self.add(family, &[name], value as f64);
        }
        let hits = &counters.hits;
        let kinds = [
            ("private", hits.private),
            ("shared", hits.shared),
            ("stolen", hits.stolen),
            ("victim", hits.victim),
        ];
        self.each(&of::POOL_HITS, name, &kinds);
        self.each(&of::POOL_RETURNS, name, &[("guard", counters.returns), ("put", counters.puts)]);
        self.each(&of::POOL_DROPS, name, &counters.drops.by_reason());
    }

    fn buffer_pool(&mut self, name: &str, counters: &BufferCounters) {
        self.add(&of::BUFFER_OVERSIZED, &[name], counters.oversized as f64);
        self.add(&of::BUFFER_REGROWN, &[name], counters.regrown as f64);
        for class in counters.classes.iter().take(MAX_CLASSES) {
            let bytes = class.bytes.to_string();
            for (family, value) in [
                (&of::BUFFER_GETS, class.pool.gets),
                (&of::BUFFER_HITS, class.pool.hits.all()),
                (&of::BUFFER_MISSES, class.pool.misses),
                (&of::BUFFER_DROPS, class.pool.drops.all()),
                (&of::BUFFER_ASKED_BYTES, class.asked_bytes),
                (&of::BUFFER_IN_USE, class.pool.in_use),
                (&of::BUFFER_IDLE_BYTES, class.pool.idle_bytes),
            ] {
                self.add(family, &[name, &bytes], value as f64);
            }
        }
    }

    fn arena(&mut self, name: &str, counters: &ArenaCounters) {
        for (family, value) in [
            (&of::ARENA_USED, counters.used),
            (&of::ARENA_PEAK_USED, counters.peak_used),
            (&of::ARENA_RESERVED, counters.reserved),
            (&of::ARENA_COMMITTED, counters.committed),
            (&of::ARENA_WASTED, counters.wasted),
            (&of::ARENA_IDLE, counters.idle),
        ] {
            self.add(family, &[name], value as f64);
        }
        self.add(&of::ARENA_FRAGMENTATION, &[name], counters.fragmentation());
        self.add(&of::ARENA_GROWS, &[name], counters.grows as f64);
        self.add(&of::ARENA_RESETS, &[name], counters.resets as f64);
    }

    fn breaker(&mut self, name: &str, counters: &BreakerCounters) {
        for state in BreakerState::ALL {
            let is = f64::from(u8::from(counters.state == state));
            self.add(&of::BREAKER_STATE, &[name, state.name()], is);
            let count = counters.transitions[state as usize] as f64;
            self.add(&of::BREAKER_TRANSITIONS, &[name, state.name()], count);
        }
        self.add(&of::BREAKER_REJECTED, &[name], counters.rejected as f64);
        self.add(&of::BREAKER_FAILURES, &[name], counters.failures as f64);
        self.add(&of::BREAKER_SLOW, &[name], counters.slow as f64);
    }

    fn fallback(&mut self, name: &str, counters: &FallbackCounters) {
        self.each(&of::FALLBACKS, name, &counters.by_reason());
        self.add(&of::UNSERVED, &[name], counters.unserved as f64);
    }

    fn policy(&mut self, name: &str, counters: &PressureCounters) {
        self.add(&of::PRESSURE_STEPS, &[name], counters.steps() as f64);
        self.add(&of::PRESSURE_RELEASES, &[name], counters.releases() as f64);
        self.add(&of::PRESSURE_ASKED, &[name], counters.asked_bytes() as f64);
        self.add(&of::PRESSURE_RELEASED, &[name], counters.released_bytes() as f64);
    }

    fn each(&mut self, family: &'static Family, name: &str, values: &[(&str, u64)]) {
        values.iter().for_each(|&(label, value)| self.add(family, &[name, label], value as f64));
    }

    fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        let mut metric = Metric::default();
        metric.set_label(family.labels.iter().zip(labels).map(|(name, value)| label(name, value)).collect());
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.0.entry(family.name).or_insert_with(|| empty(family)).mut_metric().push(metric);
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn empty(family: &Family) -> MetricFamily {
    let mut told = MetricFamily::default();
    told.set_name(family.name.to_owned());
    told.set_help(family.help.to_owned());
    told.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    told
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
