//! A page fault into the pages that it made real, of the range that it fell into.
//!
//! A fault that the kernel serves with a huge page makes many pages of 4 KiB real at once, of which only those in
//! the range are the range's.

use crate::SPREAD;
use crate::range::Span;

/// Log2 of the pages that are counted.
pub const PAGE_SHIFT: u32 = 12;
/// Log2 of the smallest page that is larger, on x86-64: two faults in a row in the same 2 MiB were served with 4 KiB.
pub const HUGE_SHIFT: u32 = 21;

/// Where the word that names a live range's allocator has log2 of the size of its pages, if they are explicit huge pages;
/// else 0 is there.
const HUGETLB_AT: u32 = 32;
/// `MAP_HUGETLB` and where log2 of the size is in the flags of `mmap` (include/uapi/asm-generic/hugetlb_encode.h).
const MAP_HUGETLB: u64 = 0x40000;
const MAP_HUGE_SHIFT: u32 = 26;
const MAP_HUGE_MASK: u64 = 0x3f;

/// The part of a live range's word for its allocator that tells of explicit huge pages, from the flags of its `mmap`;
/// without a size there it is `default_shift`, log2 of the machine's own.
#[inline(always)]
pub const fn hugetlb_word(flags: u64, default_shift: u32) -> u64 {
    if flags & MAP_HUGETLB == 0 {
        return 0;
    }
    let shift = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
    (if shift == 0 { default_shift as u64 } else { shift }) << HUGETLB_AT
}

/// The size of a live range's explicit huge pages, in bytes; `None` where it has none.
#[inline(always)]
pub const fn hugetlb_bytes(allocator: u64) -> Option<u64> {
    let shift = allocator >> HUGETLB_AT & MAP_HUGE_MASK;
    if shift == 0 { None } else { Some(1 << shift) }
}

/// Places in the array of [`Touch`]es; a power of two. A range that finds its place taken counts its faults itself.
pub const TOUCH_SLOTS: u32 = 16_384;

/// The faults of a live range that is a mapping: in an array, beside those that its entry in the map of ranges has
/// from before it was filed anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// Where the range begins; 0 in a free place.
    pub start: u64,
    /// The address space it is of.
    pub space: u64,
    /// Time of its page faults, in nanoseconds.
    pub ns: u64,
    /// Its page faults.
    pub faults: u32,
    /// Pages of 4 KiB that they made real, beyond one for each.
    pub more_pages: u32,
}

const _: () = assert!(size_of::<Touch>() == 32);

/// The index of a range's place, which may be another one's.
#[inline(always)]
pub const fn index_of(space: u32, start: u64) -> u32 {
    let word = (start >> PAGE_SHIFT).wrapping_add((space as u64) << 40);
    (word.wrapping_mul(SPREAD) >> 40) as u32 & (TOUCH_SLOTS - 1)
}

/// Pages of a range that became real by a fault at `address`, which lies in it, where the page there now has
/// `page_bytes` bytes; without the first. 0 where that is no power of two from 4 KiB to 1 GiB.
#[inline(always)]
pub const fn more_pages(address: u64, span: Span, page_bytes: u64) -> u32 {
    if page_bytes <= 1 << PAGE_SHIFT || page_bytes > 1 << 30 || !page_bytes.is_power_of_two() {
        return 0;
    }
    let (first, last) = (address & !(page_bytes - 1), address | (page_bytes - 1));
    let first = if first > span.start { first } else { span.start };
    let last = if last < span.end.wrapping_sub(1) { last } else { span.end.wrapping_sub(1) };
    ((last >> PAGE_SHIFT).wrapping_sub(first >> PAGE_SHIFT)) as u32
}

/// Pages that a call makes real which reads or writes all of `at` (`MADV_POPULATE`), of a range of which `touched` are real:
/// as many as lie in both, and no more than are left.
#[inline(always)]
pub const fn pages_at_once(range: Span, at: Span, touched: u64) -> u32 {
    let first = if at.start > range.start { at.start } else { range.start };
    let last = if at.end < range.end { at.end } else { range.end };
    if first >= last {
        return 0;
    }
    let (asked, left) = (pages(first, last), pages(range.start, range.end).saturating_sub(touched));
    let more = if asked < left { asked } else { left };
    if more > u32::MAX as u64 { u32::MAX } else { more as u32 }
}

/// Pages that `first..last`, which is not empty, has a byte in.
#[inline(always)]
const fn pages(first: u64, last: u64) -> u64 {
    (last.wrapping_sub(1) >> PAGE_SHIFT).wrapping_sub(first >> PAGE_SHIFT).wrapping_add(1)
}

