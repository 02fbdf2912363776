//! Live objects of heaps: filed when an allocation returns, found by any address, ended when another one takes an
//! address of theirs.
//!
//! Objects are freed without a call that is probed, and their addresses serve again. So what holds the first or
//! the last address of a new object is over, and where two hold an address the one filed later is live. Two
//! threads that file at once and whose objects share a slot may spoil each other's entry; a slot is one
//! of 32,768 and filing takes some fifty nanoseconds.

use crate::atomic::{add, set_bits};
use crate::filter::Image;
use crate::maps::{OBJECTS, PLACES};
use crate::ranges;
use crate::record::{counters, lost, record};
use allocscope_common::counter::{LiveRange, LossReason};
use allocscope_common::key::{SeriesKey, Stage, size_class};
use allocscope_common::object::{
    EMPTY, Granule, Object, PlaceSet, WAYS, granule, overlap, slot_of_home, slots, way,
};
use allocscope_common::range::{MAX_GRANULES, class_of};

/// The most classes that one look-up tries: all from a page to 2^MAX_CLASS.
const MAX_CLASSES: u32 = 32;

/// Files a live object. What it takes the place of is over.
#[inline(always)]
pub fn file(image: &Image, object: Object) {
    let Some(class) = class_of(object.end.wrapping_sub(object.start)) else {
        lost(LossReason::RangeNotFiled);
        return;
    };
    if renew(image, &object).is_none() {
        // Objects of the same class are met in the granules.
        // SAFETY: a checked map value.
        let others = unsafe { (*image.filed).object_classes } & !(1 << (class & 63));
        if others != 0 {
            end_at(object.home, others, object.start);
            end_at(object.home, others, object.end.wrapping_sub(1));
        }
        enter(image, &object, class);
    }
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_filed, 1) };
    }
}

/// Puts an object where one with the same addresses is, which is over: the index stays as it is. `None` where there
/// is none.
#[inline(always)]
fn renew(image: &Image, object: &Object) -> Option<()> {
    let [first, second] = slots(object.home, object.start);
    let (slot, kept) = at(first, object).or_else(|| at(second, object))?;
    // SAFETY: a checked map value; nobody faults in an object that is being allocated.
    unsafe {
        if (*kept).faults != 0 {
            tell_touch(u64::from(slot));
        }
        *kept = *object;
    }
    if let Some(counters) = counters(image.slot) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_ended, 1) };
    }
    Some(())
}

/// The object in `slot`, where it has the addresses of `object`.
#[inline(always)]
fn at(slot: u32, object: &Object) -> Option<(u32, *mut Object)> {
    let kept = OBJECTS.get_ptr_mut(slot)?;
    // SAFETY: a checked map value.
    let same =
        unsafe { (*kept).start == object.start && (*kept).end == object.end && (*kept).home == object.home };
    same.then_some((slot, kept))
}

#[inline(always)]
fn end_at(home: u64, classes: u64, address: u64) {
    let found = search_objects(home, classes, address);
    if found != 0 {
        end_object(found - 1);
    }
}

/// Puts an object into one of its slots and into the index.
#[inline(always)]
fn enter(image: &Image, object: &Object, class: u32) {
    let choice = slots(object.home, object.start);
    let (Some(first), Some(second)) = (OBJECTS.get_ptr_mut(choice[0]), OBJECTS.get_ptr_mut(choice[1])) else {
        return;
    };
    // SAFETY: checked map values.
    let kept = unsafe { [in_slot(first), in_slot(second)] };
    let second_way = way(kept, object.home, object.start) == 1;
    let (slot, place, kept) =
        if second_way { (choice[1], second, kept[1]) } else { (choice[0], first, kept[0]) };
    if (kept.0, kept.1) != (object.home, object.start) && kept.0 != 0 {
        lost(LossReason::ObjectDisplaced);
    }
    // SAFETY: a checked map value.
    unsafe {
        if (*place).home != 0 {
            end_object(u64::from(slot));
        }
        *place = *object;
    }
    index_object(u64::from(slot));
    let bit = 1u64 << (class & 63);
    // SAFETY: a checked map value; every writer of the field uses atomics.
    unsafe {
        if (*image.filed).object_classes & bit == 0 {
            set_bits(&raw mut (*image.filed).object_classes, bit);
        }
    }
}

