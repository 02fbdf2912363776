//! A snapshot into bytes, one file a format.

pub mod metrics;
pub mod names;
pub mod quantile;
#[cfg(test)]
mod sample;
