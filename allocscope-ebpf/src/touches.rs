//! The faults of live ranges that are mappings: counted in an array, found by where the range begins.

use crate::atomic::{add, add_half};
use crate::filter::Image;
use crate::maps::TOUCHES;
use allocscope_common::counter::LiveRange;
use allocscope_common::key::slot_of_space;
use allocscope_common::touch::{Touch, index_of, touched_pages};

/// Faults that are told to what they fell into.
#[derive(Clone, Copy)]
pub struct Faults {
    /// How many.
    pub count: u32,
    /// Their time, in nanoseconds.
    pub ns: u64,
    /// The size of the page that served them, in bytes; 0 where that is the smallest or not known.
    pub page_bytes: u64,
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
        *touch = Touch { start, space: u64::from(space), ..Touch::default() };
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
pub fn add_faults(index: u32, space: u32, start: u64, faults: Faults, more_pages: u32) -> Option<()> {
    let touch = of(index, space, start)?;
    count(touch, faults);
    // SAFETY: a checked map value.
    unsafe { add_half(&raw mut (*touch).more_pages, more_pages) };
    Some(())
}

/// The same where the range is known by an address of it.
#[inline(always)]
pub fn add_faults_at(index: u32, space: u32, address: u64, faults: Faults) -> Option<()> {
    let touch = TOUCHES.get_ptr_mut(index)?;
    // SAFETY: a checked map value.
    let (start, its_space) = unsafe { ((*touch).start, (*touch).space) };
    if start == 0 || start > address || its_space != u64::from(space) {
        return None;
    }
    count(touch, faults);
    Some(())
}

#[inline(always)]
fn count(touch: *mut Touch, faults: Faults) {
    // SAFETY: a checked map value.
    unsafe {
        if faults.ns != 0 {
            add(&raw mut (*touch).ns, faults.ns);
        }
        add_half(&raw mut (*touch).faults, faults.count);
    }
}

/// Pages that the range's faults made real, of those that are counted here; 0 where its place is another one's.
#[inline(always)]
pub fn pages(index: u32, space: u32, start: u64) -> u64 {
    // SAFETY: a checked map value.
    of(index, space, start).map_or(0, |touch| unsafe { touched_pages((*touch).faults, (*touch).more_pages) })
}

/// Takes back the time of the range's faults so far, which is another stage's.
#[inline(always)]
pub fn forget_time(space: u32, start: u64) {
    if let Some(touch) = of(index_of(space, start), space, start) {
        // SAFETY: a checked map value.
        unsafe { (*touch).ns = 0 };
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
            range.more_pages += (*touch).more_pages;
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