/// What [`way`] looks at; the home is 0 where it is gone.
///
/// # Safety
/// `kept` is a checked map value.
#[inline(always)]
unsafe fn in_slot(kept: *const Object) -> (u64, u64, u64) {
    // SAFETY: by the caller's word.
    let (home, start, filed_ns) = unsafe { ((*kept).home, (*kept).start, (*kept).filed_ns) };
    let is_live = home != 0 && Image::of_home(home).is_some();
    (if is_live { home } else { 0 }, start, filed_ns)
}

/// Enters an object into the granules that it overlaps; objects of its class that it overlaps are over. Returns 0.
///
/// Like the other functions with global linkage: the verifier checks it once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn index_object(slot: u64) -> u64 {
    let Some(object) = OBJECTS.get_ptr(slot as u32) else { return 0 };
    // SAFETY: a checked map value.
    let (home, start, end) = unsafe { ((*object).home, (*object).start, (*object).end) };
    let Some(class) = class_of(end.wrapping_sub(start)) else { return 0 };
    for step in 0..MAX_GRANULES {
        let Some(granule) = granule(home, start, end, class, step) else { return 0 };
        let Some(set) = PLACES.get_ptr_mut(granule.set()) else { return 0 };
        end_in_granule(granule, set, object);
        place_in(set, granule.place(slot as u32));
    }
    0
}

/// Ends the objects of a granule that overlap the one that is to be entered.
#[inline(always)]
fn end_in_granule(granule: Granule, set: *const PlaceSet, object: *const Object) {
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        let Some(slot) = granule.slot(unsafe { (*set)[way] }) else { continue };
        let Some(other) = OBJECTS.get_ptr(slot) else { continue };
        // SAFETY: checked map values.
        let is_over = unsafe {
            (*other).home == (*object).home
                && (*other).start != (*object).start
                && overlap((*other).span(), (*object).span())
        };
        if is_over {
            end_object(u64::from(slot));
        }
    }
}

/// Puts a place into the first empty one of a set, or else into one whose object is gone, or else into the last.
#[inline(always)]
fn place_in(set: *mut PlaceSet, place: u64) {
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        unsafe {
            if (*set)[way] == EMPTY {
                (*set)[way] = place;
                return;
            }
        }
    }
    for way in 0..WAYS {
        // SAFETY: as above.
        unsafe {
            if !is_live((*set)[way] as u32) {
                (*set)[way] = place;
                return;
            }
        }
    }
    lost(LossReason::ObjectDisplaced);
    // SAFETY: as above.
    unsafe { (*set)[WAYS - 1] = place };
}

/// Whether the object in `slot` is of an image that is not gone.
#[inline(always)]
fn is_live(slot: u32) -> bool {
    // SAFETY: a checked map value.
    OBJECTS.get_ptr(slot).is_some_and(|object| Image::of_home(unsafe { (*object).home }).is_some())
}

/// Takes the object in `slot` out of the table and the index, and tells its touch. Returns 1, or 0 where its image was
/// gone or the slot free.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_object(slot: u64) -> u64 {
    let Some(object) = OBJECTS.get_ptr_mut(slot as u32) else { return 0 };
    // SAFETY: a checked map value.
    let (home, start, end) = unsafe { ((*object).home, (*object).start, (*object).end) };
    let Some(class) = class_of(end.wrapping_sub(start)) else { return 0 };
    if home == 0 {
        return 0;
    }
    for step in 0..MAX_GRANULES {
        if let Some(granule) = granule(home, start, end, class, step) {
            clear(granule, slot as u32);
        }
    }
    let is_live = Image::of_home(home).is_some();
    // SAFETY: a checked map value.
    if is_live && unsafe { (*object).faults } != 0 {
        tell_touch(slot);
    }
    // SAFETY: as above.
    unsafe { (*object).home = 0 };
    if is_live && let Some(counters) = counters(slot_of_home(home)) {
        // SAFETY: a checked map value.
        unsafe { add(&raw mut (*counters).ranges_ended, 1) };
    }
    u64::from(is_live)
}

