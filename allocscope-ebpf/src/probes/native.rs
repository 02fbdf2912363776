//! Large-object paths of native allocators: a function that takes a size and returns memory.
//!
//! The cookie tells which argument holds the size and what is returned. One thread runs a call from its
//! entry to its return, so calls are kept by thread. There are two ways to see the return:
//!
//! - a session (kernel 6.13): one program at both ends; the entry's result decides whether this call gets a
//!   return trampoline at all, so a small one pays for one trap only;
//! - an entry program and a return program, each with its own link (uprobe_multi or perf events).
//!
//! A process that return probes could hurt (see `maps::RETURN_SAFE`) has plain probes instead, behind the calls of
//! the function in its callers: there the stack pointer and the result are as at the return.

use crate::atomic::add;
use crate::filter::{Image, is_large, returns_of};
use crate::inflight::{NativeCall, close_native_call, open_native_call};
use crate::maps::SMALL_HITS;
use crate::probes::free;
use crate::record::{counters, hit, hits, lost, record};
use crate::slow;
use crate::thread::Thread;
use crate::window::{self, Owner};
use crate::{objects, ranges};
use allocscope_common::config::{RETURNS_SAFE, RETURNS_UNKNOWN, RETURNS_UNSAFE};
use allocscope_common::counter::{LiveRange, LossReason, ProbeClass};
use allocscope_common::key::{SeriesKey, Stage, size_class};
use allocscope_common::native_id::{self, NativeResult};
use allocscope_common::object::Object;
use allocscope_common::site_id::StepClass;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{
    bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_get_func_ip, bpf_ktime_get_ns, bpf_probe_read_user,
};
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use core::ptr::read_volatile;

/// What a session's entry returns for a call whose return is not to be seen (kernel/trace/bpf_trace.c,
/// `uprobe_multi_link_handler`).
const NO_RETURN: u32 = 1;

/// How many hits of small calls are counted at once; a power of two.
const SMALL_CALLS: u64 = 64;

/// Bits of a glibc chunk's size (malloc.c): mapped by itself, and all three flags.
const IS_MMAPPED: u64 = 2;
const SIZE_BITS: u64 = 7;
const PAGE_MASK: u64 = 4095;
/// The two words in front of a glibc chunk's memory.
const CHUNK_HEADER_BYTES: u64 = 16;
/// gperftools' kPageShift as Linux distributions build it.
pub const TCMALLOC_PAGE_SHIFT: u64 = 13;

/// Both ends of a call. Not by aya's macro, which returns 0 whatever the function does; a session needs the
/// result. Loaded as a session only (`probe/raw.rs`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub extern "C" fn native_session(ctx: *mut core::ffi::c_void) -> u32 {
    let regs = ctx.cast::<pt_regs>();
    // SAFETY: the context of a uprobe program is its registers, which the verifier allows reading; the
    // helpers take the program's own context.
    let (ip, function, cookie) = unsafe { ((*regs).rip, bpf_get_func_ip(ctx), bpf_get_attach_cookie(ctx)) };
    if ip == function {
        return enter(regs, cookie).map_or(NO_RETURN, |()| 0);
    }
    leave(regs, cookie);
    0
}

/// The entry of a call.
#[uprobe]
fn native_entry(ctx: ProbeContext) -> u32 {
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    enter(ctx.regs, cookie);
    0
}

/// The return of a call.
#[uretprobe]
fn native_return(ctx: RetProbeContext) -> u32 {
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    leave(ctx.regs, cookie);
    0
}

/// The same at a plain probe behind the call.
#[uprobe]
fn native_exit(ctx: ProbeContext) -> u32 {
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    leave(ctx.regs, cookie);
    0
}

