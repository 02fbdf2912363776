//! What a program samples of its own allocations, by the probes of the provider `otel_memory`, into totals: how many
//! samples, and the bytes that they stand for, see [`allocscope_common::provider`].
//!
//! A sample stands for allocations that an allocator's own probes count as well: it is filed nowhere and is no
//! allocation here.

use crate::record::{hit, lost, total};
use crate::thread::Thread;
use allocscope_common::counter::{LossReason, ProbeClass};
use allocscope_common::key::SeriesKey;
use allocscope_common::operand::{
    self, Register, Width, constant_of, displacement_of, kind_of, number_of, register_of, width_of,
};
use allocscope_common::provider::event_of;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_probe_read_user};
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use core::ptr::read_volatile;

/// `otel_memory:alloc(pointer, size, weight)` and `otel_memory:free(pointer)`
#[uprobe]
fn otel_site(ctx: ProbeContext) -> u32 {
    let Some(thread) = Thread::current() else { return 0 };
    // SAFETY: a helper that takes the program's own context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let slot = thread.image.slot;
    hit(slot, ProbeClass::UprobeEmulated);
    let weight = weight(ctx.regs, cookie).unwrap_or_else(|| {
        lost(LossReason::ResultUnreadable);
        0
    });
    total(SeriesKey::provider(slot, event_of(cookie)), 1, weight);
    0
}

/// The bytes that a sample stands for; 0 where its probe tells of none.
#[inline(always)]
fn weight(regs: *mut pt_regs, cookie: u64) -> Option<u64> {
    let kind = kind_of(cookie);
    if kind == operand::NONE {
        return Some(0);
    }
    if kind == operand::CONSTANT {
        return Some(constant_of(cookie));
    }
    let register = register(regs, register_of(cookie));
    if kind == operand::REGISTER {
        return number_of(cookie, register);
    }
    let word = word_at(register.wrapping_add(displacement_of(cookie)), width_of(cookie))?;
    number_of(cookie, word)
}

/// No more is read than is the program's argument: behind it another page may begin.
#[inline(always)]
fn word_at(address: u64, width: u8) -> Option<u64> {
    match width {
        width if width == Width::Byte as u8 => read::<u8>(address),
        width if width == Width::Half as u8 => read::<u16>(address),
        width if width == Width::Word as u8 => read::<u32>(address),
        _ => read::<u64>(address),
    }
}

#[inline(always)]
fn read<T: Into<u64>>(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_user(address as *const T) }.ok().map(Into::into)
}

/// The register with this number ([`operand::Register`]). Every one is read, and kept where it is the one: the verifier
/// refuses a context pointer that was computed, and there is no room for all.
#[inline(always)]
fn register(regs: *mut pt_regs, number: u8) -> u64 {
    let mut chosen = 0;
    macro_rules! choose {
        ($($name:ident $register:ident)*) => {
            $(
                // SAFETY: the verifier allows reading the fields of the program's context.
                let value = unsafe { read_volatile(&raw const (*regs).$name) };
                if number == Register::$register as u8 {
                    chosen = value;
                }
            )*
        };
    }
    choose!(rax Rax rcx Rcx rdx Rdx rbx Rbx rsp Rsp rbp Rbp rsi Rsi rdi Rdi);
    choose!(r8 R8 r9 R9 r10 R10 r11 R11 r12 R12 r13 R13 r14 R14 r15 R15);
    chosen
}
