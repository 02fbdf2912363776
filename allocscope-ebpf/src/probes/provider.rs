//! What a program tells of its own pools, arenas and regions by statically defined probes, see
//! [`allocscope_common::provider`]: what took time is over, and its arguments say what it was.
//!
//! Memory is counted once. The mapping that a thread made last is its region's, and the `mmap` is taken back; what
//! an allocator's own probes have counted meanwhile, or lies in a region, stays what it is; what was unmapped is
//! released by that.

use crate::filter::{Image, is_large};
use crate::inflight::{RELEASED, take_last};
use crate::record::{hit, record, record_touch, unrecord};
use crate::slow;
use crate::thread::Thread;
use crate::window::ClosedCall;
use crate::{objects, ranges};
use allocscope_common::counter::{LiveRange, ProbeClass};
use allocscope_common::key::{Allocator, SeriesKey, Stage, size_class};
use allocscope_common::object::Object;
use allocscope_common::provider::{ProviderEvent, event_of, step_of};
use allocscope_common::site_id::StepClass;
use allocscope_common::touch::touched_bytes;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;

const POOL: u64 = Allocator::Pool as u64;
/// Of the word for a range's allocator: its number.
const NUMBER: u64 = 0xff;

/// What may pass between the program's look at the clock and ours: others may have the CPU meanwhile. An allocator's own
/// probes have filed what it serves anew by then, so that what is older by less is never another one's.
const DELAY_NS: u64 = 50_000_000;

/// Something that the program tells of.
struct Told {
    thread: Thread,
    size: u64,
    ns: u64,
    address: u64,
}

/// `allocscope:*(size, nanoseconds, address)`
#[uprobe]
fn provider_site(ctx: ProbeContext) -> u32 {
    try_provider_site(&ctx).unwrap_or(0)
}

#[inline(always)]
fn try_provider_site(ctx: &ProbeContext) -> Option<u32> {
    // SAFETY: a helper that takes the program's own context, and fields of that, which the verifier allows reading.
    let (cookie, size, ns, address) =
        unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), (*ctx.regs).rdi, (*ctx.regs).rsi, (*ctx.regs).rdx) };
    let thread = Thread::current()?;
    let (slot, event) = (thread.image.slot, event_of(cookie));
    hit(slot, class_of(cookie));
    record(SeriesKey::provider(slot, event), ns, size);
    let told = Told { thread, size, ns, address };
    // What is not large was not filed: at its address another thread may have something by now.
    if !is_large(size) {
        return None;
    }
    if ProviderEvent::is_allocation(event) {
        told.allocated()?;
    } else if event == ProviderEvent::RegionRelease as u8 {
        told.released()?;
    }
    None
}

#[inline(always)]
fn class_of(cookie: u64) -> ProbeClass {
    let is_called = step_of(cookie) == StepClass::Called as u8;
    if is_called { ProbeClass::UprobeCalled } else { ProbeClass::UprobeEmulated }
}

impl Told {
    /// Files the memory, and counts the call that got it.
    #[inline(always)]
    fn allocated(&self) -> Option<()> {
        let image = &self.thread.image;
        let end = self.address.wrapping_add(self.size);
        // No memory that it could be told by: the event is all there is.
        if self.address == 0 || end >> 47 != 0 {
            return None;
        }
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        let since_ns = now_ns.saturating_sub(self.ns + DELAY_NS);
        if objects::filed_at(image, self.address).is_some_and(|filed_ns| filed_ns >= since_ns) {
            return None;
        }
        match ranges::find(image, self.address) {
            Some((start, range)) if !self.is_in_heap(start, range) => {
                self.take_over(image, (start, range))?
            }
            _ => self.file_object(image, end, now_ns),
        }
        record(self.stage(Stage::Call), self.ns, self.size);
        Some(())
    }

    /// Whether a range is the address space that an allocator's heap grows in, of which this is a part.
    #[inline(always)]
    fn is_in_heap(&self, start: u64, range: *mut LiveRange) -> bool {
        // SAFETY: a checked map value.
        let (end, allocator) = unsafe { ((*range).end, (*range).allocator) };
        allocator & NUMBER == Allocator::Reserve as u64 && self.size < end.wrapping_sub(start) / 2
    }

    /// Takes a mapping for the program's own, guard pages and all; `None` where it is somebody else's. What it was
    /// counted as is taken back where it is what this thread did last.
    #[inline(always)]
    fn take_over(&self, image: &Image, (start, range): (u64, *mut LiveRange)) -> Option<()> {
        // SAFETY: a checked map value; a copy, since its fields are about to be written.
        let LiveRange { allocator, size, filed_ns, .. } = unsafe { *range };
        let number = allocator & NUMBER;
        let ns = take_last(self.thread.pid_tgid, filed_ns);
        if number != Allocator::Reserve as u64 && (number != Allocator::Mmap as u64 || ns.is_none()) {
            return None;
        }
        // Where a record has told of it as a mapping, others tell what comes.
        ranges::give(image, (start, range), POOL | allocator & !NUMBER, self.size);
        if let Some(ns) = ns {
            let key = SeriesKey::stage_numbered(image.slot, number as u8, Stage::Call, size_class(size));
            unrecord(key, ns, size);
        }
        Some(())
    }

    #[inline(always)]
    fn file_object(&self, image: &Image, end: u64, filed_ns: u64) {
        let (home, start, size) = (image.home(), self.address, self.size);
        let new = Object { home, start, end, size, filed_ns, allocator: POOL, ..Object::default() };
        objects::file(image, new);
    }

    /// Ends what was not unmapped meanwhile: that was counted then.
    #[inline(always)]
    fn released(&self) -> Option<()> {
        if take_last(self.thread.pid_tgid, RELEASED).is_some() {
            return None;
        }
        let image = &self.thread.image;
        let (start, range) = ranges::find(image, self.address)?;
        // SAFETY: a checked map value; copied, because the entry is about to go.
        let range = unsafe { *range };
        if range.allocator & NUMBER != POOL || range.size != self.size {
            return None;
        }
        let range = ranges::end(image, start, range);
        let bytes = touched_bytes(range.faults, range.more_pages);
        let class = size_class(range.size);
        let touch = SeriesKey::stage(image.slot, Allocator::Pool, Stage::Touch, class);
        record_touch(touch, range.faults, range.touch_ns, bytes);
        record(self.stage(Stage::Release), self.ns, self.size);
        let cost = (range.touch_ns, u64::from(range.faults));
        slow::touched(image.slot, range.allocator, range.size, range.filed_ns, cost);
        slow::released(image.slot, range.allocator, range.size, range.filed_ns, self.ns, ClosedCall::NONE);
        Some(())
    }

    #[inline(always)]
    fn stage(&self, stage: Stage) -> SeriesKey {
        SeriesKey::stage(self.thread.image.slot, Allocator::Pool, stage, size_class(self.size))
    }
}