/// Opens a call; `None` where its return is of no interest.
#[inline(always)]
fn enter(regs: *mut pt_regs, cookie: u64) -> Option<()> {
    if native_id::releases(native_id::result_of(cookie)) {
        let thread = Thread::current()?;
        hit(thread.image.slot, class_of(cookie));
        return free::enter(&thread, regs, cookie);
    }
    let size = size(regs, cookie);
    if !is_large(size) || size < native_id::min_bytes_of(cookie) {
        if native_id::resizes(cookie) {
            free::shrunk(regs, cookie);
        }
        return small(cookie);
    }
    let thread = Thread::current()?;
    hit(thread.image.slot, class_of(cookie));
    // Where both kinds of probes are, each process has one of them.
    let wanted = if native_id::is_at_callers(cookie) { RETURNS_UNSAFE } else { RETURNS_SAFE };
    let returns = returns_of(thread.image.slot);
    if returns != wanted {
        if wanted == RETURNS_SAFE && returns == RETURNS_UNKNOWN {
            lost(LossReason::CallTooEarly);
        }
        return None;
    }
    // SAFETY: the verifier allows reading the fields of the program's context.
    let (sp, first) = unsafe { ((*regs).rsp, (*regs).rdi) };
    let home = thread.image.home();
    let before = if native_id::resizes(cookie) { free::resized(&thread, first) } else { 0 };
    // SAFETY: a helper without arguments. Last, so that the time measured is the call's.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    let (tag, hands_on) = (thread.pid_tgid, native_id::hands_on(cookie).into());
    open_native_call(NativeCall { tag, start_ns, size, sp, first, home, before, hands_on })?;
    window::open_call(tag, start_ns, Owner::Native);
    Some(())
}

/// Counts the hit of a small call, which is all there is to do: each [`SMALL_CALLS`]th of a CPU counts for so many,
/// so that the others need no look-up of their process.
#[inline(always)]
fn small(cookie: u64) -> Option<()> {
    let calls = SMALL_HITS.get_ptr_mut(0)?;
    // SAFETY: a checked map value of this CPU. A program that preempts this one may cost the count one call.
    let count = unsafe {
        *calls = (*calls).wrapping_add(1);
        *calls
    };
    if count & (SMALL_CALLS - 1) == 0 {
        hits(Thread::current()?.image.slot, class_of(cookie), SMALL_CALLS);
    }
    None
}

#[inline(always)]
fn class_of(cookie: u64) -> ProbeClass {
    let stepped = native_id::step_of(cookie) == StepClass::Stepped as u8;
    if stepped { ProbeClass::UprobeStepped } else { ProbeClass::UprobeEmulated }
}

/// The bytes asked for; saturates, since `calloc` refuses a product that overflows.
#[inline(always)]
fn size(regs: *mut pt_regs, cookie: u64) -> u64 {
    let units = argument(regs, native_id::size_of(cookie));
    let times = native_id::times_of(cookie);
    if times == native_id::NO_ARGUMENT {
        return units.wrapping_shl(native_id::shift_of(cookie));
    }
    let count = argument(regs, times);
    // A product of two numbers below 2^32 cannot overflow, and no real one is larger.
    if units >> 32 != 0 || count >> 32 != 0 { u64::MAX } else { units * count }
}

/// Every register is read and then one is chosen: the verifier refuses a context pointer that was computed.
#[inline(always)]
pub fn argument(regs: *mut pt_regs, index: native_id::Argument) -> u64 {
    // SAFETY: the verifier allows reading the fields of the program's context.
    let [rdi, rsi, rdx, rcx, r8] = unsafe {
        [
            read_volatile(&raw const (*regs).rdi),
            read_volatile(&raw const (*regs).rsi),
            read_volatile(&raw const (*regs).rdx),
            read_volatile(&raw const (*regs).rcx),
            read_volatile(&raw const (*regs).r8),
        ]
    };
    match index {
        0 => rdi,
        1 => rsi,
        2 => rdx,
        3 => rcx,
        _ => r8,
    }
}

