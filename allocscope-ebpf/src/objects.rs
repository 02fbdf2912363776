//! Live objects of heaps: filed when an allocation returns, found by any address, ended when another one takes an
//! address of theirs.
//!
//! Objects are freed without a call that is probed, and their addresses serve again. So what holds the first or
//! the last address of a new object is over, and where two hold an address the one filed later is live. Threads
//! that file at once take places, as slots, by compare-and-swap.

use crate::atomic::{add, add_half, replace, set_bits};
use crate::filter::Image;
use crate::maps::{OBJECTS, PLACES};
use crate::ranges;
use crate::record::{counters, lost, record_touch};
use crate::slots;
use crate::slow;
use crate::thread::IN_OBJECT;
use crate::touches::Faults;
use allocscope_common::counter::{LiveRange, LossReason};
use allocscope_common::key::{SeriesKey, Stage, size_class};
use allocscope_common::object::{EMPTY, Granule, Object, PlaceSet, WAYS, granule, overlap, slot_of_home};
use allocscope_common::range::{MAX_GRANULES, Span, class_of};
use allocscope_common::touch::{more_pages, pages_at_once, touched_bytes, touched_pages};
use core::ptr::read_volatile;

/// The most classes that one look-up tries: all from a page to 2^MAX_CLASS.
const MAX_CLASSES: u32 = 32;

/// Set in what [`take_place`] returns where the object's addresses were those of the one whose slot it takes.
const RENEWED: u64 = 1 << 32;

/// Files a live object. What it takes the place of is over: objects of its class that it overlaps, and a larger one
/// that held its first address. Smaller ones inside of it stay until their own granules serve again; a look-up
/// prefers what was filed last.
#[inline(always)]
pub fn file(image: &Image, object: Object) {
    let Object { home, start, end, .. } = object;
    let Some(class) = class_of(end.wrapping_sub(start)) else {
        lost(LossReason::RangeNotFiled);
        return;
    };
    let bit = 1u64 << (class & 63);
    // SAFETY: a checked map value.
    let classes = unsafe { (*image.filed).object_classes };
    let larger = classes & !(bit | (bit - 1));
    if larger != 0 {
        end_at(home, larger, start);
    }
    let first = u64::from(class) << CLASS_SHIFT;
    let slot = take_place(home, start, end, first, 0);
    if slot & RENEWED == 0 {
        take_place(home, start, end, first + 1, slot);
        take_place(home, start, end, first + 2, slot);
        count_filed(image);
    }
    let Some(place) = OBJECTS.get_ptr_mut((slot as u32).wrapping_sub(1)) else { return };
    // SAFETY: checked map values; nobody faults in an object that is being allocated; every writer of the classes
    // uses atomics.
    unsafe {
        *place = object;
        (*image.filed).object_filed_ns = object.filed_ns;
        if classes & bit == 0 {
            set_bits(&raw mut (*image.filed).object_classes, bit);
        }
    }
}

#[inline(always)]
fn count_filed(image: &Image) {
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_filed, 1) };
    }
}

#[inline(always)]
fn end_at(home: u64, classes: u64, address: u64) {
    let found = search_objects(home, classes, address);
    if found as u32 != 0 {
        end_object((found as u32 - 1).into());
    }
}

/// Where an object's class is in what [`take_place`] is told of a granule; below is its number. Counting leading zeros,
/// which gives the class, is dear in BPF.
const CLASS_SHIFT: u32 = 8;

