//! Slots of live objects: claimed for one that is filed, free again once it has ended.
//!
//! Threads that file at once claim slots by compare-and-swap; CPUs look for free ones far from each other.

use crate::atomic::replace;
use crate::filter::Image;
use crate::maps::{OBJECTS, SLOT_CURSOR};
use allocscope_common::object::{CLAIMED, OBJECT_SLOTS};
use allocscope_common::range::Span;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use core::ptr::{read_volatile, write_volatile};

/// Slots that are looked at for a free one.
const TRIES: u32 = 16;
/// How far apart CPUs begin to look for one.
const SLOTS_APART: u32 = 5003;

/// Where a CPU looks for a free slot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SlotCursor {
    /// The slot that became free last; 0 where none has. It is in the cache.
    freed: u32,
    /// Where to look next.
    next: u32,
}

/// Set in what [`free_slot`] returns where that is not free.
pub const OCCUPIED: u64 = 1 << 32;

/// Claims a free slot for an object at `start..end`: the one that became free last on this CPU, or else one of the next
/// [`TRIES`]. Returns it plus 1; where none of them is free the last, with [`OCCUPIED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn free_slot(home: u64, start: u64, end: u64) -> u64 {
    let Some(cursor) = SLOT_CURSOR.get_ptr_mut(0) else { return OCCUPIED | 1 };
    let new = Span { start, end };
    // SAFETY: a checked map value of this CPU.
    let (freed, first) = unsafe { ((*cursor).freed, (*cursor).next) };
    if freed != 0 && claim_free(freed, home, new) {
        return u64::from(freed) + 1;
    }
    // SAFETY: a helper without arguments.
    let own = unsafe { bpf_get_smp_processor_id() }.wrapping_mul(SLOTS_APART);
    let mut slot = 0;
    for step in 0..TRIES {
        slot = first.wrapping_add(own).wrapping_add(step) & (OBJECT_SLOTS - 1);
        // SAFETY: as above.
        unsafe { (*cursor).next = first.wrapping_add(step + 1) };
        if claim_free(slot, home, new) {
            return u64::from(slot) + 1;
        }
    }
    OCCUPIED | (u64::from(slot) + 1)
}

/// Claims `slot` if it is free: nothing is there, or what is there has an image that is gone.
#[inline(always)]
fn claim_free(slot: u32, home: u64, new: Span) -> bool {
    let Some(object) = OBJECTS.get_ptr(slot) else { return false };
    // SAFETY: a checked map value.
    let free = unsafe { read_volatile(&raw const (*object).home) };
    free != CLAIMED && Image::of_home(free).is_none() && claim(slot, free, home, new)
}

/// Makes the object in `slot` live at `new`, before a place leads to it: another thread that files one in the granule takes
/// out places that lead to nothing live. Whether it could: not where the slot's home is not `free` any more.
#[inline(always)]
pub fn claim(slot: u32, free: u64, home: u64, new: Span) -> bool {
    let Some(object) = OBJECTS.get_ptr_mut(slot) else { return false };
    // SAFETY: a checked map value, which is nobody else's once it is claimed.
    unsafe {
        if !replace(&raw mut (*object).home, free, CLAIMED) {
            return false;
        }
        write_volatile(&raw mut (*object).start, new.start);
        write_volatile(&raw mut (*object).end, new.end);
        write_volatile(&raw mut (*object).home, home);
    }
    true
}

/// Notes that `slot` is free: it is the next that this CPU claims.
#[inline(always)]
pub fn freed(slot: u32) {
    if let Some(cursor) = SLOT_CURSOR.get_ptr_mut(0) {
        // SAFETY: a checked map value of this CPU.
        unsafe { (*cursor).freed = slot };
    }
}
