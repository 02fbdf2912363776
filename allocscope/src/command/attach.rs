//! `attach`: not there yet.

/// Always fails.
pub fn run(_config: crate::config::AttachConfig) -> anyhow::Result<u8> {
    anyhow::bail!("`attach` is not implemented")
}
