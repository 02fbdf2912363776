//! What first touch takes by 2 MiB pages in parts of what it takes by 4 KiB pages, tried on memory of our own.

use nix::sys::resource::{UsageWho, getrusage};
use std::ptr;
use std::time::Instant;

/// The middle of so many tries counts.
const TRIES: usize = 5;
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;
/// Faults of a touch by a huge page: its own, and what else the thread may have in between.
const MOST_FAULTS: i64 = 8;

/// The ratio; `None` where the machine has no huge pages to give, or none now.
pub fn huge_touch_ratio() -> Option<f64> {
    let area = Area::map()?;
    let huge_ns = middle(|| area.touch_ns(libc::MADV_HUGEPAGE).filter(|&(_, faults)| faults <= MOST_FAULTS))?;
    let small_ns = middle(|| area.touch_ns(libc::MADV_NOHUGEPAGE))?;
    (small_ns > 0.0).then(|| huge_ns / small_ns)
}

fn middle(mut measure: impl FnMut() -> Option<(f64, i64)>) -> Option<f64> {
    let mut times = (0..TRIES).map(|_| Some(measure()?.0)).collect::<Option<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    times.get(TRIES / 2).copied()
}

/// A mapping that holds one huge page, wherever it lies.
struct Area {
    start: *mut u8,
}

impl Area {
    fn map() -> Option<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping; nothing else is affected.
        let start = unsafe { libc::mmap(ptr::null_mut(), 2 * HUGE_PAGE, protection, flags, -1, 0) };
        (start != libc::MAP_FAILED).then(|| Self { start: start.cast() })
    }

    /// Time of the first touch of one huge page's addresses, in nanoseconds, and page faults meanwhile.
    fn touch_ns(&self, advice: libc::c_int) -> Option<(f64, i64)> {
        // SAFETY: the whole mapping, which holds nothing of value.
        let advised = unsafe { libc::madvise(self.start.cast(), 2 * HUGE_PAGE, advice) };
        // SAFETY: as above.
        let discarded = unsafe { libc::madvise(self.start.cast(), 2 * HUGE_PAGE, libc::MADV_DONTNEED) };
        let skipped = self.start.align_offset(HUGE_PAGE);
        if advised != 0 || discarded != 0 || skipped > HUGE_PAGE {
            return None;
        }
        let before = faults()?;
        let begin = Instant::now();
        for page in 0..HUGE_PAGE / PAGE {
            // SAFETY: at most one huge page is skipped of two, so this one lies in the mapping.
            unsafe { self.start.add(skipped + page * PAGE).write_volatile(1) };
        }
        Some((begin.elapsed().as_nanos() as f64, faults()? - before))
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, used by nothing else.
        unsafe { libc::munmap(self.start.cast(), 2 * HUGE_PAGE) };
    }
}

fn faults() -> Option<i64> {
    Some(getrusage(UsageWho::RUSAGE_THREAD).ok()?.minor_page_faults())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where huge pages can be had, they are cheaper; where the kernel says never, there is no ratio.
    #[test]
    fn huge_pages_are_cheaper_to_touch() {
        let setting =
            std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        let ratio = huge_touch_ratio();
        eprintln!("{setting:?} {ratio:?}");
        if setting.contains("[never]") || setting.is_empty() {
            assert_eq!(ratio, None);
        } else {
            assert!(ratio.is_none_or(|ratio| ratio > 0.0 && ratio < 1.0), "{ratio:?}");
        }
    }
}
