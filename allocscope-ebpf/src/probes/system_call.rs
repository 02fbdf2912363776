//! A system call's arguments and result, wherever the hook has them.
//!
//! The kernel's function for a system call has one argument, the registers that the thread came with
//! (include/linux/syscalls.h, arch/x86/include/asm/syscall_wrapper.h). A tracepoint's record has arguments from byte 16
//! on, or the result there (`events/syscalls/*/format`, the same for every system call on 64-bit kernels).

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::programs::{FEntryContext, FExitContext, TracePointContext};

/// Where a tracepoint's record has the first argument, or the result, in bytes.
const RECORD: usize = 16;
/// Of the kernel's function: its only argument, and behind that its result.
const REGISTERS: usize = 0;
const RETURNED: usize = 1;

/// The beginning of a system call.
pub trait Arguments {
    /// Argument `index`, of the first four.
    fn argument(&self, index: usize) -> Option<u64>;
}

/// The end of a system call.
pub trait Outcome {
    /// What it returns.
    fn result(&self) -> Option<u64>;
}

impl Arguments for TracePointContext {
    #[inline(always)]
    fn argument(&self, index: usize) -> Option<u64> {
        // SAFETY: within the event's record, as its format file tells.
        unsafe { self.read_at::<u64>(RECORD + 8 * index) }.ok()
    }
}

impl Outcome for TracePointContext {
    #[inline(always)]
    fn result(&self) -> Option<u64> {
        // SAFETY: within the event's record, as its format file tells.
        unsafe { self.read_at::<u64>(RECORD) }.ok()
    }
}

impl Arguments for FEntryContext {
    #[inline(always)]
    fn argument(&self, index: usize) -> Option<u64> {
        let registers: *const pt_regs = self.arg(REGISTERS);
        // SAFETY: the kernel knows the argument's type, and the verifier allows reading its fields.
        let value = unsafe {
            match index {
                0 => (&raw const (*registers).rdi).read_volatile(),
                1 => (&raw const (*registers).rsi).read_volatile(),
                2 => (&raw const (*registers).rdx).read_volatile(),
                _ => (&raw const (*registers).r10).read_volatile(),
            }
        };
        Some(value)
    }
}

impl Outcome for FExitContext {
    #[inline(always)]
    fn result(&self) -> Option<u64> {
        Some(self.arg(RETURNED))
    }
}
