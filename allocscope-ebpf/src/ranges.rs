//! Live large ranges that are mappings: filed when the call returns, found by any address, ended at release.

use crate::atomic::{add, add_half, increment, set_bits};
use crate::filter::Image;
use crate::maps::{GRANULES, GRANULES_ADDED, RANGES};
use crate::record::{counters, lost, lost_many};
use crate::thread::NOT_LARGE;
use crate::touches::{self, Faults};
use allocscope_common::counter::{LiveRange, LossReason};
use allocscope_common::key::{Allocator, RangeKey};
use allocscope_common::range::{Granule, MAX_GRANULES, Span, class_of, granules};
use allocscope_common::touch::{hugetlb_bytes, index_of, more_pages, pages_at_once, touched_pages};
use aya_ebpf::bindings::BPF_NOEXIST;

/// The most classes that one look-up tries: all from a page to 2^MAX_CLASS.
const MAX_CLASSES: u32 = 32;

/// The most ranges that one unmapping ends.
const MAX_UNMAPPED: u32 = 4;

/// Files a live range.
#[inline(always)]
pub fn file(image: &Image, start: u64, range: LiveRange) {
    let space = image.space();
    let Some(class) = class_of(range.end.wrapping_sub(start)) else {
        lost(LossReason::RangeNotFiled);
        return;
    };
    let key = RangeKey { space, class: 0, index: start };
    if RANGES.insert(key, range, 0).is_err() {
        lost(LossReason::RangesFull);
        return;
    }
    touches::take(space, start);
    if range.allocator != Allocator::File as u64 {
        note_nesting(image, class, start);
    }
    let gave_way = index_range(u64::from(space), start, range.end);
    use_class(image, class);
    // SAFETY: a checked map value; a whole word; every writer of the generation uses atomics.
    unsafe {
        (*image.filed).range_filed_ns = range.filed_ns;
        increment(&raw mut (*image.filed).range_generation);
    }
    lost_many(LossReason::RangeReplaced, gave_way >> 32);
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe {
            add(&raw mut (*counters).ranges_filed, 1);
            add(&raw mut (*counters).ranges_ended, gave_way & 0xffff_ffff);
        }
    }
}

/// Notes that a range of `class` at `start` lies in a larger one, if it does: then where one fault fell tells nothing
/// of the next. The mappings of a file's parts lie in that of the whole, which is why no fault is kept for these.
#[inline(always)]
fn note_nesting(image: &Image, class: u32, start: u64) {
    // SAFETY: a checked map value.
    let larger = unsafe { (*image.filed).range_classes } & (!0 << (class & 63)) & !(1 << (class & 63));
    if larger != 0 && search_granules(u64::from(image.space()), larger, start) != 0 {
        // SAFETY: a checked map value; a whole word.
        unsafe { (*image.filed).has_nested_ranges = 1 };
    }
}

#[inline(always)]
fn use_class(image: &Image, class: u32) {
    let bit = 1u64 << (class & 63);
    // SAFETY: a checked map value; every writer of the field uses atomics.
    unsafe {
        if (*image.filed).range_classes & bit == 0 {
            set_bits(&raw mut (*image.filed).range_classes, bit);
        }
    }
}

/// Enters a range into the granules that it overlaps; returns how many others gave way, and in the upper
/// half how many of these should have been released first: those of files, which a program maps other things
/// over, may give way.
///
/// Like [`search_granules`] and [`unindex_range`] a function with global linkage and scalar arguments:
/// the verifier checks such a function once and not at each of its calls. Inlined into a loop over
/// ranges, the three are too much for it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_range(space: u64, start: u64, end: u64) -> u64 {
    let Some(class) = class_of(end.wrapping_sub(start)) else { return 0 };
    let (first, last) = granules(start, end, class);
    let mut replaced = 0;
    for step in 0..MAX_GRANULES {
        if first + step <= last {
            let key = RangeKey { space: space as u32, class, index: first + step };
            replaced += index_in_granule(key, Span { start, end });
        }
    }
    replaced
}

