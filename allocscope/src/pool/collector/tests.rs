//! What is registered, gathered and encoded, against the counters themselves.

use super::*;
use crate::pool::breaker::BreakerOptions;
use crate::pool::counters::{ClassCounters, Drops, Hits};
use crate::pool::pressure::testing::Half;
use crate::pool::{Breaker, BufferPool, Pool, Pressure};
use prometheus::{Registry, TextEncoder};
use std::time::Duration;

fn text(builder: PoolCollectorBuilder) -> String {
    let registry = Registry::new();
    registry.register(Box::new(builder.build().unwrap())).unwrap();
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\nis not in\n{text}");
    }
}

fn pool_counters() -> PoolCounters {
    PoolCounters {
        gets: 100,
        hits: Hits { private: 50, shared: 20, stolen: 7, victim: 3 },
        misses: 20,
        failures: 4,
        returns: 80,
        puts: 5,
        takes: 6,
        drops: Drops {
            full: 1,
            oversized: 2,
            poisoned: 3,
            rejected: 4,
            aged: 5,
            released: 6,
            beyond_limit: 7,
        },
        waits: 8,
        timeouts: 2,
        beyond_limit: 9,
        ticks: 11,
        in_use: 14,
        idle: 12,
        idle_bytes: 49_152,
    }
}

#[test]
fn a_pools_counters_are_told_exactly() {
    let text = text(PoolCollector::builder().pool("requests", pool_counters));
    has(
        &text,
        &[
            "# TYPE allocscope_pool_gets_total counter",
            "# HELP allocscope_pool_gets_total Items handed out.",
            r#"allocscope_pool_gets_total{pool="requests"} 100"#,
            r#"allocscope_pool_hits_total{pool="requests",kind="private"} 50"#,
            r#"allocscope_pool_hits_total{pool="requests",kind="shared"} 20"#,
            r#"allocscope_pool_hits_total{pool="requests",kind="stolen"} 7"#,
            r#"allocscope_pool_hits_total{pool="requests",kind="victim"} 3"#,
            r#"allocscope_pool_misses_total{pool="requests"} 20"#,
            r#"allocscope_pool_failures_total{pool="requests"} 4"#,
            r#"allocscope_pool_returns_total{pool="requests",by="guard"} 80"#,
            r#"allocscope_pool_returns_total{pool="requests",by="put"} 5"#,
            r#"allocscope_pool_takes_total{pool="requests"} 6"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="full"} 1"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="oversized"} 2"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="poisoned"} 3"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="rejected"} 4"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="aged"} 5"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="released"} 6"#,
            r#"allocscope_pool_drops_total{pool="requests",reason="beyond_limit"} 7"#,
            r#"allocscope_pool_waits_total{pool="requests"} 8"#,
            r#"allocscope_pool_timeouts_total{pool="requests"} 2"#,
            r#"allocscope_pool_beyond_limit_total{pool="requests"} 9"#,
            r#"allocscope_pool_generations_total{pool="requests"} 11"#,
            "# TYPE allocscope_pool_in_use gauge",
            r#"allocscope_pool_in_use{pool="requests"} 14"#,
            r#"allocscope_pool_idle{pool="requests"} 12"#,
            r#"allocscope_pool_idle_bytes{pool="requests"} 49152"#,
        ],
    );
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series, 24, "{text}");
}

#[test]
fn classes_arenas_and_fallbacks_are_told_exactly() {
    let class = |bytes| ClassCounters { bytes, pool: pool_counters(), asked_bytes: 77 };
    let buffers =
        move || BufferCounters { classes: vec![class(4096), class(5120)], oversized: 3, regrown: 1 };
    let arena = || ArenaCounters {
        used: 300,
        reserved: 1000,
        committed: 800,
        wasted: 100,
        idle: 400,
        peak_used: 700,
        grows: 2,
        resets: 5,
    };
    let fallback = || FallbackCounters { faults: 4, refused: 1, open: 9, unserved: 2 };
    let builder = PoolCollector::builder().buffer_pool("io", buffers).arena("request", arena);
    has(
        &text(builder.fallback("io", fallback)),
        &[
            r#"allocscope_buffer_pool_gets_total{pool="io",class="4096"} 100"#,
            r#"allocscope_buffer_pool_hits_total{pool="io",class="5120"} 80"#,
            r#"allocscope_buffer_pool_misses_total{pool="io",class="5120"} 20"#,
            r#"allocscope_buffer_pool_drops_total{pool="io",class="5120"} 28"#,
            r#"allocscope_buffer_pool_asked_bytes_total{pool="io",class="5120"} 77"#,
            r#"allocscope_buffer_pool_in_use{pool="io",class="5120"} 14"#,
            r#"allocscope_buffer_pool_idle_bytes{pool="io",class="5120"} 49152"#,
            r#"allocscope_buffer_pool_oversized_total{pool="io"} 3"#,
            r#"allocscope_buffer_pool_regrown_total{pool="io"} 1"#,
            r#"allocscope_arena_used_bytes{arena="request"} 300"#,
            r#"allocscope_arena_peak_used_bytes{arena="request"} 700"#,
            r#"allocscope_arena_reserved_bytes{arena="request"} 1000"#,
            r#"allocscope_arena_committed_bytes{arena="request"} 800"#,
            r#"allocscope_arena_wasted_bytes{arena="request"} 100"#,
            r#"allocscope_arena_idle_bytes{arena="request"} 400"#,
            r#"allocscope_arena_fragmentation_ratio{arena="request"} 0.25"#,
            r#"allocscope_arena_grows_total{arena="request"} 2"#,
            r#"allocscope_arena_resets_total{arena="request"} 5"#,
            r#"allocscope_pool_fallbacks_total{pool="io",reason="fault"} 4"#,
            r#"allocscope_pool_fallbacks_total{pool="io",reason="refused"} 1"#,
            r#"allocscope_pool_fallbacks_total{pool="io",reason="open"} 9"#,
            r#"allocscope_pool_unserved_total{pool="io"} 2"#,
        ],
    );
}

