//! The atomic operations that the kernel side needs, which `core::sync::atomic` does not offer on
//! this target (it has no compare-and-swap before instruction set version 3).
//!
//! Programs behind uprobes can be preempted, and any map value can be reached from two CPUs, so that
//! a plain addition would lose counts.

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