/// Enters an object at `start..end` into one of the granules that it overlaps, of which `class_step` has the class and
/// the number, and ends those of its class that it overlaps there. `kept` is its slot plus 1, or 0 where it has none:
/// then it takes that of the first one ended, or a free one. Returns its slot plus 1, with [`RENEWED`] where nothing
/// else is to be done.
///
/// Like the other functions with global linkage: the verifier checks it once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_place(home: u64, start: u64, end: u64, class_step: u64, kept: u64) -> u64 {
    let (class, step) = ((class_step >> CLASS_SHIFT) as u32, class_step & ((1 << CLASS_SHIFT) - 1));
    let Some(granule) = granule(home, start, end, class, step) else { return kept };
    let Some(set) = PLACES.get_ptr_mut(granule.set()) else { return kept };
    let new = Span { start, end };
    let (mut slot, mut mine, mut seen) = (kept, WAYS, EMPTY);
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        let place = unsafe { &raw mut (*set)[way] };
        // SAFETY: as above.
        let word = unsafe { read_volatile(place) };
        let Some(other) = granule.slot(word) else { continue };
        let Some(object) = OBJECTS.get_ptr(other) else { continue };
        // SAFETY: a checked map value.
        let (its_home, its) = unsafe { ((*object).home, (*object).span()) };
        let is_live = its_home == home && u64::from(other) + 1 != slot;
        if is_live && !overlap(its, new) && is_in(its, start, class, step) {
            continue;
        }
        if is_live && its == new && kept == 0 {
            renew(u64::from(other));
            return (u64::from(other) + 1) | RENEWED;
        }
        if is_live && overlap(its, new) {
            end_object(u64::from(other));
            if slot == 0 && slots::claim(other, 0, home, new) {
                slot = u64::from(other) + 1;
            }
        }
        if mine < WAYS {
            // SAFETY: as above. Where it is not the same any more, another thread has put something live there.
            unsafe { replace(place, word, EMPTY) };
        } else {
            (mine, seen) = (way, word);
        }
    }
    if slot == 0 {
        slot = slots::free_slot(home, start, end);
    }
    if slot & slots::OCCUPIED != 0 {
        slot ^= slots::OCCUPIED;
        lost(LossReason::ObjectDisplaced);
        end_object(slot.wrapping_sub(1));
        slots::claim((slot as u32).wrapping_sub(1), 0, home, new);
    }
    let place = granule.place((slot as u32).wrapping_sub(1));
    // SAFETY: a checked map value; the index is below the array's length.
    if mine == WAYS || !unsafe { replace(&raw mut (*set)[mine], seen, place) } {
        place_in(set, granule.set(), place);
    }
    slot
}

/// Whether an object is of `class` and overlaps granule `step` of the object at `start`.
#[inline(always)]
fn is_in(its: Span, start: u64, class: u32, step: u64) -> bool {
    let first = ((start >> (class & 63)) + step) << (class & 63);
    let granule = Span { start: first, end: first + (1 << (class & 63)) };
    its.end.wrapping_sub(its.start) >> (class & 63) == 1 && overlap(its, granule)
}

/// Whether pages of an object were made real.
///
/// # Safety
/// `object` is a checked map value.
#[inline(always)]
unsafe fn is_touched(object: *const Object) -> bool {
    // SAFETY: by the caller's word.
    unsafe { (*object).faults | (*object).more_pages != 0 }
}

/// Tells the touch of the object in `slot`, which another one with the same addresses takes.
#[inline(always)]
fn renew(slot: u64) {
    if let Some(object) = OBJECTS.get_ptr(slot as u32)
        // SAFETY: a checked map value.
        && unsafe { is_touched(object) }
    {
        tell_touch(slot);
    }
}

/// Puts a place into the first empty one of a set, or else into one that leads nowhere, or else into the last.
#[inline(always)]
fn place_in(set: *mut PlaceSet, number: u32, place: u64) {
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        if unsafe { replace(&raw mut (*set)[way], EMPTY, place) } {
            return;
        }
    }
    for way in 0..WAYS {
        // SAFETY: as above.
        unsafe {
            let seen = read_volatile(&raw const (*set)[way]);
            if leads_nowhere(u64::from(number), seen) != 0 && replace(&raw mut (*set)[way], seen, place) {
                return;
            }
        }
    }
    lost(LossReason::ObjectDisplaced);
    // SAFETY: as above.
    unsafe { (*set)[WAYS - 1] = place };
}

/// 1 where a place in a set leads to no live object of the granule that it was made for; else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leads_nowhere(set: u64, place: u64) -> u64 {
    let Some(object) = OBJECTS.get_ptr(place as u32) else { return 1 };
    // SAFETY: a checked map value.
    let (home, start, end) = unsafe { ((*object).home, (*object).start, (*object).end) };
    let Some(class) = class_of(end.wrapping_sub(start)) else { return 1 };
    if Image::of_home(home).is_none() {
        return 1;
    }
    for step in 0..MAX_GRANULES {
        if let Some(granule) = granule(home, start, end, class, step)
            && u64::from(granule.set()) == set
            && granule.place(place as u32) == place
        {
            return 0;
        }
    }
    1
}

/// Takes the object in `slot` out of the table and tells its touch. Its places lead nowhere then. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_object(slot: u64) -> u64 {
    let Some(object) = OBJECTS.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: a checked map value.
    let (home, is_touched) = unsafe { ((*object).home, is_touched(object)) };
    let Some(image) = Image::of_home(home) else { return 0 };
    if is_touched {
        tell_touch(slot);
    }
    // SAFETY: as above.
    unsafe { (*object).home = 0 };
    slots::freed(slot as u32);
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_ended, 1) };
    }
    0
}

