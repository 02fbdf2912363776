//! allocscope shows what large allocations really cost a running process: the allocator's call, the
//! page faults of first touch and the release.
//!
//! # One way through the house
//!
//! ```text
//! Cli -> Config -> [ProcessInfo] -> Plan -> Attached ==> kernel maps, ring ==> Reading -> Aggregator -> Snapshot -> Prometheus | table | JSON
//! cli    config    target           allocator probe      allocscope-ebpf       intake     aggregate   +findings   export
//!                                   + site                                                            advice
//! ```
//!
//! Each arrow is a type and each stage imports only stages to its left, plus `allocscope_common`.
//! The one way back is a process event (fork, exec, exit), which goes to [`session`], which asks for
//! discovery again. What decides things is pure; what touches the world is thin.
//!
//! | stage | what it does | world |
//! |---|---|---|
//! | [`cli`], [`config`] | flags into one validated value, one file of each a command; core code never sees clap | pure |
//! | [`target`] | which processes, what they map, which container | reads /proc |
//! | [`allocator`] | which allocator or runtime a process uses, which functions form its large-object path | pure over ELF bytes, which it asks a [`allocator::source::ByteSource`] for |
//! | [`site`] | disassembly: where exactly to put each probe, at what price, or why not | pure over code bytes |
//! | [`probe`] | a plan into live links; what could not be attached is data, not an error | kernel |
//! | [`intake`] | maps and ring buffer into a `Reading`; decoding is pure and checked | kernel |
//! | [`symbol`] | addresses of code into names, copies of stacks into such addresses | pure over ELF bytes |
//! | [`aggregate`] | readings into a `Snapshot`: totals, histograms, retirement of dead processes | pure, cannot fail |
//! | [`advice`] | snapshots over time into findings: what a process could save, what that rests on, the setting that does it | pure, cannot fail |
//! | [`export`] | a snapshot into bytes, one file or folder a format; `http` is the only socket | pure, but for http |
//! | [`session`] | owns one tracing run: what is traced, attached and read | wiring |
//! | [`preflight`] | privileges and kernel, before anything is loaded; privileges given up after | edge |
//! | [`command`] | one file a subcommand | edge |
//!
//! Beside them stands [`pool`], a library of its own (`default-features = false`) that imports none of them: what the
//! advice tells people to use, and a target that the tracer knows.
//!
//! # Invariants, and what guards them
//!
//! 1. Stages import only leftwards. (`cargo xtask tidy`)
//! 2. `site`, `allocator`, `symbol`, `aggregate`, `advice` and `export` do no I/O and cannot fail on data: what reads a file
//!    for `allocator` is in [`session`], and what cannot be read is absent. (`cargo xtask tidy`;
//!    `tests/hostile.rs` on mutated binaries, with bounds on time and memory; `allocscope/fuzz`)
//! 3. A small allocation costs nothing, unless the user asked for it and was told the price: no probe sits on a
//!    path that every small allocation takes; [`site::SmallCalls`] says of each which ones pass it. (`site` and
//!    `allocator` plan large paths only; `tests/go.rs` counts sizes around the threshold; `xtask bench overhead`)
//! 4. No probe can hurt its target: never a return probe in a Go program, in a function that can throw or in a
//!    process with a seccomp filter, never off an instruction boundary, never on a 5-byte nop of foreign code; on that of
//!    our own provider ([`allocator::provider`]) only where the kernel was seen to make a call of one that a child made
//!    by `fork` survives.
//!    (`site::decode` refuses a stream that does not end with its function; the kernel side's map `RETURN_SAFE`;
//!    `tests/go.rs` and `tests/native.rs` run real programs under stack growth, collection, exceptions, filters)
//! 5. Kernel work per event is bounded, and small events insert and delete nothing; frequent ones look nothing up in
//!    a hash but once. (the verifier; `allocscope-ebpf`'s `inflight`, `thread`, `record`)
//! 6. Nothing is lost silently: each loss has a [`allocscope_common::counter::LossReason`] that reaches
//!    metrics and reports. (the enum is the map's index; exporters print every value)
//! 7. Coverage is stated: faults in large ranges against faults seen, sites attached against planned.
//!    ([`aggregate::Coverage`]; golden texts in `export::table`)
//!    Causes of a window are disjoint and sum to its time. (`allocscope_common::phases`; `tests/causes.rs`)
//! 8. Histograms leave whole; only viewers compute percentiles. ([`intake::SeriesReading`] keeps
//!    buckets; `export::quantile` is used by viewers only)
//! 9. The tool knows its own price: measured at start-up, counted per process, exported.
//!    (`session::price`)
//! 10. Nothing stays attached: every link is owned by a descriptor of this process, most by one of a file system
//!     that nobody else can reach and whose end does not wait (`probe`'s `held`). Privileges are given up after
//!     start. (`tests/lifecycle.rs`, `tests/go.rs` kill it and look at the target's code)
//! 11. A bound on everything: processes, series, map entries, live ranges; past it, the overflow is
//!     counted. (`probe::load` sets every size)
//! 12. Every number in the README comes from a command in the repository. (`cargo xtask bench`, `demo`)

// The page above is the tracer's.
#![cfg_attr(not(feature = "tracer"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "tracer")]
pub mod advice;
#[cfg(feature = "tracer")]
pub mod aggregate;
#[cfg(feature = "tracer")]
pub mod allocator;
#[cfg(feature = "tracer")]
pub mod cli;
#[cfg(feature = "tracer")]
pub mod command;
#[cfg(feature = "tracer")]
pub mod config;
#[cfg(feature = "tracer")]
pub mod export;
#[cfg(feature = "tracer")]
pub mod failure;
#[cfg(feature = "tracer")]
pub mod intake;
pub mod pool;
#[cfg(feature = "tracer")]
pub mod preflight;
#[cfg(feature = "tracer")]
pub mod probe;
#[cfg(feature = "tracer")]
pub mod session;
#[cfg(feature = "tracer")]
pub mod site;
#[cfg(feature = "tracer")]
pub mod symbol;
#[cfg(feature = "tracer")]
pub mod target;