/// Empties the granule's place that leads to `slot`.
#[inline(always)]
fn clear(granule: Granule, slot: u32) {
    let Some(set) = PLACES.get_ptr_mut(granule.set()) else { return };
    let place = granule.place(slot);
    for way in 0..WAYS {
        // SAFETY: a checked map value; the index is below the array's length.
        unsafe {
            if (*set)[way] == place {
                (*set)[way] = EMPTY;
            }
        }
    }
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
    record(key, object.touch_ns, object.end.wrapping_sub(object.start));
    0
}

/// The slot, plus 1, of the live object that holds `address`: of several the one filed last. 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search_objects(home: u64, mut classes: u64, address: u64) -> u64 {
    let (mut found, mut found_ns) = (0, 0);
    for _ in 0..MAX_CLASSES {
        if classes == 0 {
            return found;
        }
        let class = classes.trailing_zeros();
        classes &= classes - 1;
        let granule = Granule::new(home, class, address >> (class & 63));
        let Some(set) = PLACES.get_ptr(granule.set()) else { continue };
        for way in 0..WAYS {
            // SAFETY: a checked map value; the index is below the array's length.
            let Some(slot) = granule.slot(unsafe { (*set)[way] }) else { continue };
            let Some(object) = OBJECTS.get_ptr(slot) else { continue };
            // SAFETY: a checked map value.
            let filed_ns = unsafe {
                let holds = (*object).start <= address && address < (*object).end;
                if holds && (*object).home == home { (*object).filed_ns } else { 0 }
            };
            if filed_ns > found_ns {
                (found, found_ns) = (u64::from(slot) + 1, filed_ns);
            }
        }
    }
    found
}

/// The live object that holds `address`.
#[inline(always)]
fn find(image: &Image, address: u64) -> Option<(u64, *mut Object)> {
    // SAFETY: a checked map value.
    let classes = unsafe { (*image.filed).object_classes };
    if classes == 0 {
        return None;
    }
    let slot = search_objects(image.home(), classes, address).checked_sub(1)?;
    Some((slot, OBJECTS.get_ptr_mut(slot as u32)?))
}

/// The live object that holds `address`. One where memory was mapped since is over.
#[inline(always)]
pub fn find_newest(image: &Image, address: u64) -> Option<*mut Object> {
    let (slot, object) = find(image, address)?;
    // SAFETY: checked map values.
    let (filed_ns, range_filed_ns) = unsafe { ((*object).filed_ns, (*image.filed).range_filed_ns) };
    if range_filed_ns > filed_ns
        && let Some((_, range)) = ranges::find(image, address)
        // SAFETY: a checked map value.
        && unsafe { (*range).filed_ns } > filed_ns
    {
        end_object(slot);
        return None;
    }
    Some(object)
}

/// Ends the object that `start..end` is unmapped with, if it lies in there with its first or last byte; an allocator
/// gives large ones back alone. Returns it as a range.
#[inline(always)]
pub fn unmap(image: &Image, start: u64, end: u64) -> Option<LiveRange> {
    let (slot, object) = find(image, start).or_else(|| find(image, end.wrapping_sub(1)))?;
    // SAFETY: a checked map value.
    let Object { start: first, end: last, size, touch_ns, faults, filed_ns, allocator, .. } =
        unsafe { *object };
    if first < start || last > end {
        return None;
    }
    // Its release tells its touch.
    // SAFETY: a checked map value.
    unsafe { (*object).faults = 0 };
    end_object(slot);
    Some(LiveRange { end: last, size, touch_ns, faults, filed_ns, allocator })
}
