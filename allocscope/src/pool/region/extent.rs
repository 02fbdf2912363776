//! A size asked for into where a region begins and ends within its mapping, without overflow.

/// Bytes of a huge page, of both kinds (x86-64, and arm64 with pages of 4 KiB).
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping: one inaccessible granule, the region, one inaccessible granule.
///
/// `granule` is a power of two, `reserved` a multiple of it above 0, and `mapped()` is at most `isize::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    reserved: usize,
    granule: usize,
}

impl Extent {
    /// The smallest extent that holds `bytes`; `None` where that is nothing or too much.
    pub(super) fn new(bytes: usize, granule: usize) -> Option<Extent> {
        let reserved = bytes.checked_next_multiple_of(granule).filter(|reserved| *reserved > 0)?;
        // One granule more than is mapped, so that an aligned part can be cut out.
        let searched = reserved.checked_add(granule.checked_mul(3)?)?;
        (isize::try_from(searched).is_ok()).then_some(Extent { reserved, granule })
    }

    /// Bytes between the guards.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// What the region's sizes are multiples of, its beginning is aligned to, and each guard is long.
    pub fn granule(&self) -> usize {
        self.granule
    }

    /// Bytes with both guards.
    pub fn mapped(&self) -> usize {
        self.reserved + 2 * self.granule
    }

    /// `bytes` rounded up to what can be committed; `None` past the end.
    pub(super) fn round(&self, bytes: usize) -> Option<usize> {
        bytes.checked_next_multiple_of(self.granule).filter(|rounded| *rounded <= self.reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up() {
        let extent = Extent::new(1, 4096).unwrap();
        assert_eq!((extent.reserved(), extent.mapped()), (4096, 3 * 4096));
        assert_eq!(extent.round(0), Some(0));
        assert_eq!(extent.round(1), Some(4096));
        assert_eq!(extent.round(4097), None);
        assert_eq!(Extent::new(4097, HUGE_PAGE_BYTES).unwrap().reserved(), HUGE_PAGE_BYTES);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(Extent::new(0, 4096), None);
        for bytes in [usize::MAX, usize::MAX - 4095, isize::MAX as usize, isize::MAX as usize - 3 * 4096] {
            assert_eq!(Extent::new(bytes, 4096), None, "{bytes}");
        }
        let most = isize::MAX as usize - 3 * 4096 - 4095;
        assert!(isize::try_from(Extent::new(most, 4096).unwrap().mapped()).is_ok());
        assert_eq!(Extent::new(4096, 4096).unwrap().round(usize::MAX), None);
    }
}
