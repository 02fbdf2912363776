//! The end of a page fault into how many pages it made real.
//!
//! The kernel looks up the size of the page at a sample's address where the perf event asks for it
//! (`PERF_SAMPLE_DATA_PAGE_SIZE`), since 6.3 before the program runs. The program's context tells neither that nor
//! a way to it, so it is read from the kernel's own: `struct bpf_perf_event_data_kern { regs, data, event }`.

use crate::atomic::add_half;
use crate::maps::{LAST_BLOCK, PAGE_SIZE_AT};
use allocscope_common::range::Span;
use allocscope_common::touch::{HUGE_SHIFT, more_pages};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::programs::PerfEventContext;

/// Of `data` in the kernel's context.
const DATA_AT: usize = 8;

/// What a fault is told to: the range with these addresses, filed then, and its count of pages.
pub struct Touched {
    /// Its addresses.
    pub span: Span,
    /// When it was filed: names it.
    pub filed_ns: u64,
    /// Its pages beyond one for each fault; a field of a checked map value.
    pub more_pages: *mut u32,
}

/// Counts the pages that a fault made real beyond the first. Of faults of a CPU in a row in the same 2 MiB of a
/// range only the first is looked at: had it been served with a huge page, no other would have come.
#[inline(always)]
pub fn count_pages(ctx: &PerfEventContext, address: u64, touched: Touched) {
    let Some(last) = LAST_BLOCK.get_ptr_mut(0) else { return };
    let block = touched.filed_ns.rotate_left(HUGE_SHIFT) ^ (address >> HUGE_SHIFT);
    // SAFETY: a checked map value of this CPU.
    unsafe {
        if *last == block {
            return;
        }
        *last = block;
    }
    let more = more_pages(address, touched.span, page_bytes(ctx).unwrap_or(0));
    if more != 0 {
        // SAFETY: by the field's word.
        unsafe { add_half(touched.more_pages, more) };
    }
}

/// The size of the page that the fault was served with; `None` where the kernel does not tell.
#[inline(always)]
fn page_bytes(ctx: &PerfEventContext) -> Option<u64> {
    let at = PAGE_SIZE_AT.load();
    if at == 0 {
        return None;
    }
    // SAFETY: the helper checks the addresses itself.
    unsafe {
        let data = bpf_probe_read_kernel(ctx.ctx.byte_add(DATA_AT).cast::<u64>()).ok()?;
        bpf_probe_read_kernel((data + at) as *const u64).ok()
    }
}