#[test]
fn a_breaker_and_a_policy_at_work_are_read_at_the_scrape() {
    let options = BreakerOptions { least_calls: 2, ..BreakerOptions::default() };
    let breaker = Arc::new(Breaker::with_clock(options, || Duration::ZERO).unwrap());
    let pool = Arc::new(Pool::builder(|| Box::new([0u8; 1024])).size_of(|_| 1024).build());
    let mut pressure = Pressure::builder().signal(Half).least_bytes(1).build();
    let (read_breaker, read_pool, read_policy) =
        (Arc::clone(&breaker), Arc::clone(&pool), pressure.counters());
    let builder = PoolCollector::builder()
        .breaker("io", move || read_breaker.counters())
        .pool("io", move || read_pool.counters())
        .pressure("all", move || Arc::clone(&read_policy));
    let registry = Registry::new();
    registry.register(Box::new(builder.build().unwrap())).unwrap();

    (0..2).for_each(|_| breaker.admit().unwrap().failure());
    assert!(breaker.admit().is_err());
    let out: Vec<_> = (0..8).map(|_| pool.get()).collect();
    drop(out);
    pressure.step(Duration::ZERO, &[&pool]);

    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let counters = pool.counters();
    has(
        &text,
        &[
            r#"allocscope_breaker_state{breaker="io",state="closed"} 0"#,
            r#"allocscope_breaker_state{breaker="io",state="open"} 1"#,
            r#"allocscope_breaker_state{breaker="io",state="half_open"} 0"#,
            r#"allocscope_breaker_transitions_total{breaker="io",state="open"} 1"#,
            r#"allocscope_breaker_rejected_total{breaker="io"} 1"#,
            r#"allocscope_breaker_failures_total{breaker="io"} 2"#,
            r#"allocscope_breaker_slow_total{breaker="io"} 0"#,
            r#"allocscope_pressure_steps_total{policy="all"} 1"#,
            r#"allocscope_pressure_releases_total{policy="all"} 1"#,
            r#"allocscope_pressure_asked_bytes_total{policy="all"} 4096"#,
            r#"allocscope_pool_gets_total{pool="io"} 8"#,
        ],
    );
    let left = counters.idle_bytes;
    assert!(left <= 4096, "{counters:?}");
    has(
        &text,
        &[
            &format!("allocscope_pressure_released_bytes_total{{policy=\"all\"}} {}", 8192 - left),
            &format!("allocscope_pool_idle_bytes{{pool=\"io\"}} {left}"),
            &format!(
                "allocscope_pool_drops_total{{pool=\"io\",reason=\"released\"}} {}",
                counters.drops.released
            ),
        ],
    );
}

#[test]
fn names_are_bounded_and_not_twice() {
    let build = |names: &[&str]| {
        let add = |builder: PoolCollectorBuilder, name: &&str| builder.pool(*name, PoolCounters::default);
        names.iter().fold(PoolCollector::builder(), add).build().err()
    };
    let long = "x".repeat(65);
    assert_eq!(build(&["a", "b", "ä \"quoted\""]), None);
    assert_eq!(build(&["a", "b", "a"]), Some(CollectorError::Twice("a".to_owned())));
    for name in ["", "a\nb", &long] {
        assert_eq!(build(&[name]), Some(CollectorError::Name(name.to_owned())));
    }
    let many: Vec<String> = (0..257).map(|number| number.to_string()).collect();
    assert_eq!(build(&many.iter().map(String::as_str).collect::<Vec<_>>()), Some(CollectorError::TooMany));
}

#[test]
fn classes_are_bounded() {
    let classes = (0..1000).map(|bytes| ClassCounters { bytes, ..ClassCounters::default() }).collect();
    let counters = BufferCounters { classes, ..BufferCounters::default() };
    let text = text(PoolCollector::builder().buffer_pool("io", move || counters.clone()));
    let gets = text.lines().filter(|line| line.starts_with("allocscope_buffer_pool_gets_total{")).count();
    assert_eq!(gets, MAX_CLASSES);
}

/// As the conventions have it: one prefix, `_total` on counters alone, units at the end.
#[test]
fn families_are_named_as_prometheus_wants() {
    for family in of::ALL {
        assert!(family.name.starts_with("allocscope_"), "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
    let mut names: Vec<_> = of::ALL.iter().map(|family| family.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), of::ALL.len());
}

/// A buffer pool tells of classes that were used.
#[test]
fn a_real_buffer_pool_is_told() {
    let pool = Arc::new(BufferPool::builder().build());
    drop(pool.get(4096));
    drop(pool.get(4096));
    let read = Arc::clone(&pool);
    has(
        &text(PoolCollector::builder().buffer_pool("io", move || read.counters())),
        &[
            r#"allocscope_buffer_pool_gets_total{pool="io",class="4096"} 2"#,
            r#"allocscope_buffer_pool_hits_total{pool="io",class="4096"} 1"#,
            r#"allocscope_buffer_pool_idle_bytes{pool="io",class="4096"} 4096"#,
        ],
    );
}

#[test]
fn a_collector_shows_the_names_of_its_sources() {
    let builder = PoolCollector::builder().pool("requests", PoolCounters::default);
    let text = format!("{:?}", builder.build().unwrap());
    assert!(text.contains(r#"pools: ["requests"], buffers: []"#), "{text}");
}
