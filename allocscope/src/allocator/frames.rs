//! The unwind table of an image into the bounds of its functions, which survive stripping.

use std::ops::Range;

use gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EhFrameOffset, LittleEndian, ParsedEhFrameHdr, Pointer, UnwindSection,
};

use super::elf::Image;

type Bytes = gimli::EndianRcSlice<LittleEndian>;

/// Bytes of an address on the machines that are examined.
const ADDRESS_BYTES: u8 = 8;

/// The functions that an image's `.eh_frame` tells of.
pub struct Frames {
    /// Of each function the first address and the address of its entry, ascending.
    index: Vec<(u64, u64)>,
    /// The address of the first entry.
    first: u64,
    entries: EhFrame<Bytes>,
    bases: BaseAddresses,
}

impl Frames {
    /// `None` where the image has no unwind table with an index.
    pub fn find(image: &Image<'_>) -> Option<Self> {
        let (header_address, header) = image.section(".eh_frame_hdr")?;
        let (entries_address, entries) = image.section(".eh_frame")?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header_address).set_eh_frame(entries_address);
        let [header, entries] = [header, entries].map(|bytes| Bytes::new(bytes.into(), LittleEndian));
        let header = EhFrameHdr::from(header).parse(&bases, ADDRESS_BYTES).ok()?;
        let (first, index) = (direct(header.eh_frame_ptr())?, index_of(&header, &bases)?);
        Some(Self { index, first, entries: EhFrame::from(entries), bases })
    }

    /// The bounds of the function that holds `address`. A cold part that the compiler has split off is a
    /// function of its own here.
    pub fn function_at(&self, address: u64) -> Option<Range<u64>> {
        let behind = self.index.partition_point(|&(start, _)| start <= address);
        let &(_, place) = self.index.get(behind.checked_sub(1)?)?;
        let offset = EhFrameOffset(usize::try_from(place.checked_sub(self.first)?).ok()?);
        let entry = self.entries.fde_from_offset(&self.bases, offset, EhFrame::cie_from_offset).ok()?;
        let start = entry.initial_address();
        let range = start..start.checked_add(entry.len())?;
        range.contains(&address).then_some(range)
    }

    /// The bounds of the function that starts at `address`.
    pub fn function_from(&self, address: u64) -> Option<Range<u64>> {
        self.function_at(address).filter(|range| range.start == address)
    }
}

/// The index, read once: gimli's own look-up reckons with the file's numbers without a look. No longer than the
/// section, whatever count it claims.
fn index_of(header: &ParsedEhFrameHdr<Bytes>, bases: &BaseAddresses) -> Option<Vec<(u64, u64)>> {
    let table = header.table()?;
    let mut rows = table.iter(bases);
    let mut index = Vec::new();
    while let Ok(Some((start, place))) = rows.next() {
        index.push((direct(start)?, direct(place)?));
    }
    Some(index)
}

fn direct(pointer: Pointer) -> Option<u64> {
    match pointer {
        Pointer::Direct(address) => Some(address),
        Pointer::Indirect(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_of_this_test_are_found() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let image = Image::parse(&file).unwrap();
        let frames = Frames::find(&image).unwrap();
        let main = image.function_symbol("main").unwrap();
        assert_eq!(frames.function_from(main.start).map(|range| range.start), Some(main.start));
        assert_eq!(frames.function_from(main.start + 1), None);
        assert_eq!(frames.function_at(main.start + 1).map(|range| range.start), Some(main.start));
        assert_eq!(frames.function_at(u64::MAX), None);
    }
}
