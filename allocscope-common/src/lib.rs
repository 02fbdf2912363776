//! The contract between allocscope's kernel side and its user side.
//!
//! Everything here is `no_std`. Two kinds of things live in this crate and no others:
//!
//! 1. The ABI: map keys, map values and ring records. Every such type is `repr(C)`, has no padding
//!    (each file asserts its sizes at compile time) and is plain old data.
//! 2. The pure arithmetic that the kernel side runs, so that it can be tested on the host:
//!    [`bucket`] (durations to histogram buckets), [`depth`] (frames), [`range`] (addresses to granules), [`object`]
//!    (objects and granules to places in arrays), [`cell`] (series and buckets to places in arrays), [`go_call`]
//!    (goroutines to places for their open calls), [`go_runtime`] (processor flags to whether a jump is taken),
//!    [`touch`] (page faults to the pages that they made real) and [`phases`] (what a thread does, one thing after
//!    the other, to how long it did each).
#![no_std]

/// 2^64 divided by the golden ratio, odd: multiplying by it spreads what differs over the upper bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

pub mod allocation;
pub mod bucket;
pub mod cause;
pub mod cell;
pub mod config;
pub mod cookie;
pub mod counter;
pub mod depth;
pub mod event;
pub mod go_call;
pub mod go_runtime;
pub mod key;
pub mod native_id;
pub mod object;
pub mod operand;
pub mod phases;
pub mod provider;
pub mod range;
pub mod site_id;
pub mod touch;
#[cfg(feature = "user")]
mod user;