/// Pages that `faults` and those beyond one for each made real.
#[inline(always)]
pub const fn touched_pages(faults: u32, more_pages: u32) -> u64 {
    faults as u64 + more_pages as u64
}

/// The same in bytes.
#[inline(always)]
pub const fn touched_bytes(faults: u32, more_pages: u32) -> u64 {
    touched_pages(faults, more_pages) << PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_pages_and_nonsense_are_one_page() {
        let span = Span { start: 0, end: 64 * MIB };
        for bytes in [0, 1, 4096, 4097, 3 * MIB, 2 << 30, u64::MAX] {
            assert_eq!(more_pages(5 * MIB, span, bytes), 0, "{bytes}");
        }
    }

    #[test]
    fn a_huge_page_counts_where_it_lies_in_the_range() {
        let whole = Span { start: 0, end: 64 * MIB };
        assert_eq!(more_pages(5 * MIB, whole, 2 * MIB), 511);
        assert_eq!(more_pages(5 * MIB, whole, 1 << 30), 64 * 256 - 1);
        // From the page's middle on, up to its middle, and a few bytes within.
        assert_eq!(more_pages(5 * MIB, Span { start: 5 * MIB, end: 64 * MIB }, 2 * MIB), 255);
        assert_eq!(more_pages(5 * MIB, Span { start: MIB, end: 5 * MIB + 1 }, 2 * MIB), 256);
        assert_eq!(more_pages(5 * MIB, Span { start: 5 * MIB - 8, end: 5 * MIB + 8 }, 2 * MIB), 1);
        assert_eq!(more_pages(5 * MIB, Span { start: 5 * MIB, end: 5 * MIB + 8 }, 2 * MIB), 0);
    }

    #[test]
    fn a_mapping_of_explicit_huge_pages_knows_their_size() {
        const HUGE_1GB: u64 = 30 << MAP_HUGE_SHIFT;
        assert_eq!(hugetlb_bytes(hugetlb_word(0x22, 21)), None);
        // Without the flag the bits of the size mean nothing.
        assert_eq!(hugetlb_bytes(hugetlb_word(0x22 | HUGE_1GB, 21)), None);
        assert_eq!(hugetlb_bytes(hugetlb_word(0x22 | MAP_HUGETLB, 21)), Some(2 * MIB));
        assert_eq!(hugetlb_bytes(hugetlb_word(0x22 | MAP_HUGETLB, 30)), Some(1 << 30));
        assert_eq!(hugetlb_bytes(hugetlb_word(MAP_HUGETLB | HUGE_1GB, 21)), Some(1 << 30));
        assert_eq!(hugetlb_word(u64::MAX, 21) as u32, 0);
    }

    #[test]
    fn what_is_populated_counts_where_it_lies_in_the_range_and_once() {
        let range = Span { start: 8 * MIB, end: 16 * MIB };
        let (below, beyond) = (Span { start: 0, end: 8 * MIB }, Span { start: 16 * MIB, end: 32 * MIB });
        for (at, touched, pages) in [
            (range, 0, 2048),
            (range, 48, 2000),
            (range, 5000, 0),
            (Span { start: 0, end: 9 * MIB }, 0, 256),
            (Span { start: 15 * MIB, end: 32 * MIB }, 0, 256),
            (Span { start: 10 * MIB, end: 10 * MIB + 1 }, 0, 1),
            (Span { start: 10 * MIB - 1, end: 10 * MIB + 1 }, 2047, 1),
            (below, 0, 0),
            (beyond, 0, 0),
            (Span { start: u64::MAX, end: 0 }, 0, 0),
        ] {
            assert_eq!(pages_at_once(range, at, touched), pages, "{at:?} {touched}");
        }
        // An object that is no whole page.
        assert_eq!(pages_at_once(Span { start: 16, end: 5000 }, Span { start: 0, end: 8192 }, 0), 2);
        let all = Span { start: 0, end: u64::MAX };
        assert_eq!(pages_at_once(all, all, 0), u32::MAX);
    }

    #[test]
    fn touched_bytes_are_whole_pages() {
        assert_eq!(touched_bytes(0, 0), 0);
        assert_eq!(touched_bytes(1, 511), 2 * MIB);
        assert_eq!(touched_bytes(u32::MAX, u32::MAX), (u64::from(u32::MAX) * 2) << 12);
    }
}
