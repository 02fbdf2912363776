//! Go's large-object path: `runtime.mallocgcLarge(size uintptr, typ *_type, needzero bool) (unsafe.Pointer,
//! uintptr)`, before Go 1.24 `runtime.(*mcache).allocLarge(size uintptr, noscan bool) *mspan` (1.17 has one more
//! argument behind the size, and one more result), and for arenas
//! `runtime.newUserArenaChunk() (unsafe.Pointer, *mspan)`.
//!
//! Go's internal ABI on x86-64 passes arguments in rax, rbx, rcx (a receiver is the first), keeps `g` in r14 and
//! returns in rax. A call is keyed by (tgid, g, stack.hi - sp): goroutines move between threads and stacks
//! move, but the distance to the stack's upper end stays. Exits are plain probes, never return probes:
//! a return trampoline on a goroutine's stack kills the program at the next stack scan.

use crate::filter::{Traced, is_large};
use crate::inflight::{close_go_call, find_assist, find_go_call, open_go_call};
use crate::objects;
use crate::probes::go_mark::{self, stopped_ns};
use crate::record::{hit, lost, record};
use crate::slow;
use crate::window::{self, ClosedCall, Owner};
use allocscope_common::allocation::MARKED;
use allocscope_common::cause::Cause;
use allocscope_common::counter::{LossReason, ProbeClass};
use allocscope_common::go_call::{GoCall, GoCallTag};
use allocscope_common::go_runtime::GoAssist;
use allocscope_common::key::{Allocator, SeriesKey, Stage, size_class};
use allocscope_common::object::Object;
use allocscope_common::site_id::{self, Function, ResultPlace, Role, StepClass, function_of};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_ktime_get_ns, bpf_probe_read_user};
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use core::ffi::c_void;

/// Offset of `g.stack.hi` (runtime2.go: `stack` is the first field of `g`, `hi` the second of `stack`). The same in
/// the DWARF of programs of each version from 1.17 to 1.27, and all others are refused (`allocator::go::version`).
const G_STACK_HI: u64 = 8;
/// Offset of `mspan.startAddr`, followed by `npages` (mheap.go: next, prev, list, startAddr, npages).
const MSPAN_START_ADDR: u64 = 24;
/// Size of a page of Go's heap, in bytes (runtime `pageSize`, 8 KiB).
const GO_PAGE_BYTES: u64 = 8192;

/// Size of an arena's chunk, in bytes (arena.go: `userArenaChunkBytesMax`, less only where a heap arena is
/// smaller, which on 64-bit Linux it is not).
const ARENA_CHUNK_BYTES: u64 = 8 << 20;

const GO_ALLOC_LARGE: u8 = Function::GoAllocLarge as u8;
const GO_MALLOC_LARGE: u8 = Function::GoMallocLarge as u8;
const GO_ARENA_CHUNK: u8 = Function::GoArenaChunk as u8;
const OWN: u8 = Function::Own as u8;

/// Any probe of a Go site; the cookie tells which.
#[uprobe]
fn go_site(ctx: ProbeContext) -> u32 {
    try_go_site(&ctx).unwrap_or(0)
}

/// What the probes look at.
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub r14: u64,
    pub flags: u64,
}

impl Registers {
    /// Reads them whether needed or not: of a choice between two the compiler makes a computed address, which
    /// the verifier refuses.
    #[inline(always)]
    fn of(ctx: &ProbeContext) -> Self {
        let regs: *const pt_regs = ctx.regs;
        // SAFETY: the verifier allows reading the fields of the program's context.
        unsafe {
            Self {
                rax: (&raw const (*regs).rax).read_volatile(),
                rbx: (&raw const (*regs).rbx).read_volatile(),
                rcx: (&raw const (*regs).rcx).read_volatile(),
                rsp: (&raw const (*regs).rsp).read_volatile(),
                r14: (&raw const (*regs).r14).read_volatile(),
                flags: (&raw const (*regs).eflags).read_volatile(),
            }
        }
    }

