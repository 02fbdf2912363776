//! The kernel side of allocscope: one module for each thing probed, everything shared in four.
//!
//! Programs never loop without a bound, never insert and delete a map entry per small event, and
//! count in maps; only process events go through the ring.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "atomic.rs: this target has no other way to an atomic addition")]

mod atomic;
mod filter;
mod inflight;
mod maps;
mod objects;
mod page_size;
mod probes;
mod ranges;
mod record;
mod slots;
mod slow;
mod thread;
mod touches;
mod window;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no path leads here.
    loop {}
}

/// The kernel lets programs that are GPL-compatible call the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
