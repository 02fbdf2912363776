//! A snapshot into bytes, one file or folder a format; [`http`] is the only socket.

pub mod budget;
pub mod costs;
pub mod exemplars;
pub mod findings;
pub mod flame;
pub mod folded;
pub mod go_runtime;
pub mod http;
pub mod json;
pub mod junit;
pub mod metrics;
pub mod names;
mod page;
pub mod pprof;
pub mod provider;
pub mod quantile;
pub mod rows;
#[cfg(test)]
mod sample;
pub mod table;
mod touched;