    /// The goroutine, and the bytes between its stack's upper end and `sp`.
    #[inline(always)]
    pub fn tag_at(&self, traced: &Traced, sp: u64) -> Option<GoCallTag> {
        // SAFETY: the helper checks the address itself.
        let stack_hi = unsafe { bpf_probe_read_user((self.r14 + G_STACK_HI) as *const u64) }.ok()?;
        let depth = stack_hi.wrapping_sub(sp) & 0xffff_ffff;
        Some(GoCallTag { g: self.r14, tgid_depth: u64::from(traced.tgid()) << 32 | depth })
    }
}

#[inline(always)]
fn try_go_site(ctx: &ProbeContext) -> Option<u32> {
    let traced = Traced::current()?;
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let stepped = site_id::step_of(cookie) == StepClass::Stepped as u8;
    hit(traced.slot, if stepped { ProbeClass::UprobeStepped } else { ProbeClass::UprobeEmulated });
    let regs = &Registers::of(ctx);
    let role = site_id::role_of(cookie);
    if role == Role::Entry as u8 {
        enter(&traced, regs, cookie)
    } else if role == Role::Exit as u8 {
        exit(ctx, &traced, regs, cookie)
    } else {
        // SAFETY: a helper without arguments. First, so that the time before is the call's so far.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        if role <= Role::Zeroing as u8 {
            mark(&traced, regs, cookie, role, now_ns)
        } else {
            go_mark::mark(&traced, regs, cookie, role, now_ns)
        }
    }
}

#[inline(always)]
fn enter(traced: &Traced, regs: &Registers, cookie: u64) -> Option<u32> {
    let size = match function_of(cookie) {
        GO_ARENA_CHUNK => ARENA_CHUNK_BYTES,
        GO_MALLOC_LARGE => regs.rax,
        _ => regs.rbx,
    };
    if !is_large(size) {
        return None;
    }
    let tag = tag(traced, regs, cookie)?;
    // SAFETY: a helper without arguments. Last, so that the time measured is the call's.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let (thread, stopped_ns) = (traced.pid_tgid, stopped_ns(traced, now_ns));
    let mut call = GoCall { tag, size, start_ns: now_ns, thread, stopped_ns, zeroing_ns: 0, weight: 0 };
    if let Some(assist) = take_assist(&call, cookie) {
        call.start_ns = assist.start_ns;
        window::open_call(thread, call.start_ns, Owner::Go);
        name_assist(&call, &assist, now_ns);
    } else {
        window::open_call(thread, call.start_ns, Owner::Go);
    }
    let start_ns = call.start_ns;
    open_go_call(call);
    if function_of(cookie) == OWN {
        close_go_call(tag);
        window::close_call(traced.pid_tgid, start_ns, start_ns);
    }
    None
}

/// Where the goroutine has just marked in return for this allocation, its call began then: nothing lies between but
/// the way from `mallocgc` to the large path. It did so for this one where the stack was as deep and the size the same.
#[inline(always)]
fn take_assist(call: &GoCall, cookie: u64) -> Option<GoAssist> {
    let assist = find_assist(call.tag)?;
    let malloc =
        GoCallTag { tgid_depth: call.tag.tgid_depth - site_id::result_offset_of(cookie), ..call.tag };
    // SAFETY: a checked map value.
    unsafe {
        if (*assist).tag != malloc || (*assist).size != call.size {
            return None;
        }
        (*assist).tag.g = 0;
        Some(*assist)
    }
}

