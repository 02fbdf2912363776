//! `daemon`: not there yet.

/// Always fails.
pub fn run(_config: crate::config::DaemonConfig) -> anyhow::Result<u8> {
    anyhow::bail!("`daemon` is not implemented")
}
