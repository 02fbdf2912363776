//! `doctor`: not there yet.

/// Always fails.
pub fn run(_config: crate::config::DoctorConfig) -> anyhow::Result<u8> {
    anyhow::bail!("`doctor` is not implemented")
}