/// Records the faults of the object in `slot`. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_touch(slot: u64) -> u64 {
    let Some(object) = OBJECTS.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: a checked map value.
    let object = unsafe { *object };
    let (slot, class) = (slot_of_home(object.home), size_class(object.size));
    let key = SeriesKey::stage_numbered(slot, object.allocator as u8, Stage::Touch, class);
    record_touch(key, object.faults, object.touch_ns, touched_bytes(object.faults, object.more_pages));
    let Object { allocator, size, filed_ns, touch_ns, faults, .. } = object;
    slow::touched(slot, allocator, size, filed_ns, (touch_ns, u64::from(faults)));
    0
}

/// Set in what [`search_objects`] returns where another object lies near.
const CROWDED: u64 = 1 << 32;

/// The slot, plus 1, of the live object that holds `address`: of several the one filed last. 0 where there is none.
/// With [`CROWDED`] where others are in the same granule of the smallest class.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search_objects(home: u64, mut classes: u64, address: u64) -> u64 {
    let (mut found, mut crowded) = (0, 0);
    let smallest = classes;
    for _ in 0..MAX_CLASSES {
        if classes == 0 {
            break;
        }
        let class = classes.trailing_zeros();
        classes &= classes - 1;
        let of_class = search_class(home, class.into(), address, smallest);
        crowded |= of_class & CROWDED;
        if filed_ns(of_class) > filed_ns(found) {
            found = of_class & !CROWDED;
        }
    }
    found | crowded
}

/// When the object was filed whose slot, plus 1, is the lower half of `found`; 0 where that is none.
#[inline(always)]
fn filed_ns(found: u64) -> u64 {
    let object = (found as u32).checked_sub(1).and_then(|slot| OBJECTS.get_ptr(slot));
    // SAFETY: a checked map value.
    object.map_or(0, |object| unsafe { (*object).filed_ns })
}

/// The same of one class; `classes` are all. By itself, because old kernels would follow each of its ways through for
/// each class anew: 870,000 instructions on 6.1, where a million is the limit.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search_class(home: u64, class: u64, address: u64, classes: u64) -> u64 {
    let (mut found, mut found_ns, mut crowded) = (0, 0, 0);
    let near = near(classes, address);
    let class = class as u32;
    let granule = Granule::new(home, class, address >> (class & 63));
    let Some(set) = PLACES.get_ptr(granule.set()) else { return 0 };
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        let Some(slot) = granule.slot(unsafe { (*set)[way] }) else { continue };
        let Some(object) = OBJECTS.get_ptr(slot) else { continue };
        // SAFETY: a checked map value.
        let (its_home, its, filed_ns) = unsafe { ((*object).home, (*object).span(), (*object).filed_ns) };
        if its_home != home {
            continue;
        }
        if !its.holds(address) {
            crowded |= if overlap(its, near) { CROWDED } else { 0 };
        } else if filed_ns > found_ns {
            (found, found_ns) = (u64::from(slot) + 1, filed_ns);
        }
    }
    found | crowded
}

/// The granule of the smallest of some classes that `address` is in.
#[inline(always)]
fn near(classes: u64, address: u64) -> Span {
    let bytes = 1u64 << (classes.trailing_zeros() & 63);
    let start = address & !(bytes - 1);
    Span { start, end: start.wrapping_add(bytes) }
}

/// The live object that holds `address`.
#[inline(always)]
pub fn find(image: &Image, address: u64) -> Option<(u64, *mut Object)> {
    // SAFETY: a checked map value.
    let classes = unsafe { (*image.filed).object_classes };
    if classes == 0 {
        return None;
    }
    let slot = (search_objects(image.home(), classes, address) as u32).checked_sub(1)?;
    Some((u64::from(slot), OBJECTS.get_ptr_mut(slot)?))
}

/// Where a fault fell among objects.
pub struct Fell {
    /// The object's slot, which was told, as a [`crate::thread::Place`] keeps it; 0 where it fell into none.
    pub into: u32,
    /// The object's addresses; where it fell into none, addresses around it that are in none either, if known.
    pub span: Span,
}

/// Into no object; others may be near.
const NEAR: Fell = Fell { into: 0, span: Span { start: 0, end: 0 } };

