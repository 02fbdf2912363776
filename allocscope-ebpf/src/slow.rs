//! Single allocations into ring records: slow ones with the stack of their call, or (to record a profile) all of them.
//!
//! Which ones is decided when the call ends; an allocation that a record was made of is marked in the table of live
//! ranges or objects, and what its memory costs afterwards is recorded as well. With [`RECORDING`] off, which is a
//! constant by the time the verifier looks, nothing of this is in the programs.

use crate::atomic::add;
use crate::maps::{ALLOCATIONS, DEPTHS, FRAMES, OWN_TGID, RECORDING, SAMPLING, SLOW_NS, STACK_DEPTH};
use crate::record::lost;
use crate::window::ClosedCall;
use allocscope_common::allocation::{
    AllocationEvent, AllocationRecord, FramesRecord, MARKED, MAX_FRAMES, MAX_STACK_BYTES, Recording,
    STACK_BYTES, StackHead, StackRecord,
};
use allocscope_common::cause::CAUSES;
use allocscope_common::counter::LossReason;
use allocscope_common::depth::{DEPTH_BUCKETS, DepthCounts, DepthKey, depth_bucket};
use aya_ebpf::bindings::{BPF_F_USER_STACK, BPF_NOEXIST, BPF_RB_NO_WAKEUP, pt_regs};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_prandom_u32, bpf_get_stack, bpf_ktime_get_ns,
    bpf_probe_read_kernel, bpf_task_pt_regs, generated,
};
use core::ffi::c_void;

/// A CPU's budget is for 2^26 ns, some 67 ms.
const PERIOD_SHIFT: u32 = 26;
/// Copies of stacks that a CPU takes in a period without thinning them out: 3,800 a second.
pub const COPIES: u32 = 256;
/// The same for frames, which take a tenth of the room: 15,000 a second.
pub const FRAMED: u32 = 1024;
/// Stacks where only slow allocations are told: 950 a second.
const SLOW_BUDGET: u32 = 64;
/// Of these, stacks of calls that may become slow: 120 a second.
const EARLY_BUDGET: u32 = 8;
/// Events of slow allocations that a CPU tells in a period: 950 a second.
const TOLD_BUDGET: u32 = 64;
/// One call in 2^MAX_THINNING is taken at least.
const MAX_THINNING: u32 = 10;

const PAGE_BYTES: u64 = 4096;
const STACK_PAGES: u64 = MAX_STACK_BYTES as u64 / PAGE_BYTES;

/// What a CPU has recorded in this period.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sampling {
    period: u64,
    /// Calls that may be recorded.
    calls: u32,
    /// Events of slow allocations that were told.
    told: u32,
    /// log2 of how many calls one stood for at the end of the period before.
    thinning: u32,
    reserved: u32,
}

/// A call that has ended.
#[derive(Clone, Copy)]
pub struct Call {
    /// The process' slot.
    pub slot: u32,
    /// The allocator, as a number.
    pub allocator: u8,
    /// Bytes asked for.
    pub size: u64,
    /// When it ended.
    pub at_ns: u64,
    /// How long it took.
    pub ns: u64,
    /// When its memory was or will be filed.
    pub filed_ns: u64,
    /// Where the goroutine's number is, or 0.
    pub goid_at: u64,
}

#[inline(always)]
fn is_slow(ns: u64) -> bool {
    // SAFETY: a checked map value.
    SLOW_NS.get_ptr(0).is_some_and(|threshold| ns >= unsafe { *threshold })
}

/// Something slow cannot be told: a loss where the user asked for all that take so long.
#[inline(always)]
fn untold(ns: u64) {
    // SAFETY: a checked map value.
    if SLOW_NS.get_ptr(1).is_some_and(|asked| ns >= unsafe { *asked }) {
        lost(LossReason::SlowUntold);
    }
}

/// Whether single allocations are recorded at all.
#[inline(always)]
pub fn is_on() -> bool {
    RECORDING.load() != Recording::Off as u32
}

/// Whether only slow allocations are recorded.
#[inline(always)]
pub fn tells_slow_only() -> bool {
    RECORDING.load() == Recording::Slow as u32
}

/// This CPU's budget in the current period.
#[inline(always)]
fn sampling(now_ns: u64, budget: u32) -> Option<*mut Sampling> {
    let sampling = SAMPLING.get_ptr_mut(0)?;
    let period = now_ns >> PERIOD_SHIFT;
    // SAFETY: a checked map value of this CPU.
    unsafe {
        if (*sampling).period != period {
            let thinning = (*sampling).calls / budget;
            *sampling = Sampling { period, calls: 0, told: 0, thinning: log2_above(thinning), reserved: 0 };
        }
    }
    Some(sampling)
}

