//! File bytes into checked headers: of the file, its segments and its sections.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod::{self, Pod};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};

use super::error::ImageError;
use crate::allocator::source::Part;

const MAX_SEGMENTS: u64 = 64;
const MAX_SECTIONS: u64 = 65_536;
const MAX_SECTION_NAMES_BYTES: u64 = 4 << 20;

pub(super) type Header = FileHeader64<LittleEndian>;
pub(super) type Segment = ProgramHeader64<LittleEndian>;
pub(super) type Section = SectionHeader64<LittleEndian>;
pub(super) const LE: LittleEndian = LittleEndian;

pub(super) fn check_ident(data: &[u8]) -> Result<(), ImageError> {
    if data.get(..4) != Some(&elf::ELFMAG) {
        return Err(ImageError::NotElf);
    }
    match (data.get(4), data.get(5)) {
        (None, _) | (_, None) => Err(ImageError::Truncated),
        (Some(&elf::ELFCLASS32), _) => Err(ImageError::ThirtyTwoBit),
        (Some(&elf::ELFCLASS64), Some(&elf::ELFDATA2LSB)) => Ok(()),
        (Some(&elf::ELFCLASS64), Some(&elf::ELFDATA2MSB)) => Err(ImageError::UnsupportedMachine),
        _ => Err(ImageError::NotElf),
    }
}

/// The program headers; `None` where the file does not hold them.
pub(super) fn segments(whole: Part<'_>, header: &Header) -> Option<Vec<Segment>> {
    let (offset, count) = (header.e_phoff(LE), u64::from(header.e_phnum(LE)));
    if offset == 0 || count == 0 {
        return Some(Vec::new());
    }
    let is_of_size = usize::from(header.e_phentsize(LE)) == size_of::<Segment>();
    is_of_size.then(|| table(whole, offset, count.min(MAX_SEGMENTS)))?
}

/// The section headers and the index of the names' one; `None` where the file does not hold them.
/// Counts that do not fit their fields are in the first section header.
pub(super) fn sections(whole: Part<'_>, header: &Header) -> Option<(Vec<Section>, usize)> {
    let offset = header.e_shoff(LE);
    if offset == 0 {
        return Some((Vec::new(), 0));
    }
    if usize::from(header.e_shentsize(LE)) != size_of::<Section>() {
        return None;
    }
    let first: Section = *table(whole, offset, 1)?.first()?;
    let count = match header.e_shnum(LE) {
        0 => first.sh_size(LE),
        count => count.into(),
    };
    let names = match header.e_shstrndx(LE) {
        elf::SHN_XINDEX => first.sh_link(LE) as usize,
        index => index.into(),
    };
    Some((table(whole, offset, count.min(MAX_SECTIONS))?, names))
}

pub(super) fn names(whole: Part<'_>, section: &Section) -> Option<Vec<u8>> {
    whole.part(section_range(section)?)?.prefix(MAX_SECTION_NAMES_BYTES)
}

pub(super) fn table<T: Pod>(whole: Part<'_>, offset: u64, count: u64) -> Option<Vec<T>> {
    let bytes = whole.read(offset, count.checked_mul(size_of::<T>() as u64)?)?;
    let (entries, _) = pod::slice_from_bytes(&bytes, count.try_into().ok()?).ok()?;
    Some(entries.to_vec())
}

pub(super) fn is_code(segment: &Segment) -> bool {
    segment.p_type(LE) == elf::PT_LOAD && segment.p_flags(LE) & elf::PF_X != 0
}

pub(super) fn file_range(segment: &Segment) -> Option<Range<u64>> {
    let start = segment.p_offset(LE);
    Some(start..start.checked_add(segment.p_filesz(LE))?)
}

/// Where the file has a section's bytes: `None` for those that only memory has.
pub(super) fn section_range(section: &Section) -> Option<Range<u64>> {
    let (start, size) = section.file_range(LE)?;
    Some(start..start.checked_add(size)?)
}