/// Adds faults to the live object that holds `address`. One where memory was mapped since is over.
#[inline(always)]
pub fn add_faults(image: &Image, address: u64, faults: Faults) -> Fell {
    // SAFETY: a checked map value.
    let classes = unsafe { (*image.filed).object_classes };
    if classes == 0 {
        return Fell { into: 0, span: Span { start: 0, end: u64::MAX } };
    }
    let found = search_objects(image.home(), classes, address);
    let Some(slot) = (found as u32).checked_sub(1) else {
        return if found & CROWDED == 0 { Fell { into: 0, span: near(classes, address) } } else { NEAR };
    };
    let Some(object) = OBJECTS.get_ptr_mut(slot) else { return NEAR };
    if is_over(image, object, address) {
        end_object(slot.into());
        return NEAR;
    }
    count(object, faults);
    // SAFETY: a checked map value.
    let span = unsafe { (*object).span() };
    let more_pages = more_pages(address, span, faults.page_bytes);
    // SAFETY: as above.
    unsafe { add_half(&raw mut (*object).more_pages, more_pages) };
    Fell { into: slot | IN_OBJECT, span }
}

/// Whether memory was mapped where an object is, after it was filed.
#[inline(always)]
fn is_over(image: &Image, object: *mut Object, address: u64) -> bool {
    // SAFETY: checked map values.
    let (filed_ns, range_filed_ns) = unsafe { ((*object).filed_ns, (*image.filed).range_filed_ns) };
    range_filed_ns > filed_ns
        // SAFETY: a checked map value.
        && ranges::find(image, address).is_some_and(|(_, range)| unsafe { (*range).filed_ns } > filed_ns)
}

/// Adds faults to the object in slot `index`; `None` where that does not hold their address any more.
#[inline(always)]
pub fn add_faults_at(index: u32, home: u64, address: u64, faults: Faults) -> Option<()> {
    let object = OBJECTS.get_ptr_mut(index)?;
    // SAFETY: a checked map value.
    if unsafe { (*object).home != home || !(*object).span().holds(address) } {
        return None;
    }
    count(object, faults);
    Some(())
}

#[inline(always)]
fn count(object: *mut Object, faults: Faults) {
    // SAFETY: a checked map value.
    unsafe {
        add_half(&raw mut (*object).faults, faults.count);
        add(&raw mut (*object).touch_ns, faults.ns);
    }
}

/// Adds what a call of `ns` made real in one go, all of `at`, to the live object that holds its first address.
#[inline(always)]
pub fn populate(image: &Image, at: Span, ns: u64) -> Option<()> {
    let (_, object) = find(image, at.start)?;
    if is_over(image, object, at.start) {
        return None;
    }
    // SAFETY: a checked map value.
    unsafe {
        let touched = touched_pages((*object).faults, (*object).more_pages);
        add_half(&raw mut (*object).more_pages, pages_at_once((*object).span(), at, touched));
        add(&raw mut (*object).touch_ns, ns);
    }
    Some(())
}

/// Ends the object that `start..end` is unmapped with, if it lies in there with its first or last byte; an allocator
/// gives large ones back alone. Returns it as a range.
#[inline(always)]
pub fn unmap(image: &Image, start: u64, end: u64) -> Option<LiveRange> {
    let (slot, object) = find(image, start).or_else(|| find(image, end.wrapping_sub(1)))?;
    // SAFETY: a checked map value.
    let now = unsafe { *object };
    let Object { start: first, end: last, size, touch_ns, faults, more_pages, filed_ns, allocator, .. } = now;
    if first < start || last > end {
        return None;
    }
    // Its release tells its touch.
    // SAFETY: a checked map value.
    unsafe {
        (*object).faults = 0;
        (*object).more_pages = 0;
    }
    end_object(slot);
    Some(LiveRange { end: last, size, touch_ns, faults, more_pages, filed_ns, allocator })
}

/// When the live object that holds `address` was filed.
#[inline(always)]
pub fn filed_at(image: &Image, address: u64) -> Option<u64> {
    let (_, object) = find(image, address)?;
    // SAFETY: a checked map value.
    Some(unsafe { (*object).filed_ns })
}

/// Ends the object that begins at `start`, which its allocator takes back. Returns its size, when it was filed, and the word
/// for its allocator.
#[inline(always)]
pub fn free(image: &Image, start: u64) -> Option<[u64; 3]> {
    let (slot, object) = find(image, start)?;
    // SAFETY: a checked map value.
    let (first, freed) =
        unsafe { ((*object).start, [(*object).size, (*object).filed_ns, (*object).allocator]) };
    if first != start {
        return None;
    }
    end_object(slot);
    Some(freed)
}
