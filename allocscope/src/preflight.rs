//! Privileges and kernel, checked before anything is loaded, and privileges given up after.

use crate::failure::{Exit, Failure};
use anyhow::{Context, Result};
use aya::maps::MapType;
use caps::{CapSet, Capability, CapsHashSet};

/// What tracing needs, and what for.
pub const NEEDED: [(Capability, &str); 2] = [
    (Capability::CAP_SYS_ADMIN, "attach probes"),
    (Capability::CAP_SYS_PTRACE, "look at other users' processes"),
];

/// What is kept after start: the needed ones, and those that split off from CAP_SYS_ADMIN.
const KEPT: [Capability; 6] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_DAC_OVERRIDE,
];

/// Checks what tracing cannot do without.
///
/// # Errors
/// [`Exit::Privilege`] naming what is missing; [`Exit::Kernel`] where there is no BPF ring buffer.
pub fn check() -> Result<()> {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(capability, purpose)| format!("{capability} (to {purpose})"))
        .collect();
    if !missing.is_empty() {
        let message = format!("missing {}; run it as root, for example with sudo", missing.join(" and "));
        return Err(Failure::error(Exit::Privilege, message));
    }
    if !aya::sys::is_map_supported(MapType::RingBuf).unwrap_or(true) {
        let message =
            "this kernel has no BPF ring buffer, which came with Linux 5.8; allocscope needs 5.15 or newer";
        return Err(Failure::error(Exit::Kernel, message));
    }
    Ok(())
}

/// Whether this process has a capability.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Gives up every capability that tracing does not need from here on.
///
/// # Errors
/// Where the kernel refuses, which it does not do for giving up.
pub fn drop_privileges() -> Result<()> {
    let have = caps::read(None, CapSet::Permitted).context("capabilities cannot be read")?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|capability| have.contains(capability)).collect();
    caps::clear(None, CapSet::Inheritable).context("capabilities cannot be given up")?;
    caps::set(None, CapSet::Effective, &kept).context("capabilities cannot be given up")?;
    caps::set(None, CapSet::Permitted, &kept).context("capabilities cannot be given up")
}
