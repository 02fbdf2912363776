//! The faults of live ranges that are mappings: counted in an array, found by where the range begins.

use crate::atomic::add;
use crate::filter::Image;
use crate::maps::TOUCHES;
use allocscope_common::counter::LiveRange;
use allocscope_common::key::slot_of_space;

/// Places; a power of two. A range that finds its place taken counts its faults in the map of ranges.
pub const TOUCH_SLOTS: u32 = 16_384;

/// 2^64 divided by the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The faults of one live range.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Touch {
    /// Where the range begins; 0 in a free place.
    start: u64,
    /// The address space it is of.
    space: u64,
    /// Time of its page faults, in nanoseconds.
    ns: u64,
    /// Its page faults.
    faults: u64,
}

/// The index of a range's place, which may be another one's.
#[inline(always)]
pub fn index_of(space: u32, start: u64) -> u32 {
    let word = (start >> 12).wrapping_add(u64::from(space) << 40);
    (word.wrapping_mul(SPREAD) >> 40) as u32 & (TOUCH_SLOTS - 1)
}

/// Takes the place of a range that is being filed, unless that of a live one is there.
#[inline(always)]
pub fn take(space: u32, start: u64) {
    let Some(touch) = TOUCHES.get_ptr_mut(index_of(space, start)) else { return };
    // SAFETY: a checked map value. Two that take the same place at once leave one of them in it, or a place that is
    // neither's, which both find by its words.
    unsafe {
        let is_other = (*touch).start != start || (*touch).space != u64::from(space);
        if (*touch).start != 0 && is_other && is_live((*touch).space as u32) {
            return;
        }
        *touch = Touch { start, space: u64::from(space), ns: 0, faults: 0 };
    }
}

/// Whether an address space is one of its slot's process, and not of an image that is gone.
#[inline(always)]
fn is_live(space: u32) -> bool {
    Image::of(slot_of_space(space)).is_some_and(|image| image.space() == space)
}

#[inline(always)]
fn of(index: u32, space: u32, start: u64) -> Option<*mut Touch> {
    // SAFETY: a checked map value.
    TOUCHES
        .get_ptr_mut(index)
        .filter(|touch| unsafe { (**touch).start == start && (**touch).space == u64::from(space) })
}

/// Adds faults to the range that begins at `start`; `None` where its place is another one's by now.
#[inline(always)]
pub fn add_faults(index: u32, space: u32, start: u64, ns: u64, faults: u64) -> Option<()> {
    count(of(index, space, start)?, ns, faults);
    Some(())
}

/// The same where the range is known by an address of it.
#[inline(always)]
pub fn add_faults_at(index: u32, space: u32, address: u64, ns: u64, faults: u64) -> Option<()> {
    let touch = TOUCHES.get_ptr_mut(index)?;
    // SAFETY: a checked map value.
    let (start, its_space) = unsafe { ((*touch).start, (*touch).space) };
    if start == 0 || start > address || its_space != u64::from(space) {
        return None;
    }
    count(touch, ns, faults);
    Some(())
}

#[inline(always)]
fn count(touch: *mut Touch, ns: u64, faults: u64) {
    // SAFETY: a checked map value.
    unsafe {
        if ns != 0 {
            add(&raw mut (*touch).ns, ns);
        }
        add(&raw mut (*touch).faults, faults);
    }
}

/// The range as it ends, with all its faults. Its place is free then.
#[inline(always)]
pub fn settled(space: u32, start: u64, mut range: LiveRange) -> LiveRange {
    if let Some(touch) = of(index_of(space, start), space, start) {
        // SAFETY: a checked map value.
        unsafe {
            range.touch_ns += (*touch).ns;
            range.faults += (*touch).faults;
            (*touch).start = 0;
        }
    }
    range
}

/// Frees the place of a range that is given up.
#[inline(always)]
pub fn free(space: u32, start: u64) {
    if let Some(touch) = of(index_of(space, start), space, start) {
        // SAFETY: a checked map value.
        unsafe { (*touch).start = 0 };
    }
}
