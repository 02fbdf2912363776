//! File bytes into a checked view of an ELF image: segments, sections, symbols, relocations.
//!
//! What real images have is far below the limits in here; the rest is ignored, which bounds what a hostile file can
//! cost.

mod dynamic;
mod error;
mod headers;
mod machine;
mod packed;
mod strings;
mod symbols;

pub use self::error::ImageError;
pub use self::machine::Machine;

use std::io::Read;
use std::ops::Range;

use object::elf;
use object::pod;
use object::read::elf::{FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _};

use self::dynamic::dynamic_entries;
use self::headers::{
    Header, LE, Section, Segment, check_ident, file_range, is_code, names, section_range, sections, segments,
};
use self::packed::{PartReader, inflate, inflating, inflating_named, read_all};
use self::strings::is_named;
use self::symbols::SymbolTable;
use super::source::{ByteSource, Part};

const MAX_NOTE_BYTES: u64 = 64 * 1024;
const MAX_NOTES: usize = 1024;
/// A page that an executable is mapped by.
const PAGE_MASK: u64 = 4095;
/// No function that is looked at is longer, in bytes.
const MAX_CODE_BYTES: u64 = 256 * 1024;

/// A 64-bit little-endian ELF image. Every accessor is total: what the file does not hold is `None`.
/// Only headers are kept; the rest is read when it is asked for.
pub struct Image<'a> {
    source: Box<dyn ByteSource + 'a>,
    machine: Machine,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    section_names: Vec<u8>,
    dynamic: Vec<(i64, u64)>,
    symbols: SymbolTable,
    dynamic_symbols: SymbolTable,
}

