//! The current thread into its traced process, or nothing: the first thing every program does.

use crate::maps::{IMAGES, MIN_SIZE, RETURN_SAFE, TARGETS};
use allocscope_common::config::{self, RETURNS_SAFE, RETURNS_UNKNOWN, Target};
use allocscope_common::key::space;
use allocscope_common::object::{home, slot_of_home};
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

    /// What is filed for the process.
    #[inline(always)]
    pub fn image(&self) -> Option<Image> {
        Image::of(self.slot)
    }

    /// The process' thread group.
    #[inline(always)]
    pub fn tgid(&self) -> u32 {
        (self.pid_tgid >> 32) as u32
    }

    /// Tells whether return probes can hurt the process in `slot`: [`RETURNS_SAFE`] or its like.
    #[inline(always)]
    pub fn set_returns(slot: u32, returns: u32) {
        if let Some(word) = RETURN_SAFE.get_ptr_mut(slot) {
            // SAFETY: a checked map value; whoever writes it at once writes a whole word.
            unsafe { *word = returns };
        }
    }

    /// Whether a flag of [`allocscope_common::config`] is set for the process.
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        // SAFETY: `target` is a checked map value; map memory stays valid while a program runs.
        unsafe { (*self.target).flags & flag != 0 }
    }
}

/// What is filed for the process in a slot.
#[derive(Clone, Copy)]
pub struct Image {
    /// The slot.
    pub slot: u32,
    /// The slot's entry in the map of images; never null.
    pub filed: *mut config::Image,
}

impl Image {
    /// The image of the process in `slot`.
    #[inline(always)]
    pub fn of(slot: u32) -> Option<Self> {
        Some(Self { slot, filed: IMAGES.get_ptr_mut(slot)? })
    }

    /// The number of the address space, as ranges are filed under.
    #[inline(always)]
    pub fn space(&self) -> u32 {
        // SAFETY: a checked map value.
        space(self.slot, unsafe { (*self.filed).number })
    }

    /// The same for objects.
    #[inline(always)]
    pub fn home(&self) -> u64 {
        // SAFETY: a checked map value.
        home(self.slot, unsafe { (*self.filed).number })
    }

    /// The image that an object or call of this home belongs to; `None` where that is gone.
    #[inline(always)]
    pub fn of_home(home: u64) -> Option<Self> {
        Self::of(slot_of_home(home)).filter(|image| image.home() == home)
    }
}

/// Whether return probes can hurt the process in `slot`: [`RETURNS_SAFE`] or its like.
#[inline(always)]
pub fn returns_of(slot: u32) -> u32 {
    // SAFETY: a checked map value.
    RETURN_SAFE.get_ptr(slot).map_or(RETURNS_UNKNOWN, |returns| unsafe { *returns })
}

/// Whether return probes cannot hurt the process in `slot`.
#[inline(always)]
pub fn is_return_safe(slot: u32) -> bool {
    returns_of(slot) == RETURNS_SAFE
}

/// Whether `bytes` count as large.
#[inline(always)]
pub fn is_large(bytes: u64) -> bool {
    bytes >= MIN_SIZE.load()
}