#[inline(always)]
fn index_in_granule(key: RangeKey, span: Span) -> u64 {
    if GRANULES.get_ptr_mut(key).is_none() {
        let empty = Granule { spans: [Span { start: 0, end: 0 }; 2] };
        if GRANULES.insert(key, empty, u64::from(BPF_NOEXIST)).is_ok()
            && let Some(added) = GRANULES_ADDED.get_ptr_mut(0)
        {
            // SAFETY: a checked map value.
            unsafe { add(added, 1) };
        }
    }
    let Some(granule) = GRANULES.get_ptr_mut(key) else {
        lost(LossReason::RangesFull);
        return 0;
    };
    // SAFETY: a checked map value.
    let Some(stale) = (unsafe { (*granule).insert(key.index << (key.class & 63), span) }) else { return 0 };
    let stale_key = RangeKey { space: key.space, class: 0, index: stale.start };
    let Some(range) = RANGES.get_ptr_mut(stale_key) else { return 0 };
    // SAFETY: a checked map value.
    let allocator = unsafe { (*range).allocator };
    let may = allocator == Allocator::File as u64;
    // Its other granules keep a stale word, which a search tells by the range being gone.
    if RANGES.remove(stale_key).is_err() {
        return 0;
    }
    touches::free(stale_key.space, stale.start);
    if may { 1 } else { 1 | 1 << 32 }
}

/// Takes a range out of the map of ranges and out of its granules. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unindex_range(space: u64, start: u64, end: u64) -> u64 {
    let _ = RANGES.remove(RangeKey { space: space as u32, class: 0, index: start });
    let Some(class) = class_of(end.wrapping_sub(start)) else { return 0 };
    let (first, last) = granules(start, end, class);
    for step in 0..MAX_GRANULES {
        let key = RangeKey { space: space as u32, class, index: first + step };
        if first + step <= last
            && let Some(granule) = GRANULES.get_ptr_mut(key)
        {
            // SAFETY: a checked map value.
            unsafe { (*granule).remove(start) };
        }
    }
    0
}

/// The live range that holds `address`; the smallest where ranges nest.
#[inline(always)]
pub fn find(image: &Image, address: u64) -> Option<(u64, *mut LiveRange)> {
    let space = image.space();
    // SAFETY: a checked map value.
    let classes = unsafe { (*image.filed).range_classes };
    if classes == 0 {
        return None;
    }
    get(space, search_granules(u64::from(space), classes, address))
}

/// Adds faults to the live range that holds `address`; returns its addresses and its index as a [`Place`] keeps it.
/// There are no addresses where that is not to be kept.
#[inline(always)]
pub fn add_faults(image: &Image, address: u64, faults: Faults) -> Option<(Span, u32)> {
    let (start, range) = find(image, address)?;
    let space = image.space();
    // SAFETY: a checked map value.
    let (end, allocator) = unsafe { ((*range).end, (*range).allocator) };
    let flag = if is_allocation(allocator) { 0 } else { NOT_LARGE };
    // SAFETY: a checked map value.
    let is_kept = allocator != Allocator::File as u64 && unsafe { (*image.filed).has_nested_ranges } == 0;
    let hugetlb = hugetlb_bytes(allocator);
    let page_bytes = hugetlb.unwrap_or(faults.page_bytes);
    let more_pages = if faults.count == 0 { 0 } else { more_pages(address, Span { start, end }, page_bytes) };
    let index = index_of(space, start);
    if touches::add_faults(index, space, start, faults, more_pages).is_some() {
        let end = if is_kept && hugetlb.is_none() { end } else { 0 };
        return Some((Span { start, end }, index | flag));
    }
    // SAFETY: a checked map value.
    unsafe {
        add_half(&raw mut (*range).faults, faults.count);
        add_half(&raw mut (*range).more_pages, more_pages);
        add(&raw mut (*range).touch_ns, faults.ns);
    }
    Some((Span { start: 0, end: 0 }, flag))
}

/// Adds what a call of `ns` made real in one go, all of `at`, to the live range that holds its first address.
#[inline(always)]
pub fn populate(image: &Image, at: Span, ns: u64) -> Option<()> {
    let (start, range) = find(image, at.start)?;
    let (space, faults) = (image.space(), Faults { count: 0, ns, page_bytes: 0 });
    let index = index_of(space, start);
    // SAFETY: a checked map value.
    let (end, own) = unsafe { ((*range).end, touched_pages((*range).faults, (*range).more_pages)) };
    let touched = own + touches::pages(index, space, start);
    let more_pages = pages_at_once(Span { start, end }, at, touched);
    if touches::add_faults(index, space, start, faults, more_pages).is_none() {
        // SAFETY: a checked map value.
        unsafe {
            add_half(&raw mut (*range).more_pages, more_pages);
            add(&raw mut (*range).touch_ns, ns);
        }
    }
    Some(())
}

/// A thread's stack, reserved addresses (an allocator's own heap) and files are no large allocations.
#[inline(always)]
fn is_allocation(allocator: u64) -> bool {
    let number = allocator as u8;
    number != Allocator::Stack as u8 && number != Allocator::Reserve as u8 && number != Allocator::File as u8
}