/// Closes a call. A failed one is none, and leaves what it was to resize where that was.
#[inline(always)]
fn leave(regs: *mut pt_regs, cookie: u64) -> Option<()> {
    // SAFETY: a helper without arguments. First, so that the time measured is the call's.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the verifier allows reading the fields of the program's context.
    let (sp, result) = unsafe { ((*regs).rsp, (*regs).rax) };
    let call = close_native_call(bpf_get_current_pid_tgid(), sp)?;
    let closed = window::close_call(call.tag, call.start_ns, now_ns);
    let image = Image::of_home(call.home)?;
    hit(image.slot, ProbeClass::UprobeReturn);
    if native_id::releases(native_id::result_of(cookie)) {
        closed.count(image.slot);
        return free::leave(&image, &call, now_ns, cookie, closed);
    }
    let allocator = native_id::allocator_of(cookie);
    let (memory, size, mark) = match memory_of(result, cookie, &call) {
        Some(memory) => {
            if call.before != 0 && result != call.first {
                free::moved(&image, &call, cookie);
            }
            let key = SeriesKey::stage_numbered(image.slot, allocator, Stage::Call, size_class(call.size));
            let ns = now_ns.saturating_sub(call.start_ns);
            record(key, ns, call.size);
            closed.count(image.slot);
            slow::count_depth(image.slot, allocator, regs.cast());
            let owner = (image.slot, allocator);
            let mark = slow::native_call(owner, call.size, (now_ns, ns), closed.is_there(), regs);
            (memory, call.size, mark)
        }
        None if call.before != 0 => (bytes_at(call.first, call.before), call.before, 0),
        None => return None,
    };
    let (allocator, filed_ns) = (u64::from(allocator) | mark, now_ns);
    match memory {
        Memory::Unknown => {
            lost(LossReason::ResultUnreadable);
            if let Some(counters) = counters(image.slot) {
                // SAFETY: a checked map value.
                unsafe { add(&raw mut (*counters).odd_results, 1) };
            }
        }
        Memory::Mapping { start, end } => {
            // What this very call moved with its contents stays what it was.
            let moved = ranges::end_filed_since(&image, start, call.start_ns).unwrap_or_default();
            ranges::file(&image, start, LiveRange { end, size, filed_ns, allocator, ..moved });
        }
        Memory::Object { start, end } => {
            let home = call.home;
            let new = Object { home, start, end, size, filed_ns, allocator, ..Object::default() };
            objects::file(&image, new);
        }
    }
    None
}

/// What a call returned.
enum Memory {
    /// Memory, which cannot be located.
    Unknown,
    /// An object from `start` to `end`.
    Object { start: u64, end: u64 },
    /// A mapping of its own.
    Mapping { start: u64, end: u64 },
}

/// What a call returned; `None` where it failed.
#[inline(always)]
fn memory_of(result: u64, cookie: u64, call: &NativeCall) -> Option<Memory> {
    let kind = native_id::result_of(cookie);
    if kind == NativeResult::Status as u8 {
        if result != 0 {
            return None;
        }
        return Some(read(call.first).map_or(Memory::Unknown, |[start]| bytes_at(start, call.size)));
    }
    if result == 0 {
        return None;
    }
    Some(if has_header(kind, result) {
        read(result.wrapping_sub(CHUNK_HEADER_BYTES))
            .map_or(Memory::Unknown, |header| glibc_chunk(result, header, call.size))
    } else if kind == NativeResult::TcmallocSpan as u8 {
        read(result).map_or(Memory::Unknown, |span| tcmalloc_span(span, call.size))
    } else {
        bytes_at(result, call.size)
    })
}

/// Whether the memory may be a mapping of its own, which only a glibc chunk's header tells. Most chunks of a function
/// that aligns nothing cannot be one, and reading the process' memory is dear.
#[inline(always)]
fn has_header(kind: u8, result: u64) -> bool {
    kind == NativeResult::GlibcChunk as u8
        || kind == NativeResult::GlibcNewChunk as u8 && result & PAGE_MASK == CHUNK_HEADER_BYTES
}

#[inline(always)]
fn bytes_at(start: u64, len: u64) -> Memory {
    // Nothing that a process can own is as large as half the address space, or lies in the other half; and
    // every allocator aligns what is large.
    if start == 0 || start & 7 != 0 || start >> 47 != 0 || len == 0 || len >> 47 != 0 {
        return Memory::Unknown;
    }
    Memory::Object { start, end: start.wrapping_add(len) }
}

/// A chunk in the heap is its bytes; one that is a mapping of its own is the mapping, which starts
/// `prev_size` bytes below the chunk (malloc.c, `munmap_chunk`).
#[inline(always)]
fn glibc_chunk(result: u64, [prev_size, size]: [u64; 2], asked: u64) -> Memory {
    let chunk = size & !SIZE_BITS;
    if chunk < asked {
        return Memory::Unknown;
    }
    if size & IS_MMAPPED == 0 {
        return bytes_at(result, asked);
    }
    let start = result.wrapping_sub(CHUNK_HEADER_BYTES + prev_size);
    Memory::Mapping { start, end: start.wrapping_add(chunk.wrapping_add(prev_size)) }
}

#[inline(always)]
fn tcmalloc_span([page, pages]: [u64; 2], asked: u64) -> Memory {
    let bytes = pages << TCMALLOC_PAGE_SHIFT;
    if bytes < asked { Memory::Unknown } else { bytes_at(page << TCMALLOC_PAGE_SHIFT, bytes) }
}

#[inline(always)]
pub fn read<const WORDS: usize>(address: u64) -> Option<[u64; WORDS]> {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_user(address as *const [u64; WORDS]) }.ok()
}
