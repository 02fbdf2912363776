//! The current thread into its process and its page faults: the open one, and where the last one fell. No hash.
//!
//! A fault is some thousand nanoseconds and a look-up in a hash 26. So each thread has a slot in an array that keeps
//! which process it is of and in which range or object its last fault was: first touches mostly walk one. What it
//! keeps is checked against what it was taken from before it is used.

use crate::filter::{Image, Traced};
use crate::inflight::thread_slot;
use crate::maps::FAULTS;
use crate::record::lost;
use allocscope_common::counter::LossReason;
use allocscope_common::range::Span;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};

/// What is kept of a thread's page faults: a cache line.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FaultSlot {
    /// The thread (see `bpf_get_current_pid_tgid`), 0 in a free slot.
    tag: u64,
    /// When the open fault began, with [`BY_USER`], [`HUGE`] and [`MAJOR`]; where none is open, how long the last one took.
    ns: u64,
    /// Where the open fault is; 0 where none is open. (No memory is mapped at 0.)
    address: u64,
    /// The process' slot.
    slot: u32,
    /// The number of the process' image.
    image: u32,
    /// Where the last fault fell.
    pub place: Place,
}

/// A live range or object that a fault fell into, good while nothing is filed or ended in its image.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// Addresses of it, not always all; empty where there is none.
    pub span: Span,
    /// The image's `range_generation`.
    pub range_generation: u32,
    /// Its index, with [`IN_OBJECT`] and [`NOT_LARGE`].
    pub index: u32,
    /// The image's `object_filed_ns`.
    pub object_filed_ns: u64,
}

/// The open fault is of the program itself and not of a system call: the lowest bit of its nanoseconds.
const BY_USER: u64 = 1;
/// It is served with a huge page: the next bit.
const HUGE: u64 = 2;
/// Its page is read from a disk: the next bit.
const MAJOR: u64 = 4;
/// Nanoseconds are kept without these bits.
const FLAGS: u64 = BY_USER | HUGE | MAJOR;

/// The place is an object's slot, and not a range's.
pub const IN_OBJECT: u32 = 1 << 31;
/// The place is no large allocation.
pub const NOT_LARGE: u32 = 1 << 30;
/// The index itself.
pub const INDEX: u32 = NOT_LARGE - 1;

const _: () = assert!(size_of::<FaultSlot>() == 64);

/// The current thread of a traced process.
#[derive(Clone, Copy)]
pub struct Thread {
    /// Its id, with its thread group in the upper half: the tag of everything in flight.
    pub pid_tgid: u64,
    /// Its process' image.
    pub image: Image,
    /// Its slot; never null.
    pub kept: *mut FaultSlot,
}