/// The number of bits that `value` has.
#[inline(always)]
fn log2_above(value: u32) -> u32 {
    let bits = 32 - value.leading_zeros();
    if bits > MAX_THINNING { MAX_THINNING } else { bits }
}

/// Whether allocscope itself is at work here, to learn its own price.
#[inline(always)]
fn is_own() -> bool {
    (bpf_get_current_pid_tgid() >> 32) as u32 == OWN_TGID.load()
}

/// How many calls a record of this one stands for; 0 where none is to be made.
#[inline(always)]
pub fn weight(size: u64, ns: u64, now_ns: u64, budget: u32) -> u32 {
    if is_own() {
        return 0;
    }
    let Some(sampling) = sampling(now_ns, budget) else { return 0 };
    // SAFETY: a checked map value of this CPU.
    let (calls, before) = unsafe { ((*sampling).calls, (*sampling).thinning) };
    if tells_slow_only() {
        return slow_weight(sampling, size, ns, calls);
    }
    // SAFETY: as above.
    unsafe { (*sampling).calls = calls.wrapping_add(1) };
    let now = log2_above(calls / budget);
    let thinning = if now > before { now } else { before };
    let every = 1u32 << (thinning & 31);
    // SAFETY: a helper without arguments.
    if unsafe { bpf_get_prandom_u32() } & (every - 1) == 0 { every } else { 0 }
}

/// Stacks of calls that are slow, and as long as there are few of those that may become so.
#[inline(always)]
fn slow_weight(sampling: *mut Sampling, size: u64, ns: u64, calls: u32) -> u32 {
    let slow = is_slow(ns);
    if !slow && (size < STACK_BYTES || calls >= EARLY_BUDGET) {
        return 0;
    }
    if calls >= SLOW_BUDGET {
        untold(ns);
        return 0;
    }
    // SAFETY: a checked map value of this CPU.
    unsafe { (*sampling).calls = calls + 1 };
    1
}

/// Fills a record in the ring, where it does not take room on the stack.
///
/// # Safety
/// `place` is reserved memory.
#[inline(always)]
unsafe fn fill(
    place: *mut AllocationRecord,
    event: AllocationEvent,
    call: &Call,
    (weight, faults): (u32, u64),
    closed: ClosedCall,
) {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: by the caller's word; the indices are below the array's length.
    unsafe {
        (*place).event = event as u32;
        (*place).slot = call.slot;
        (*place).tgid = (pid_tgid >> 32) as u32;
        (*place).tid = pid_tgid as u32;
        (*place).filed_ns = call.filed_ns;
        (*place).size = call.size;
        (*place).at_ns = call.at_ns;
        (*place).ns = call.ns;
        (*place).faults = faults;
        (*place).goroutine = 0;
        if call.goid_at != 0 {
            // Right into the record, and 0 where it cannot be read.
            generated::bpf_probe_read_user(
                (&raw mut (*place).goroutine).cast(),
                8,
                call.goid_at as *const c_void,
            );
        }
        (*place).allocator = u32::from(call.allocator);
        (*place).weight = weight;
        for cause in 0..CAUSES {
            (&raw mut (*place).causes[cause]).write_volatile(closed.ns_of(cause));
        }
    }
}

/// Records a call in native code with a copy of its caller's stack, where it is one of those to be recorded: one of
/// `allocator` in the process in `slot`, which took `ns` until `at_ns`. Returns the mark that its range or object is to
/// carry.
#[inline(always)]
pub fn native_call(
    (slot, allocator): (u32, u8),
    size: u64,
    (at_ns, ns): (u64, u64),
    has_window: bool,
    regs: *mut pt_regs,
) -> u64 {
    if !is_on() {
        return 0;
    }
    let window = if has_window { HAS_WINDOW } else { 0 };
    tell_native_call(slot_allocator(slot, u64::from(allocator)) | window, size, at_ns, ns, regs)
}

/// Beside the allocator: the thread's closed window is the call's.
const HAS_WINDOW: u64 = 1 << 16;

/// Not inlined and without structs, as what else is told of a call: before kernel 6.13 a program and the functions on
/// the way down from it have a stack of 512 bytes together.
#[inline(never)]
fn tell_native_call(told: u64, size: u64, at_ns: u64, ns: u64, regs: *mut pt_regs) -> u64 {
    let weight = weight(size, ns, at_ns, COPIES);
    if weight == 0 {
        return 0;
    }
    let thread = if told & HAS_WINDOW != 0 { bpf_get_current_pid_tgid() } else { 0 };
    let (slot, allocator) = ((told >> 32) as u32, told as u8);
    let call = &Call { slot, allocator, size, at_ns, ns, filed_ns: at_ns, goid_at: 0 };
    // SAFETY: the verifier allows reading the fields of the program's context.
    let (ip, sp, fp) = unsafe { ((*regs).rip, (*regs).rsp, (*regs).rbp) };
    record_stack(call, weight, ClosedCall::of(thread), StackHead { bytes: 0, ip, sp, fp })
}

