//! `inspect`: not there yet.

/// Always fails.
pub fn run(_config: crate::config::InspectConfig) -> anyhow::Result<u8> {
    anyhow::bail!("`inspect` is not implemented")
}
