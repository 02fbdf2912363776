//! The release of a heap's object: a function that takes what is given back, to the end of its call.
//!
//! Only what is in the table of live objects is of interest, so what was given out before tracing began is not
//! counted, and neither is anything where a function turns out to take something else. The memory system calls
//! that are made on the way are part of the call, and are not counted for themselves.

use crate::filter::{Image, is_return_safe};
use crate::inflight::{FREEING, NativeCall, in_native_call, open_native_call};
use crate::objects;
use crate::probes::native::{TCMALLOC_PAGE_SHIFT, argument, read};
use crate::record::{record, total};
use crate::slow;
use crate::thread::Thread;
use crate::window::{self, ClosedCall, Owner};
use allocscope_common::key::{SeriesKey, Stage, size_class};
use allocscope_common::native_id::{self, NativeResult};
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::bpf_ktime_get_ns;

/// Ends the object and opens the call; `None` where there is no such object. The object is over before the
/// allocator can give its address to another thread.
#[inline(always)]
pub fn enter(thread: &Thread, regs: *mut pt_regs, cookie: u64) -> Option<()> {
    // Where both kinds of probes are, each process has one of them.
    if native_id::is_at_callers(cookie) == is_return_safe(thread.image.slot) {
        return None;
    }
    let image = thread.image;
    let start = address(argument(regs, native_id::size_of(cookie)), cookie)?;
    let [size, freed_ns, allocator] = objects::free(&image, start)?;
    // SAFETY: the verifier allows reading the fields of the program's context.
    let sp = unsafe { (*regs).rsp };
    // SAFETY: a helper without arguments. Last, so that the time measured is the call's.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    let tag = thread.pid_tgid;
    let (first, home) = (FREEING | allocator, image.home());
    let hands_on = native_id::hands_on(cookie).into();
    let call = NativeCall { tag, start_ns, size, sp, first, home, before: freed_ns, hands_on };
    let opened = open_native_call(call);
    if opened.is_some() {
        window::open_call(tag, start_ns, Owner::Native);
    } else {
        // Part of another call, such as a `realloc` that moves: its time is that call's.
        total(key(&image, cookie, size), 1, size);
    }
    opened
}

/// Ends the object that a call may move, before the allocator can give its address to another thread. Returns its bytes; 0
/// where there is none, or where the call is part of another one, whose return is not seen.
#[inline(always)]
pub fn resized(thread: &Thread, start: u64) -> u64 {
    if in_native_call(thread.pid_tgid) {
        return 0;
    }
    objects::free(&thread.image, start).map_or(0, |[size, ..]| size)
}

/// Counts the end of the object that a call has moved. Its time is the call's.
#[inline(always)]
pub fn moved(image: &Image, call: &NativeCall, cookie: u64) {
    total(key(image, cookie, call.before), 1, call.before);
}

/// Ends the object that a call makes smaller than what is of interest, if it has been of interest.
#[inline(always)]
pub fn shrunk(regs: *mut pt_regs, cookie: u64) -> Option<()> {
    let image = Thread::current()?.image;
    let [size, ..] = objects::free(&image, argument(regs, 0))?;
    total(key(&image, cookie, size), 1, size);
    Some(())
}

/// Where the memory begins that `given` stands for.
#[inline(always)]
fn address(given: u64, cookie: u64) -> Option<u64> {
    let kind = native_id::result_of(cookie);
    if kind == NativeResult::FreedPointer as u8 {
        return Some(given);
    }
    let [first, second] = read::<2>(given)?;
    Some(if kind == NativeResult::FreedExtent as u8 { second } else { first << TCMALLOC_PAGE_SHIFT })
}

/// Records the call.
#[inline(always)]
pub fn leave(image: &Image, call: &NativeCall, now_ns: u64, cookie: u64, closed: ClosedCall) -> Option<()> {
    let ns = now_ns.saturating_sub(call.start_ns);
    record(key(image, cookie, call.size), ns, call.size);
    slow::released(image.slot, call.first & !FREEING, call.size, call.before, ns, closed);
    None
}

#[inline(always)]
fn key(image: &Image, cookie: u64, size: u64) -> SeriesKey {
    let allocator = native_id::allocator_of(cookie);
    SeriesKey::stage_numbered(image.slot, allocator, Stage::Release, size_class(size))
}
