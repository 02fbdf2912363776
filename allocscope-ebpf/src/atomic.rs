//! The atomic operations that the kernel side needs, which `core::sync::atomic` does not offer on this target.
//!
//! Programs behind uprobes can be preempted, and any map value can be reached from two CPUs, so that
//! a plain addition would lose counts.

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_or, atomic_xadd};

/// Adds `amount` to a counter.
///
/// # Safety
/// `counter` points to an aligned integer in a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: aligned and valid by the caller's word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Adds 1 to a 32-bit counter.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn increment(counter: *mut u32) {
    // SAFETY: aligned and valid by the caller's word.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, 1) };
}

/// Adds `amount` to a 32-bit counter.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn add_half(counter: *mut u32, amount: u32) {
    // Of adding a constant 0 the compiler makes an atomic or, which this target does not have for 32 bits.
    if amount != 0 {
        // SAFETY: aligned and valid by the caller's word.
        unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, amount) };
    }
}

/// Sets bits.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: aligned and valid by the caller's word.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits) };
}

/// Puts `new` where `old` is. Returns whether `old` was there.
///
/// The instruction `BPF_ATOMIC | BPF_DW | BPF_STX` with `BPF_CMPXCHG` (Documentation/bpf/standardization/instruction-set.rst)
/// of Linux 5.12: r0 holds what is compared with and then what was there. It is written in bytes because the code
/// generator knows it with 32-bit registers only, with which the programs for page faults are a twentieth slower.
///
/// # Safety
/// As for [`add`].
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: aligned and valid by the caller's word; no other register or memory is written.
    unsafe {
        asm!(".quad 0x000000f1000021db", in("r1") word, in("r2") new, inout("r0") old => found);
    }
    found == old
}
