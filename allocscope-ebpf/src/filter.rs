//! The current thread into its traced process, or nothing: the first thing every program does.

use crate::maps::{MIN_SIZE, RETURN_SAFE, TARGETS};
use allocscope_common::config::Target;
use allocscope_common::key::space;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

/// The current thread, known to belong to a traced process.
#[derive(Clone, Copy)]
pub struct Traced {
    /// tgid in the upper half, thread id in the lower one: the tag of everything in flight.
    pub pid_tgid: u64,
    /// The process' entry in the map of targets; never null.
    pub target: *mut Target,
    /// The process' slot.
    pub slot: u32,
}

impl Traced {
    /// The current thread, where its process is traced.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        let pid_tgid = bpf_get_current_pid_tgid();
        let target = TARGETS.get_ptr_mut((pid_tgid >> 32) as u32)?;
        // SAFETY: the pointer comes from the look-up above, which the verifier checks for null.
        let slot = unsafe { (*target).slot };
        Some(Self { pid_tgid, target, slot })
    }

    /// The number of the process' address space.
    #[inline(always)]
    pub fn space(&self) -> u32 {
        // SAFETY: `target` is a checked map value; map memory stays valid while a program runs.
        space(self.slot, unsafe { (*self.target).exec_count })
    }

    /// The process' thread group.
    #[inline(always)]
    pub fn tgid(&self) -> u32 {
        (self.pid_tgid >> 32) as u32
    }

    /// Whether return probes cannot hurt the process.
    #[inline(always)]
    pub fn is_return_safe(&self) -> bool {
        // SAFETY: a checked map value.
        RETURN_SAFE.get_ptr(self.slot).is_some_and(|safe| unsafe { *safe } != 0)
    }

    /// Tells whether return probes cannot hurt the process in `slot`.
    #[inline(always)]
    pub fn set_return_safe(slot: u32, safe: bool) {
        if let Some(word) = RETURN_SAFE.get_ptr_mut(slot) {
            // SAFETY: a checked map value; whoever writes it at once writes a whole word.
            unsafe { *word = u32::from(safe) };
        }
    }

    /// Whether a flag of [`allocscope_common::config`] is set for the process.
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        // SAFETY: as in `space`.
        unsafe { (*self.target).flags & flag != 0 }
    }
}

/// Whether `bytes` count as large.
#[inline(always)]
pub fn is_large(bytes: u64) -> bool {
    bytes >= MIN_SIZE.load()
}
