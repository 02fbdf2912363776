//! The unwind table of an image into the bounds of its functions, which survive stripping.

use std::collections::BTreeMap;
use std::ops::Range;

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, EhFrame, EhFrameHdr, EhFrameOffset, LittleEndian,
    ParsedEhFrameHdr, Pointer, UnwindSection,
};

use super::elf::Image;

type Bytes = gimli::EndianRcSlice<LittleEndian>;
type Common = CommonInformationEntry<Bytes>;

/// Bytes of an address on the machines that are examined.
const ADDRESS_BYTES: u8 = 8;
/// Of a table without an index: a static C program has some thousand, and two or three kinds of them.
const MAX_ENTRIES: usize = 1 << 20;
const MAX_COMMON: usize = 256;

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
    /// `None` where the image has no unwind table.
    pub fn find(image: &Image<'_>) -> Option<Self> {
        let (address, entries) = image.section(".eh_frame")?;
        let entries = EhFrame::from(Bytes::new(entries.into(), LittleEndian));
        let bases = BaseAddresses::default().set_eh_frame(address);
        let Some((header_address, header)) = image.section(".eh_frame_hdr") else {
            // Static executables that are not position independent have no index.
            let index = index_by_entries(&entries, &bases, address)?;
            return Some(Self { index, first: address, entries, bases });
        };
        let bases = bases.set_eh_frame_hdr(header_address);
        let header = EhFrameHdr::from(Bytes::new(header.into(), LittleEndian));
        let header = header.parse(&bases, ADDRESS_BYTES).ok()?;
        let (first, index) = (direct(header.eh_frame_ptr())?, index_of(&header, &bases)?);
        Some(Self { index, first, entries, bases })
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

/// An index of a table that has none and lies at `address`.
fn index_by_entries(table: &EhFrame<Bytes>, bases: &BaseAddresses, address: u64) -> Option<Vec<(u64, u64)>> {
    let mut common = BTreeMap::new();
    let mut index = Vec::new();
    let mut entries = table.entries(bases);
    while let Some(entry) = entries.next().ok()? {
        let CieOrFde::Fde(entry) = entry else { continue };
        let entry = entry.parse(|table, bases, offset| common_at(&mut common, table, bases, offset)).ok()?;
        index.push((entry.initial_address(), address.checked_add(entry.offset() as u64)?));
        if index.len() > MAX_ENTRIES {
            return None;
        }
    }
    index.sort_unstable();
    Some(index)
}

/// What entries have in common, read once: a hostile one is long, and every entry's.
fn common_at(
    known: &mut BTreeMap<usize, Common>,
    table: &EhFrame<Bytes>,
    bases: &BaseAddresses,
    offset: EhFrameOffset,
) -> gimli::Result<Common> {
    if let Some(common) = known.get(&offset.0) {
        return Ok(common.clone());
    }
    if known.len() == MAX_COMMON {
        return Err(gimli::Error::TypeMismatch);
    }
    let common = table.cie_from_offset(bases, offset)?;
    known.insert(offset.0, common.clone());
    Ok(common)
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