/// What a call's time went to before its own probes: an assist, and in it stops of the world, wherever they were. Where
/// its end was seen, what the thread waited for the CPU behind it is none of it.
#[inline(always)]
fn name_assist(call: &GoCall, assist: &GoAssist, now_ns: u64) {
    let GoCall { thread, start_ns, stopped_ns, .. } = *call;
    let elapsed_ns = now_ns.saturating_sub(start_ns);
    let stop_ns = stopped_ns.saturating_sub(assist.stopped_ns).saturating_add(assist.wait_ns).min(elapsed_ns);
    window::enter_call_cause(thread, start_ns, Cause::GcStop, start_ns);
    window::leave_call_cause(thread, start_ns, Cause::GcStop, start_ns + stop_ns);
    window::enter_call_cause(thread, start_ns, Cause::GcAssist, start_ns + stop_ns);
    let ended_ns = if assist.ended_ns == 0 { now_ns } else { assist.ended_ns };
    window::leave_call_cause(thread, start_ns, Cause::GcAssist, ended_ns);
}

/// The allocator whose function the cookie names.
#[inline(always)]
fn allocator(cookie: u64) -> Allocator {
    if function_of(cookie) == GO_ARENA_CHUNK { Allocator::GoArena } else { Allocator::Go }
}

/// What the call's time goes to from here on. Where it is the clearing of its memory (rax: size, rbx: address),
/// the range is filed before: its page faults come now.
#[inline(always)]
fn mark(traced: &Traced, regs: &Registers, cookie: u64, role: u8, now_ns: u64) -> Option<u32> {
    let call = find_go_call(tag(traced, regs, cookie)?)?;
    // SAFETY: a checked map value; the goroutine is here and nowhere else.
    let call = unsafe { &mut *call };
    window::follow_call(&mut call.thread, call.start_ns, traced.pid_tgid, now_ns);
    if role == Role::GcStart as u8 {
        window::enter_call_cause(call.thread, call.start_ns, Cause::GcStart, now_ns);
        return None;
    }
    // What lies between the two is a few instructions.
    window::leave_call_cause(call.thread, call.start_ns, Cause::GcStart, now_ns);
    window::enter_call_cause(call.thread, call.start_ns, Cause::Zeroing, now_ns);
    call.zeroing_ns = now_ns;
    let size = call.size;
    let weight = if slow::is_on() { slow::weight(size, 0, now_ns, slow::FRAMED) } else { 0 };
    call.weight = u64::from(weight);
    let allocator = Allocator::Go as u64 | if weight == 0 { 0 } else { MARKED };
    file(traced, allocator, (regs.rbx, regs.rbx.wrapping_add(regs.rax)), size, now_ns)
}

#[inline(always)]
fn exit(ctx: &ProbeContext, traced: &Traced, regs: &Registers, cookie: u64) -> Option<u32> {
    // SAFETY: a helper without arguments. First, so that the time measured is the call's.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut call = close_go_call(tag(traced, regs, cookie)?)?;
    window::follow_call(&mut call.thread, call.start_ns, traced.pid_tgid, now_ns);
    let closed = window::close_call(call.thread, call.start_ns, now_ns);
    let class = size_class(call.size);
    let key = SeriesKey::stage(traced.slot, allocator(cookie), Stage::Call, class);
    record(key, now_ns.saturating_sub(call.start_ns), call.size);
    if closed.is_there() {
        closed.rename(Cause::GcStop, stopped_ns(traced, now_ns).saturating_sub(call.stopped_ns));
        closed.count(traced.slot);
    }
    slow::count_depth(traced.slot, allocator(cookie) as u8, ctx.as_ptr());
    let mark = told(ctx, traced, &call, cookie, (now_ns, closed));
    if call.zeroing_ns != 0 {
        // Filed then.
        return None;
    }
    let Some(range) = range_of_result(regs, cookie, call.size) else {
        lost(LossReason::ResultUnreadable);
        debug!(ctx, "pid {}: result of a Go allocation of {} bytes is unreadable", traced.tgid(), call.size);
        return None;
    };
    file(traced, allocator(cookie) as u64 | mark, range, call.size, now_ns)
}