/// The same for a system call, at its exit.
#[inline(always)]
pub fn system_call(call: &Call, closed: ClosedCall) -> u64 {
    if !is_on() {
        return 0;
    }
    let weight = weight(call.size, call.ns, call.at_ns, COPIES);
    if weight == 0 {
        return 0;
    }
    let (mut ip, mut sp, mut fp) = (0, 0, 0);
    // SAFETY: the first helper returns this task; the registers that the second one finds on its kernel stack are
    // read by a helper that checks their address.
    unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs;
        if let (Ok(rip), Ok(rsp), Ok(rbp)) = (
            bpf_probe_read_kernel(&raw const (*regs).rip),
            bpf_probe_read_kernel(&raw const (*regs).rsp),
            bpf_probe_read_kernel(&raw const (*regs).rbp),
        ) {
            (ip, sp, fp) = (rip, rsp, rbp);
        }
    }
    record_stack(call, weight, closed, StackHead { bytes: 0, ip, sp, fp })
}

#[inline(always)]
fn record_stack(call: &Call, weight: u32, closed: ClosedCall, head: StackHead) -> u64 {
    let Some(mut entry) = ALLOCATIONS.reserve::<StackRecord>(0) else {
        lost(LossReason::AllocationRingFull);
        return 0;
    };
    let place = entry.as_mut_ptr();
    // SAFETY: the reserved memory is as large as the record.
    unsafe {
        fill(&raw mut (*place).record, AllocationEvent::Call, call, (weight, 0), closed);
        let bytes = copy_stack((&raw mut (*place).stack).cast(), head.sp);
        (&raw mut (*place).head).write(StackHead { bytes, ..head });
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    MARKED
}

/// Copies the stack from `sp` upwards, page by page until one cannot be read: its upper end may be near. Returns how
/// many bytes there are.
#[inline(always)]
unsafe fn copy_stack(to: *mut u8, sp: u64) -> u64 {
    let first = PAGE_BYTES - (sp & (PAGE_BYTES - 1));
    // SAFETY: `to` has room for all pages, the first of which is cut off; the helper checks the other address.
    unsafe {
        if generated::bpf_probe_read_user(to.cast(), first as u32, sp as *const c_void) != 0 {
            return 0;
        }
        let mut bytes = first;
        for page in 0..STACK_PAGES - 1 {
            let at = first + page * PAGE_BYTES;
            let (to, from) = (to.add(at as usize), sp.wrapping_add(at));
            if generated::bpf_probe_read_user(to.cast(), PAGE_BYTES as u32, from as *const c_void) != 0 {
                return bytes;
            }
            bytes += PAGE_BYTES;
        }
        bytes
    }
}

/// Records a call of `weight` in code that keeps frame pointers, with its stack. `closed`: the thread whose closed window
/// is the call's, or 0. Returns the mark.
#[inline(always)]
pub fn framed_call(call: &Call, weight: u32, closed: u64, ctx: *mut c_void) -> u64 {
    let Some(mut entry) = ALLOCATIONS.reserve::<FramesRecord>(0) else {
        lost(LossReason::AllocationRingFull);
        return 0;
    };
    let place = entry.as_mut_ptr();
    // SAFETY: the reserved memory is as large as the record; the helper takes the program's own context.
    unsafe {
        fill(&raw mut (*place).record, AllocationEvent::Call, call, (weight, 0), ClosedCall::of(closed));
        let bytes = frames(ctx, (&raw mut (*place).frames).cast());
        (&raw mut (*place).head).write(StackHead { bytes, ip: 0, sp: 0, fp: 0 });
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    MARKED
}

/// Writes the frames that frame pointers lead to, from the probed function on. Returns how many bytes there are.
///
/// # Safety
/// `to` has room for [`MAX_FRAMES`] words, `ctx` is the program's context.
#[inline(always)]
unsafe fn frames(ctx: *mut c_void, to: *mut c_void) -> u64 {
    // SAFETY: by the caller's word.
    let bytes = unsafe { bpf_get_stack(ctx, to, MAX_FRAMES as u32 * 8, u64::from(BPF_F_USER_STACK)) };
    if bytes < 0 { 0 } else { bytes as u64 }
}

/// Tells the first touch of a range or object, whose word for its allocator has the mark: where that is set, and
/// where the time is over the threshold. Returns 0.
///
/// Like other functions with global linkage: the verifier checks it once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_touched(slot_allocator: u64, size: u64, filed_ns: u64, ns: u64, faults: u64) -> u64 {
    tell(AllocationEvent::Touch, slot_allocator, size, filed_ns, (ns, faults), ClosedCall::NONE);
    0
}

/// The same for its release, in the closed call of `thread`; 0 where it has no window. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_released(slot_allocator: u64, size: u64, filed_ns: u64, ns: u64, thread: u64) -> u64 {
    tell(AllocationEvent::Release, slot_allocator, size, filed_ns, (ns, 0), ClosedCall::of(thread));
    0
}

