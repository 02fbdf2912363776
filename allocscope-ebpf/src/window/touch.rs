//! A page fault that was more than its service into what the first touch of its allocation went to.

use super::place;
use crate::atomic::add;
use crate::filter::Image;
use crate::maps::TOUCH_CAUSES;
use crate::{objects, ranges};
use allocscope_common::allocation::AllocationKey;
use allocscope_common::cause::{CAUSES, Cause};
use allocscope_common::phases::Split;
use aya_ebpf::bindings::BPF_NOEXIST;
use core::mem::MaybeUninit;

/// Adds the fault that the thread has just ended to the allocation in the process in `slot` that holds `address`:
/// `swap_in_ns` of reading its page, or else what its window says. Returns 0.
///
/// Like the other functions with global linkage: the verifier checks it once and not at each call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_touch(thread: u64, slot: u64, address: u64, swap_in_ns: u64) -> u64 {
    let Some(filed_ns) = filed_ns(slot as u32, address) else { return 0 };
    let (Some(window), Some(sums)) = (place(thread as u32), sums(&AllocationKey::new(slot as u32, filed_ns)))
    else {
        return 0;
    };
    if swap_in_ns != 0 {
        // SAFETY: a checked map value; the index is below the array's length by its type.
        unsafe { add(&raw mut (*sums)[Cause::SwapIn as usize], swap_in_ns) };
        return 0;
    }
    for cause in 0..CAUSES {
        // SAFETY: checked map values; the indices are below the arrays' lengths.
        unsafe {
            let ns = (*window).fault.ns[cause];
            if ns != 0 && cause != Cause::PageFault as usize {
                add(&raw mut (*sums)[cause], ns);
            }
        }
    }
    0
}

/// When the allocation was filed that holds `address`.
#[inline(always)]
fn filed_ns(slot: u32, address: u64) -> Option<u64> {
    let image = Image::of(slot)?;
    if let Some((_, object)) = objects::find(&image, address) {
        // SAFETY: a checked map value.
        return Some(unsafe { (*object).filed_ns });
    }
    let (_, range) = ranges::find(&image, address)?;
    // SAFETY: a checked map value.
    Some(unsafe { (*range).filed_ns })
}

#[inline(always)]
fn sums(key: &AllocationKey) -> Option<*mut Split> {
    if let Some(sums) = TOUCH_CAUSES.get_ptr_mut(key) {
        return Some(sums);
    }
    let mut none = MaybeUninit::<Split>::uninit();
    for cause in 0..CAUSES {
        // SAFETY: in bounds. Volatile, because a constant would be in a section that the loader does not know.
        unsafe { (&raw mut (*none.as_mut_ptr())[cause]).write_volatile(0) };
    }
    // SAFETY: all of it was written. Another thread may have been faster to insert.
    let _ = TOUCH_CAUSES.insert(key, unsafe { none.assume_init_ref() }, u64::from(BPF_NOEXIST));
    TOUCH_CAUSES.get_ptr_mut(key)
}
