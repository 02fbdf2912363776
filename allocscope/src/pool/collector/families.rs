//! Every metric family of pools: name, kind, labels and help, declared once.

/// How values of a family behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A family as it is declared.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! families {
    ($($const:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $const: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        pub(super) const ALL: &[&Family] = &[$(&$const),*];
    };
}

families! {
    POOL_GETS = Counter "allocscope_pool_gets_total" ["pool"] "Items handed out.";
    POOL_HITS = Counter "allocscope_pool_hits_total" ["pool", "kind"]
        "Items handed out that were there already, by where: the thread's private part, its shared one, another thread's (stolen), the generation before (victim).";
    POOL_MISSES = Counter "allocscope_pool_misses_total" ["pool"] "Items handed out that had to be made.";
    POOL_FAILURES = Counter "allocscope_pool_failures_total" ["pool"]
        "Times that an item could not be made.";
    POOL_RETURNS = Counter "allocscope_pool_returns_total" ["pool", "by"]
        "Items that came to the pool: by the drop of their guard, or put.";
    POOL_TAKES = Counter "allocscope_pool_takes_total" ["pool"] "Items taken out for good.";
    POOL_DROPS = Counter "allocscope_pool_drops_total" ["pool", "reason"]
        "Items dropped instead of kept, or kept and dropped later, by reason.";
    POOL_WAITS = Counter "allocscope_pool_waits_total" ["pool"] "Gets that waited for an item at the limit.";
    POOL_TIMEOUTS = Counter "allocscope_pool_timeouts_total" ["pool"] "Waits that ended without an item.";
    POOL_BEYOND_LIMIT = Counter "allocscope_pool_beyond_limit_total" ["pool"]
        "Items made beyond the limit by gets that cannot fail.";
    POOL_GENERATIONS = Counter "allocscope_pool_generations_total" ["pool"]
        "Generations begun; what is idle survives one and not two.";
    POOL_IN_USE = Gauge "allocscope_pool_in_use" ["pool"] "Items that are out.";
    POOL_IDLE = Gauge "allocscope_pool_idle" ["pool"] "Items held idle.";
    POOL_IDLE_BYTES = Gauge "allocscope_pool_idle_bytes" ["pool"] "Bytes held idle.";
    BUFFER_GETS = Counter "allocscope_buffer_pool_gets_total" ["pool", "class"]
        "Buffers handed out, by the capacity of their class in bytes.";
    BUFFER_HITS = Counter "allocscope_buffer_pool_hits_total" ["pool", "class"]
        "Buffers handed out that were there already.";
    BUFFER_MISSES = Counter "allocscope_buffer_pool_misses_total" ["pool", "class"]
        "Buffers handed out that had to be allocated.";
    BUFFER_DROPS = Counter "allocscope_buffer_pool_drops_total" ["pool", "class"]
        "Buffers dropped instead of kept, or kept and dropped later.";
    BUFFER_ASKED_BYTES = Counter "allocscope_buffer_pool_asked_bytes_total" ["pool", "class"]
        "Bytes asked for; gets times class less this is what rounding up wasted.";
    BUFFER_IN_USE = Gauge "allocscope_buffer_pool_in_use" ["pool", "class"] "Buffers that are out.";
    BUFFER_IDLE_BYTES = Gauge "allocscope_buffer_pool_idle_bytes" ["pool", "class"] "Bytes held idle.";
    BUFFER_OVERSIZED = Counter "allocscope_buffer_pool_oversized_total" ["pool"]
        "Gets above the largest class, which are plain allocations.";
    BUFFER_REGROWN = Counter "allocscope_buffer_pool_regrown_total" ["pool"]
        "Buffers that came back with another capacity than their class has, and were dropped.";
    ARENA_USED = Gauge "allocscope_arena_used_bytes" ["arena"]
        "Bytes handed out since the last reset, with what alignment skipped.";
    ARENA_PEAK_USED = Gauge "allocscope_arena_peak_used_bytes" ["arena"]
        "The most bytes handed out between two resets.";
    ARENA_RESERVED = Gauge "allocscope_arena_reserved_bytes" ["arena"] "Bytes of addresses held.";
    ARENA_COMMITTED = Gauge "allocscope_arena_committed_bytes" ["arena"] "Bytes of these that are backed.";
    ARENA_WASTED = Gauge "allocscope_arena_wasted_bytes" ["arena"]
        "Bytes at ends of chunks that were too small for what came next.";
    ARENA_IDLE = Gauge "allocscope_arena_idle_bytes" ["arena"] "Bytes backed and in no use.";
    ARENA_FRAGMENTATION = Gauge "allocscope_arena_fragmentation_ratio" ["arena"]
        "Wasted share of the bytes gone through since the last reset, 0 to 1.";
    ARENA_GROWS = Counter "allocscope_arena_grows_total" ["arena"] "Times the arena grew.";
    ARENA_RESETS = Counter "allocscope_arena_resets_total" ["arena"] "Times the arena was reset.";
    BREAKER_STATE = Gauge "allocscope_breaker_state" ["breaker", "state"]
        "1 for the state that the breaker is in, 0 for the others.";
    BREAKER_TRANSITIONS = Counter "allocscope_breaker_transitions_total" ["breaker", "state"]
        "Times the breaker went to a state.";
    BREAKER_REJECTED = Counter "allocscope_breaker_rejected_total" ["breaker"] "Calls not let through.";
    BREAKER_FAILURES = Counter "allocscope_breaker_failures_total" ["breaker"]
        "Calls that failed or waited too long.";
    BREAKER_SLOW = Counter "allocscope_breaker_slow_total" ["breaker"] "Calls that waited too long.";
    FALLBACKS = Counter "allocscope_pool_fallbacks_total" ["pool", "reason"]
        "Asks that went to plain allocation: the pool failed (fault), does not serve such asks (refused), or was not asked (open breaker).";
    UNSERVED = Counter "allocscope_pool_unserved_total" ["pool"]
        "Asks that plain allocation could not serve either.";
    PRESSURE_STEPS = Counter "allocscope_pressure_steps_total" ["policy"] "Steps of a policy of release.";
    PRESSURE_RELEASES = Counter "allocscope_pressure_releases_total" ["policy"]
        "Steps that asked for memory.";
    PRESSURE_ASKED = Counter "allocscope_pressure_asked_bytes_total" ["policy"] "Bytes asked for.";
    PRESSURE_RELEASED = Counter "allocscope_pressure_released_bytes_total" ["policy"]
        "Bytes that were given back.";
}
