//! A snapshot into bytes, one file a format.

pub mod json;
pub mod metrics;
pub mod names;
pub mod quantile;
mod rows;
#[cfg(test)]
mod sample;
pub mod table;
