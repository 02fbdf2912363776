//! allocscope shows what large allocations really cost a running process: the allocator's call, the
//! page faults of first touch and the release.
//!
//! # One way through the house
//!
//! ```text
//! Cli -> Config -> [ProcessInfo] -> Plan -> Attached ==> kernel maps, ring ==> Reading -> Aggregator -> Snapshot -> Prometheus | table | JSON
//! cli    config    target           allocator probe      allocscope-ebpf       intake     aggregate     export
//!                                   + site
//! ```
//!
//! Each arrow is a type and each stage imports only stages to its left, plus `allocscope_common`.
//! The one way back is a process event (fork, exec, exit), which goes to [`session`], which asks for
//! discovery again. What decides things is pure; what touches the world is thin.
//!
//! | stage | what it does | world |
//! |---|---|---|
//! | [`cli`], [`config`] | flags into one validated value; core code never sees clap | pure |
//! | [`target`] | which processes, what they map, which container | reads /proc |
//! | [`allocator`] | which allocator or runtime a process uses, which functions form its large-object path | pure over ELF bytes |
//! | [`site`] | disassembly: where exactly to put each probe, at what price, or why not | pure over code bytes |
//! | [`probe`] | a plan into live links; what could not be attached is data, not an error | kernel |
//! | [`intake`] | maps and ring buffer into a `Reading`; decoding is pure and checked | kernel |
//! | [`aggregate`] | readings into a `Snapshot`: totals, histograms, retirement of dead processes | pure, cannot fail |
//! | [`export`] | a snapshot into bytes, one file a format; `http` is the only socket | pure, but for http |
//! | [`session`] | owns one tracing run: what is traced, attached and read | wiring |
//! | [`command`] | one file a subcommand | edge |

pub mod aggregate;
pub mod allocator;
pub mod cli;
pub mod command;
pub mod config;
pub mod export;
pub mod failure;
pub mod intake;
pub mod preflight;
pub mod probe;
pub mod session;
pub mod site;
pub mod target;
