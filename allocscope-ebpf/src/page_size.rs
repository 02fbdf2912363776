//! The end of a page fault into the size of the page that it was served with.
//!
//! The kernel looks up the size of the page at a sample's address where the perf event asks for it
//! (`PERF_SAMPLE_DATA_PAGE_SIZE`), since 6.3 before the program runs. The program's context tells neither that nor
//! a way to it, so it is read from the kernel's own: `struct bpf_perf_event_data_kern { regs, data, event }`.

use crate::filter::Image;
use crate::maps::{LAST_BLOCK, PAGE_SIZE_AT};
use allocscope_common::touch::HUGE_SHIFT;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::programs::PerfEventContext;

/// Of `data` in the kernel's context.
const DATA_AT: usize = 8;

/// The size of the page at `address`, in bytes; 0 where it is the smallest or the kernel does not tell. Of faults of a
/// CPU in a row in the same 2 MiB only the first is looked at, while nothing is mapped or unmapped: had it been served
/// with a huge page, no other would have come.
#[inline(always)]
pub fn page_bytes(ctx: &PerfEventContext, image: &Image, address: u64) -> u64 {
    let at = PAGE_SIZE_AT.load();
    if at == 0 {
        return 0;
    }
    let Some(last) = LAST_BLOCK.get_ptr_mut(0) else { return 0 };
    // SAFETY: checked map values, one of this CPU.
    unsafe {
        let (generation, filed_ns) = ((*image.filed).range_generation, (*image.filed).object_filed_ns);
        let now = u64::from(generation) << 32 ^ u64::from(image.space()) ^ filed_ns.rotate_left(16);
        let block = now.rotate_left(HUGE_SHIFT) ^ (address >> HUGE_SHIFT);
        if core::ptr::replace(last, block) == block {
            return 0;
        }
    }
    read(ctx, at).filter(|bytes| *bytes > 4096).unwrap_or(0)
}

#[inline(always)]
fn read(ctx: &PerfEventContext, at: u64) -> Option<u64> {
    // SAFETY: the helper checks the addresses itself.
    unsafe {
        let data = bpf_probe_read_kernel(ctx.ctx.byte_add(DATA_AT).cast::<u64>()).ok()?;
        bpf_probe_read_kernel((data + at) as *const u64).ok()
    }
}