impl Thread {
    /// The current thread, where its process is traced.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        let pid_tgid = bpf_get_current_pid_tgid();
        let kept = FAULTS.get_ptr_mut(thread_slot(pid_tgid))?;
        Self::known(pid_tgid, kept).or_else(|| Self::learnt(kept))
    }

    /// Whether a fault is open.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).address != 0 }
    }

    /// The current thread, where it has an open fault.
    #[inline(always)]
    pub fn open() -> Option<Self> {
        let pid_tgid = bpf_get_current_pid_tgid();
        let kept = FAULTS.get_ptr_mut(thread_slot(pid_tgid))?;
        // SAFETY: a checked map value; only this thread or one with the same slot writes it.
        if unsafe { (*kept).address } == 0 { None } else { Self::known(pid_tgid, kept) }
    }

    /// By what was kept: the process still has its slot, and the same image, if the slot's image is the same.
    #[inline(always)]
    fn known(pid_tgid: u64, kept: *mut FaultSlot) -> Option<Self> {
        // SAFETY: as in `open`.
        let (tag, slot, number) = unsafe { ((*kept).tag, (*kept).slot, (*kept).image) };
        if tag != pid_tgid {
            return None;
        }
        let image = Image::of(slot)?;
        // SAFETY: a checked map value.
        if unsafe { (*image.filed).number } != number { None } else { Some(Self { pid_tgid, image, kept }) }
    }

    /// By the map of targets.
    #[inline(always)]
    fn learnt(kept: *mut FaultSlot) -> Option<Self> {
        let traced = Traced::current()?;
        let image = traced.image()?;
        let none = Span { start: 0, end: 0 };
        let place = Place { span: none, range_generation: 0, index: 0, object_filed_ns: 0 };
        // SAFETY: as in `open`.
        unsafe {
            if (*kept).address != 0 && (*kept).tag != traced.pid_tgid {
                lost(LossReason::FaultOverwritten);
            }
            let number = (*image.filed).number;
            *kept = FaultSlot {
                tag: traced.pid_tgid,
                ns: 0,
                address: 0,
                slot: traced.slot,
                image: number,
                place,
            };
        }
        Some(Self { pid_tgid: traced.pid_tgid, image, kept })
    }

    /// Opens a fault. One that never ends (a signal, a retry) is overwritten by the next.
    #[inline(always)]
    pub fn begin(&self, address: u64, by_user: bool) {
        // SAFETY: as in `open`; a helper without arguments.
        unsafe {
            (*self.kept).address = address;
            (*self.kept).ns = bpf_ktime_get_ns() & !FLAGS | u64::from(by_user);
        }
    }

    /// Whether the open fault is of the program itself.
    #[inline(always)]
    pub fn is_by_user(&self) -> bool {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns & BY_USER != 0 }
    }

    /// Notes that the open fault is served with a huge page.
    #[inline(always)]
    pub fn turn_huge(&self) {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns |= HUGE };
    }

    /// Whether the open fault is served with a huge page.
    #[inline(always)]
    pub fn is_huge(&self) -> bool {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns & HUGE != 0 }
    }

    /// Notes that the open fault's page is read from a disk.
    #[inline(always)]
    pub fn turn_major(&self) {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns |= MAJOR };
    }

    /// Whether the open fault's page is read from a disk.
    #[inline(always)]
    pub fn is_major(&self) -> bool {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns & MAJOR != 0 }
    }

    /// Gives the open fault up.
    #[inline(always)]
    pub fn abandon(&self) {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).address = 0 };
    }

    /// When the open fault began.
    #[inline(always)]
    pub fn start_ns(&self) -> u64 {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns & !FLAGS }
    }

    /// How long the open fault has taken so far.
    #[inline(always)]
    pub fn elapsed_ns(&self) -> u64 {
        // SAFETY: as in `open`; a helper without arguments.
        unsafe { bpf_ktime_get_ns().saturating_sub((*self.kept).ns) }
    }

    /// Closes the open fault, which took `ns`; returns its address.
    #[inline(always)]
    pub fn close(&self, ns: u64) -> u64 {
        // SAFETY: as in `open`.
        unsafe {
            (*self.kept).ns = ns;
            core::ptr::replace(&raw mut (*self.kept).address, 0)
        }
    }

    /// How long the last fault took, where none is open.
    #[inline(always)]
    pub fn last_ns(&self) -> u64 {
        // SAFETY: as in `open`.
        unsafe { (*self.kept).ns }
    }
}

/// Whether a thread may be in a page fault: its id alone tells.
#[inline(always)]
pub fn is_in_fault(thread: u32) -> bool {
    // SAFETY: a checked map value.
    FAULTS
        .get_ptr_mut(thread_slot(u64::from(thread)))
        .is_some_and(|kept| unsafe { (*kept).tag as u32 == thread && (*kept).address != 0 })
}

/// When the thread's open page fault began; 0 where it is in none that was seen. No `Option`: what is not there in one is
/// not defined, and Linux 6.1 refuses programs that keep it on the stack and read it back.
#[inline(always)]
pub fn open_fault_start(pid_tgid: u64) -> u64 {
    let Some(kept) = FAULTS.get_ptr_mut(thread_slot(pid_tgid)) else { return 0 };
    // SAFETY: a checked map value.
    unsafe { if (*kept).tag == pid_tgid && (*kept).address != 0 { (*kept).ns & !FLAGS } else { 0 } }
}

/// Forgets what was kept of a thread whose id serves again.
#[inline(always)]
pub fn forget(pid_tgid: u64) {
    if let Some(kept) = FAULTS.get_ptr_mut(thread_slot(pid_tgid)) {
        // SAFETY: a checked map value; the thread does not run yet.
        unsafe {
            if (*kept).tag == pid_tgid {
                (*kept).tag = 0;
                (*kept).address = 0;
            }
        }
    }
}
