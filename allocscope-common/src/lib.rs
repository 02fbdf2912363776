//! The contract between allocscope's kernel side and its user side.
//!
//! Everything here is `no_std`. Two kinds of things live in this crate and no others:
//!
//! 1. The ABI: map keys, map values and ring records. Every such type is `repr(C)`, has no padding
//!    (each file asserts its sizes at compile time) and is plain old data.
//! 2. The pure arithmetic that the kernel side runs, so that it can be tested on the host:
//!    [`bucket`] (durations to histogram buckets), [`range`] (addresses to granules), [`object`]
//!    (objects and granules to places in arrays), [`go_call`] (goroutines to places for their open calls) and
//!    [`touch`] (page faults to the pages that they made real).
#![no_std]

pub mod bucket;
pub mod cause;
pub mod config;
pub mod counter;
pub mod event;
pub mod go_call;
pub mod key;
pub mod native_id;
pub mod object;
pub mod range;
pub mod site_id;
pub mod touch;
#[cfg(feature = "user")]
mod user;
