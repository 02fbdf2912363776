//! `run`: not there yet.

/// Always fails.
pub fn run(_config: crate::config::RunConfig) -> anyhow::Result<u8> {
    anyhow::bail!("`run` is not implemented")
}