/// The first address of the live range that holds `address`, or 0: the smallest granules first.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search_granules(space: u64, mut classes: u64, address: u64) -> u64 {
    for _ in 0..MAX_CLASSES {
        if classes == 0 {
            return 0;
        }
        let class = classes.trailing_zeros();
        classes &= classes - 1;
        let key = RangeKey { space: space as u32, class, index: address >> (class & 63) };
        // SAFETY: a checked map value, read once.
        let Some(granule) = (unsafe { GRANULES.get(key) }) else { continue };
        let Some(span) = granule.find(address) else { continue };
        // A granule's word is stale where the range is gone or ends elsewhere.
        if let Some((start, range)) = get(space as u32, span.start)
            // SAFETY: a checked map value.
            && unsafe { (*range).end } == span.end
        {
            return start;
        }
    }
    0
}

#[inline(always)]
fn get(space: u32, start: u64) -> Option<(u64, *mut LiveRange)> {
    RANGES.get_ptr_mut(RangeKey { space, class: 0, index: start }).map(|range| (start, range))
}

/// Takes out the range that was filed at `start` at `since_ns` or later: by a part of the call that is about to
/// file it anew.
#[inline(always)]
pub fn end_filed_since(image: &Image, start: u64, since_ns: u64) -> Option<LiveRange> {
    let (_, range) = get(image.space(), start)?;
    // SAFETY: a checked map value; copied, because the entry is about to go.
    let range = unsafe { *range };
    if range.filed_ns < since_ns { None } else { Some(end(image, start, range)) }
}

/// Takes a range out of the maps, and returns it with all its faults.
#[inline(always)]
pub fn end(image: &Image, start: u64, range: LiveRange) -> LiveRange {
    let space = image.space();
    unindex_range(u64::from(space), start, range.end);
    ended(image);
    touches::settled(space, start, range)
}

/// Makes the live range that begins at `start` that of another allocator, which asked for `size` bytes in it. What its pages
/// took so far is part of that allocator's call.
#[inline(always)]
pub fn give(image: &Image, (start, range): (u64, *mut LiveRange), allocator: u64, size: u64) {
    touches::forget_time(image.space(), start);
    // SAFETY: checked map values; the calling thread has just made the mapping. Every writer of the generation, by
    // which threads tell that what they kept of a range is stale, uses atomics.
    unsafe {
        (*range).allocator = allocator;
        (*range).size = size;
        (*range).touch_ns = 0;
        increment(&raw mut (*image.filed).range_generation);
    }
}

#[inline(always)]
fn ended(image: &Image) {
    // SAFETY: a checked map value; every writer of the field uses atomics.
    unsafe { increment(&raw mut (*image.filed).range_generation) };
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_ended, 1) };
    }
}

/// What an unmapping of `start..end` did to live ranges, for those that it ended whole.
pub struct Unmapped {
    /// The first whole range that ended, if any.
    pub first: Option<LiveRange>,
    /// Whole ranges that ended.
    pub whole: u32,
    /// Ranges that lost a part.
    pub cut: u32,
}

/// Ends or cuts the live ranges in `start..end`, at most four.
#[inline(always)]
pub fn unmap(image: &Image, start: u64, end_of_unmap: u64) -> Unmapped {
    let mut unmapped = Unmapped { first: None, whole: 0, cut: 0 };
    let mut cursor = start;
    for _ in 0..MAX_UNMAPPED {
        if cursor >= end_of_unmap {
            return unmapped;
        }
        // Most unmappings begin where a range does; some begin below one.
        let found = get(image.space(), cursor).or_else(|| find(image, cursor));
        let Some((range_start, found)) = found.or_else(|| find(image, end_of_unmap - 1)) else {
            return unmapped;
        };
        // SAFETY: a checked map value; copied, because the entry is about to go.
        let range = end(image, range_start, unsafe { *found });
        cursor = range.end;
        if range_start >= start && range.end <= end_of_unmap {
            unmapped.whole += 1;
            if unmapped.first.is_none() {
                unmapped.first = Some(range);
            }
            continue;
        }
        unmapped.cut += 1;
        keep_rest(image, range_start, range, start, end_of_unmap);
    }
    if cursor < end_of_unmap {
        lost(LossReason::UnmapTooMany);
    }
    unmapped
}

/// Files what is left of a range after `start..end` was cut out of it: the part below, or else the
/// part above. Of a hole in the middle only the part below stays attributed.
#[inline(always)]
fn keep_rest(image: &Image, range_start: u64, range: LiveRange, start: u64, end_of_unmap: u64) {
    if range_start < start {
        file(image, range_start, LiveRange { end: start, ..range });
        if end_of_unmap < range.end {
            lost(LossReason::RangeSplit);
        }
    } else if end_of_unmap < range.end {
        file(image, end_of_unmap, range);
    }
}