#[inline(always)]
fn slot_allocator(slot: u32, allocator: u64) -> u64 {
    u64::from(slot) << 32 | (allocator & 0xffff_ffff)
}

/// Tells the first touch of what was filed at `filed_ns`.
#[inline(always)]
pub fn touched(slot: u32, allocator: u64, size: u64, filed_ns: u64, (ns, faults): (u64, u64)) {
    if is_on() {
        tell_touched(slot_allocator(slot, allocator), size, filed_ns, ns, faults);
    }
}

/// Tells the release of what was filed at `filed_ns`, in a call that is closed.
#[inline(always)]
pub fn released(slot: u32, allocator: u64, size: u64, filed_ns: u64, ns: u64, closed: ClosedCall) {
    if is_on() {
        tell_released(slot_allocator(slot, allocator), size, filed_ns, ns, closed.thread());
    }
}

/// Tells that what was filed at `before_ns` is filed anew.
#[inline(always)]
pub fn moved(slot: u32, allocator: u64, size: u64, filed_ns: u64, before_ns: u64) {
    if is_on() && allocator & MARKED != 0 {
        let slot_allocator = slot_allocator(slot, allocator);
        put(AllocationEvent::Move, slot_allocator, size, (filed_ns, before_ns), (0, 0), ClosedCall::NONE);
    }
}

#[inline(always)]
fn tell(
    event: AllocationEvent,
    slot_allocator: u64,
    size: u64,
    filed_ns: u64,
    (ns, faults): (u64, u64),
    closed: ClosedCall,
) {
    let all = !tells_slow_only();
    let is_told = if all { slot_allocator & MARKED != 0 } else { is_slow(ns) };
    if !is_told || is_own() {
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !all && !may_tell(now_ns) {
        untold(ns);
        return;
    }
    put(event, slot_allocator, size, (filed_ns, now_ns), (ns, faults), closed);
}

#[inline(always)]
fn may_tell(now_ns: u64) -> bool {
    let Some(sampling) = sampling(now_ns, COPIES) else { return false };
    // SAFETY: a checked map value of this CPU.
    unsafe {
        (*sampling).told = (*sampling).told.wrapping_add(1);
        (*sampling).told <= TOLD_BUDGET
    }
}

#[inline(always)]
fn put(
    event: AllocationEvent,
    slot_allocator: u64,
    size: u64,
    (filed_ns, at_ns): (u64, u64),
    (ns, faults): (u64, u64),
    closed: ClosedCall,
) {
    let (slot, allocator) = ((slot_allocator >> 32) as u32, slot_allocator as u8);
    let call = Call { slot, allocator, size, at_ns, ns, filed_ns, goid_at: 0 };
    let Some(mut entry) = ALLOCATIONS.reserve::<AllocationRecord>(0) else {
        lost(LossReason::AllocationRingFull);
        return;
    };
    // SAFETY: the reserved memory is as large as the record.
    unsafe { fill(entry.as_mut_ptr(), event, &call, (1, faults), closed) };
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Counts the frames of the current stack, where that was asked for.
#[inline(always)]
pub fn count_depth(slot: u32, allocator: u8, ctx: *mut c_void) {
    if STACK_DEPTH.load() != 0 {
        count_frames(slot, allocator, ctx);
    }
}

#[inline(never)]
fn count_frames(slot: u32, allocator: u8, ctx: *mut c_void) {
    // Only how many there are is used, so that it does not matter who else on this CPU writes there.
    let Some(place) = FRAMES.get_ptr_mut(0) else { return };
    // SAFETY: a map value of that many words; the context is the program's by the caller's word.
    let depth = unsafe { frames(ctx, place.cast()) } / 8;
    let key = DepthKey { slot, allocator: u32::from(allocator) };
    let Some(counts) = depth_counts(&key) else {
        lost(LossReason::SeriesFull);
        return;
    };
    let bucket = depth_bucket(depth);
    if bucket < DEPTH_BUCKETS {
        // SAFETY: a checked map value; the index is below the array's length.
        unsafe {
            add(&raw mut (*counts).buckets[bucket], 1);
            add(&raw mut (*counts).frames, depth);
        }
    }
}

#[inline(always)]
fn depth_counts(key: &DepthKey) -> Option<*mut DepthCounts> {
    if let Some(counts) = DEPTHS.get_ptr_mut(key) {
        return Some(counts);
    }
    let _ =
        DEPTHS.insert(key, DepthCounts { buckets: [0; DEPTH_BUCKETS], frames: 0 }, u64::from(BPF_NOEXIST));
    DEPTHS.get_ptr_mut(key)
}