impl<'a> Image<'a> {
    /// Checks the headers of `source`. Damaged symbol tables are treated as absent, since the loader
    /// does not need them; damaged segments or section headers are an error.
    pub fn parse(source: impl ByteSource + 'a) -> Result<Self, ImageError> {
        let source: Box<dyn ByteSource + 'a> = Box::new(source);
        let whole = Part::whole(&*source);
        check_ident(&whole.prefix(size_of::<elf::Ident>() as u64).unwrap_or_default())?;
        let header = whole.array::<{ size_of::<Header>() }>(0).ok_or(ImageError::Truncated)?;
        let header = pod::from_bytes::<Header>(&header).map_err(|()| ImageError::Truncated)?.0;
        let machine = match header.e_machine(LE) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            _ => return Err(ImageError::UnsupportedMachine),
        };
        let segments = segments(whole, header).ok_or(ImageError::Truncated)?;
        if segments.iter().any(|s| is_code(s) && file_range(s).is_none_or(|r| r.end > whole.len())) {
            return Err(ImageError::Truncated);
        }
        let (sections, names_index) = sections(whole, header).ok_or(ImageError::Truncated)?;
        Ok(Self {
            machine,
            dynamic: dynamic_entries(whole, &segments),
            section_names: sections.get(names_index).and_then(|s| names(whole, s)).unwrap_or_default(),
            symbols: SymbolTable::find(&sections, elf::SHT_SYMTAB),
            dynamic_symbols: SymbolTable::find(&sections, elf::SHT_DYNSYM),
            segments,
            sections,
            source,
        })
    }

    /// The machine the code is for.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// The address ranges of the executable segments, as far as the file holds them.
    pub fn executable_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.segments.iter().filter(|s| is_code(s)).filter_map(|s| {
            let start = s.p_vaddr(LE);
            Some(start..start.checked_add(s.p_filesz(LE))?)
        })
    }

    /// The offset in the file of code address `vaddr`: `None` outside the executable segments.
    pub fn file_offset_of(&self, vaddr: u64) -> Option<u64> {
        self.code_range(vaddr, 1).map(|range| range.start)
    }

    /// The offset in the file of a 16-bit counter at `vaddr`, which a loaded program can write: `None` elsewhere.
    pub fn counter_offset_of(&self, vaddr: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|s| s.p_type(LE) == elf::PT_LOAD && s.p_flags(LE) & elf::PF_W != 0)
            .find_map(|s| {
                let skip = vaddr.checked_sub(s.p_vaddr(LE))?;
                let range = file_range(s)?;
                let start = range.start.checked_add(skip)?;
                let end = start.checked_add(size_of::<u16>() as u64)?;
                (start.is_multiple_of(2) && end <= range.end.min(self.file().len())).then_some(start)
            })
    }

    /// `len` bytes of code at address `vaddr`, all inside one executable segment, 256 KiB at most.
    pub fn code(&self, vaddr: u64, len: u64) -> Option<Vec<u8>> {
        let range = self.code_range(vaddr, len).filter(|_| len <= MAX_CODE_BYTES)?;
        self.file().part(range)?.read(0, len)
    }

    /// The bytes at `vaddr` up to the end of what the file holds of its segment, code or data.
    pub fn loaded(&self, vaddr: u64) -> Option<Part<'_>> {
        self.segments.iter().filter(|s| s.p_type(LE) == elf::PT_LOAD).find_map(|s| {
            let skip = vaddr.checked_sub(s.p_vaddr(LE))?;
            let range = file_range(s)?;
            self.file().part(range.start.checked_add(skip)?..range.end).filter(|part| !part.is_empty())
        })
    }

    /// The non-executable loaded segments: address and the bytes the file holds.
    pub fn data_segments(&self) -> impl Iterator<Item = (u64, Part<'_>)> {
        self.segments
            .iter()
            .filter(|s| s.p_type(LE) == elf::PT_LOAD && s.p_flags(LE) & elf::PF_X == 0)
            .filter_map(|s| Some((s.p_vaddr(LE), self.file().part(file_range(s)?)?)))
    }

    /// Whether the image has sections that can be told apart by their names.
    pub fn has_sections(&self) -> bool {
        !self.section_names.is_empty()
    }

    /// Address and bytes of a section of at most 32 MiB.
    pub fn section(&self, name: &str) -> Option<(u64, Vec<u8>)> {
        let (address, part) = self.section_part(name)?;
        Some((address, part.read(0, part.len())?))
    }

    /// Address and place of a section of any size.
    pub fn section_part(&self, name: &str) -> Option<(u64, Part<'_>)> {
        let section = self.sections.iter().find(|s| is_named(&self.section_names, s.sh_name(LE), name))?;
        Some((section.sh_addr(LE), self.file().part(section_range(section)?)?))
    }

    /// The address of what lies at `offset` in the file, code only. The page that a segment begins in is mapped
    /// from its beginning, so it counts as well.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments.iter().filter(|s| is_code(s)).find_map(|s| {
            let range = file_range(s)?;
            let holds = range.start & !PAGE_MASK <= offset && offset < range.end;
            holds.then(|| s.p_vaddr(LE).wrapping_add(offset).wrapping_sub(range.start))
        })
    }

    /// The bytes of a section of at most `max` bytes, unpacked where they are compressed by zlib.
    pub fn unpacked(&self, name: &str, max: u64) -> Option<Vec<u8>> {
        let section = self.sections.iter().find(|s| is_named(&self.section_names, s.sh_name(LE), name))?;
        let part = self.file().part(section_range(section)?)?;
        if section.sh_flags(LE) & u64::from(elf::SHF_COMPRESSED) != 0 {
            return inflate(part, max);
        }
        read_all(part, max)
    }

    /// A section of debug information by its name without the dot, unpacked while it is read; Go before 1.19 and old
    /// linkers have it as `.z...` where it is compressed.
    pub fn unpacked_stream(&self, name: &str) -> Option<Box<dyn Read + '_>> {
        if let Some((_, part)) = self.section_part(&format!(".z{name}")) {
            return inflating_named(part);
        }
        let name = format!(".{name}");
        let section = self.sections.iter().find(|s| is_named(&self.section_names, s.sh_name(LE), &name))?;
        let part = self.file().part(section_range(section)?)?;
        if section.sh_flags(LE) & u64::from(elf::SHF_COMPRESSED) != 0 {
            return inflating(part);
        }
        Some(Box::new(PartReader::new(part)))
    }

    /// The GNU build-id.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        self.segments.iter().filter(|s| s.p_type(LE) == elf::PT_NOTE).find_map(|segment| {
            let bytes = self.file().part(file_range(segment)?)?.prefix(MAX_NOTE_BYTES)?;
            let mut notes = NoteIterator::<Header>::new(LE, segment.p_align(LE), &bytes).ok()?;
            std::iter::from_fn(|| notes.next().ok()?)
                .take(MAX_NOTES)
                .find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID)
                .map(|note| note.desc().to_vec())
        })
    }

    fn file(&self) -> Part<'_> {
        Part::whole(&*self.source)
    }

    /// Where in the file `len` bytes of code at `vaddr` lie.
    fn code_range(&self, vaddr: u64, len: u64) -> Option<Range<u64>> {
        self.segments.iter().filter(|s| is_code(s)).find_map(|s| {
            let skip = vaddr.checked_sub(s.p_vaddr(LE))?;
            let range = file_range(s)?;
            let start = range.start.checked_add(skip)?;
            let end = start.checked_add(len).filter(|&end| end <= range.end)?;
            Some(start..end)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