/// Records a call that is to be told, and returns the mark of its object. Where that is filed already, it was decided
/// then whether it is one of these, but for the slow ones.
#[inline(always)]
fn told(
    ctx: &ProbeContext,
    traced: &Traced,
    call: &GoCall,
    cookie: u64,
    (at_ns, closed): (u64, ClosedCall),
) -> u64 {
    if !slow::is_on() {
        return 0;
    }
    tell(ctx.as_ptr(), call, cookie, at_ns, u64::from(traced.slot) << 32 | closed.thread())
}

/// The rest of it. By itself, for what it needs of the stack: before kernel 6.13 a program and the functions on the way
/// down from it have 512 bytes together.
#[inline(never)]
fn tell(ctx: *mut c_void, call: &GoCall, cookie: u64, at_ns: u64, slot_thread: u64) -> u64 {
    let ns = at_ns.saturating_sub(call.start_ns);
    let weight = if call.weight != 0 {
        call.weight as u32
    } else if call.zeroing_ns == 0 || slow::tells_slow_only() {
        slow::weight(call.size, ns, at_ns, slow::FRAMED)
    } else {
        0
    };
    if weight == 0 {
        return 0;
    }
    let (slot, size) = ((slot_thread >> 32) as u32, call.size);
    let goid_offset = site_id::goid_offset_of(cookie);
    let goid_at = if goid_offset == 0 { 0 } else { call.tag.g + goid_offset };
    let filed_ns = if call.zeroing_ns == 0 { at_ns } else { call.zeroing_ns };
    let allocator = allocator(cookie) as u8;
    let told = slow::Call { slot, allocator, size, at_ns, ns, filed_ns, goid_at };
    slow::framed_call(&told, weight, u64::from(slot_thread as u32), ctx)
}

#[inline(always)]
fn file(traced: &Traced, allocator: u64, (start, end): (u64, u64), size: u64, filed_ns: u64) -> Option<u32> {
    let image = traced.image()?;
    let home = image.home();
    let new = Object { home, start, end, size, filed_ns, allocator, ..Object::default() };
    objects::file(&image, new);
    None
}

/// The goroutine, and the bytes between its stack's upper end and the stack pointer at the function's entry.
#[inline(always)]
fn tag(traced: &Traced, regs: &Registers, cookie: u64) -> Option<GoCallTag> {
    regs.tag_at(traced, regs.rsp.wrapping_add(site_id::frame_bytes_of(cookie)))
}

/// The addresses of the pages that the call returned for `size` bytes.
#[inline(always)]
fn range_of_result(regs: &Registers, cookie: u64, size: u64) -> Option<(u64, u64)> {
    let result = result(regs, cookie)?;
    if function_of(cookie) != GO_ALLOC_LARGE {
        // The object or chunk is alone on its pages and begins with the first.
        let end = result.checked_add(size.checked_next_multiple_of(GO_PAGE_BYTES)?)?;
        return (result != 0).then_some((result, end));
    }
    // SAFETY: the helper checks the address itself.
    let [start, pages] =
        unsafe { bpf_probe_read_user(result.wrapping_add(MSPAN_START_ADDR) as *const [u64; 2]) }.ok()?;
    // 2^31 pages of 8 KiB are 16 TiB, more than can be filed; the test also keeps the product whole.
    if start == 0 || pages > 1 << 31 || pages * GO_PAGE_BYTES < size {
        return None;
    }
    Some((start, start.wrapping_add(pages * GO_PAGE_BYTES)))
}

/// What the call returned: an object's address, or before Go 1.24 its `mspan`.
#[inline(always)]
fn result(regs: &Registers, cookie: u64) -> Option<u64> {
    let place = site_id::result_of(cookie);
    if place == ResultPlace::Register as u8 {
        Some(regs.rax)
    } else if place == ResultPlace::Stack as u8 {
        let address = regs.rsp.wrapping_add(site_id::result_offset_of(cookie));
        // SAFETY: the helper checks the address itself.
        unsafe { bpf_probe_read_user(address as *const u64) }.ok()
    } else {
        None
    }
}
