//! File bytes into a checked view of an ELF image: segments, sections, symbols, relocations.

use std::fmt;
use std::ops::Range;

use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, Sym64};
use object::pod;
use object::read::elf::{
    FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _, SectionTable, Sym as _, SymbolTable,
};
use object::{LittleEndian, SectionIndex};

/// Real images have about a dozen; the rest is ignored, which bounds what a hostile file can cost.
const MAX_SEGMENTS: usize = 64;
const MAX_NOTES: usize = 1024;
const MAX_LIBRARIES: usize = 1024;
const MAX_LIBRARY_NAME: usize = 4096;

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;
type Symbol = Sym64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// Why a file is not an image that can be examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Not an ELF file.
    NotElf,
    /// Headers or code reach past the end of the file.
    Truncated,
    /// A 32-bit image.
    ThirtyTwoBit,
    /// Neither x86-64 nor AArch64, or big-endian.
    UnsupportedMachine,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "not an ELF file",
            Self::Truncated => "the ELF file is truncated",
            Self::ThirtyTwoBit => "a 32-bit ELF file",
            Self::UnsupportedMachine => "an ELF file for a machine other than x86-64 and AArch64",
        })
    }
}

impl std::error::Error for ImageError {}

/// The machines whose images are examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64: probe sites are planned.
    X86_64,
    /// AArch64: recognised, but no site is planned.
    Aarch64,
}

/// A 64-bit little-endian ELF image. Every accessor is total: what the file does not hold is `None`.
pub struct Image<'a> {
    data: &'a [u8],
    machine: Machine,
    segments: &'a [Segment],
    sections: SectionTable<'a, Header>,
    section_names: &'a [u8],
    symbols: Symbols<'a>,
    dynamic_symbols: Symbols<'a>,
}

impl<'a> Image<'a> {
    /// Checks the headers of `data`. Damaged section or symbol tables are treated as absent, since
    /// the loader does not need them; damaged segments are an error.
    pub fn parse(data: &'a [u8]) -> Result<Self, ImageError> {
        check_ident(data)?;
        let header = Header::parse(data).map_err(|_| ImageError::Truncated)?;
        let machine = match header.e_machine(LE) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            _ => return Err(ImageError::UnsupportedMachine),
        };
        let segments = header.program_headers(LE, data).map_err(|_| ImageError::Truncated)?;
        if segments.iter().any(|s| is_code(s) && file_range(s).is_none_or(|r| r.end > data.len() as u64)) {
            return Err(ImageError::Truncated);
        }
        let sections = header.sections(LE, data).map_err(|_| ImageError::Truncated)?;
        let section_data = |index| sections.section(index).ok()?.data(LE, data).ok();
        let section_names =
            header.shstrndx(LE, data).ok().and_then(|i| section_data(SectionIndex(i as usize)));
        let symbols = |kind| {
            let table: SymbolTable<'a, Header> = sections.symbols(LE, data, kind).unwrap_or_default();
            Symbols {
                entries: table.symbols(),
                names: section_data(table.string_section()).unwrap_or_default(),
            }
        };
        Ok(Self {
            data,
            machine,
            segments: segments.get(..segments.len().min(MAX_SEGMENTS)).unwrap_or_default(),
            section_names: section_names.unwrap_or_default(),
            symbols: symbols(elf::SHT_SYMTAB),
            dynamic_symbols: symbols(elf::SHT_DYNSYM),
            sections,
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
        self.code_slice(vaddr, 1).map(|(offset, _)| offset)
    }

    /// `len` bytes of code at address `vaddr`, all inside one executable segment.
    pub fn code(&self, vaddr: u64, len: u64) -> Option<&'a [u8]> {
        self.code_slice(vaddr, len).map(|(_, code)| code)
    }

    /// The bytes at `vaddr` up to the end of what the file holds of its segment, code or data.
    pub fn loaded(&self, vaddr: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|s| s.p_type(LE) == elf::PT_LOAD).find_map(|s| {
            let skip = vaddr.checked_sub(s.p_vaddr(LE))?;
            let range = file_range(s)?;
            slice(self.data, range.start.checked_add(skip)?..range.end).filter(|bytes| !bytes.is_empty())
        })
    }

    /// The non-executable loaded segments: address and the bytes the file holds.
    pub fn data_segments(&self) -> impl Iterator<Item = (u64, &'a [u8])> + '_ {
        self.segments
            .iter()
            .filter(|s| s.p_type(LE) == elf::PT_LOAD && s.p_flags(LE) & elf::PF_X == 0)
            .filter_map(|s| Some((s.p_vaddr(LE), slice(self.data, file_range(s)?)?)))
    }

    /// Address and bytes of a section.
    pub fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let section = self.sections.iter().find(|s| is_named(self.section_names, s.sh_name(LE), name))?;
        Some((section.sh_addr(LE), section.data(LE, self.data).ok()?))
    }

    /// The pointer that `vaddr` holds once the image is loaded at its preferred base: the addend of
    /// its relative relocation where it has one, else what the file holds.
    pub fn pointer_at(&self, vaddr: u64) -> Option<u64> {
        self.relative_addend(vaddr).or_else(|| {
            let bytes = self.loaded(vaddr)?.get(..8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        })
    }

    /// Whether the image has a static symbol table.
    pub fn has_symbol_table(&self) -> bool {
        !self.symbols.entries.is_empty()
    }

    /// Whether the image asks for a dynamic loader.
    pub fn is_dynamic(&self) -> bool {
        self.segments.iter().any(|s| s.p_type(LE) == elf::PT_INTERP)
    }

    /// The address range of a function in the static symbol table.
    pub fn function_symbol(&self, name: &str) -> Option<Range<u64>> {
        let symbol = self.symbols.defined().find(|symbol| {
            symbol.st_type() == elf::STT_FUNC
                && symbol.st_size(LE) > 0
                && is_named(self.symbols.names, symbol.st_name(LE), name)
        })?;
        let start = symbol.st_value(LE);
        Some(start..start.checked_add(symbol.st_size(LE))?)
    }

    /// The address range of a function by its name, static or dynamic.
    pub fn function_named(&self, name: &str) -> Option<Range<u64>> {
        self.function_symbol(name).or_else(|| {
            let symbol = self.dynamic_symbols.defined().find(|symbol| {
                symbol.st_type() == elf::STT_FUNC
                    && symbol.st_size(LE) > 0
                    && is_named(self.dynamic_symbols.names, symbol.st_name(LE), name)
            })?;
            let start = symbol.st_value(LE);
            Some(start..start.checked_add(symbol.st_size(LE))?)
        })
    }

    /// The lowest index in `names` of a symbol that the image defines, static or dynamic.
    pub fn first_defined(&self, names: &[&str]) -> Option<usize> {
        let rank = |table: &Symbols<'a>| {
            let rank_of =
                |symbol: &Symbol| names.iter().position(|n| is_named(table.names, symbol.st_name(LE), n));
            table.defined().filter_map(rank_of).min()
        };
        [&self.symbols, &self.dynamic_symbols].into_iter().filter_map(rank).min()
    }

    /// The libraries the image asks for (DT_NEEDED).
    pub fn needed_libraries(&self) -> Vec<String> {
        let Some(strings) = self.dynamic_value(elf::DT_STRTAB).and_then(|v| self.loaded(v)) else {
            return Vec::new();
        };
        self.dynamic_entries()
            .filter(|&(tag, _)| tag == elf::DT_NEEDED)
            .take(MAX_LIBRARIES)
            .filter_map(|(_, offset)| {
                let rest = strings.get(usize::try_from(offset).ok()?..)?;
                let name = rest.get(..rest.len().min(MAX_LIBRARY_NAME))?.split(|&b| b == 0).next()?;
                Some(String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    }

    /// The GNU build-id.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        self.segments.iter().find_map(|segment| {
            let mut notes = segment.notes(LE, self.data).ok()??;
            std::iter::from_fn(|| notes.next().ok()?)
                .take(MAX_NOTES)
                .find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID)
                .map(|note| note.desc())
        })
    }

    fn code_slice(&self, vaddr: u64, len: u64) -> Option<(u64, &'a [u8])> {
        self.segments.iter().filter(|s| is_code(s)).find_map(|s| {
            let skip = vaddr.checked_sub(s.p_vaddr(LE))?;
            let range = file_range(s)?;
            let start = range.start.checked_add(skip)?;
            let end = start.checked_add(len).filter(|&end| end <= range.end)?;
            Some((start, slice(self.data, start..end)?))
        })
    }

    fn dynamic_entries(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.segments
            .iter()
            .filter_map(|s| s.dynamic(LE, self.data).ok()?)
            .flatten()
            .map(|entry| (entry.d_tag.get(LE), entry.d_val.get(LE)))
            .take_while(|&(tag, _)| tag != elf::DT_NULL)
    }

    fn dynamic_value(&self, wanted: i64) -> Option<u64> {
        self.dynamic_entries().find(|&(tag, _)| tag == wanted).map(|(_, value)| value)
    }

    /// The addend of the R_X86_64_RELATIVE relocation of `vaddr`.
    fn relative_addend(&self, vaddr: u64) -> Option<u64> {
        let table = self.loaded(self.dynamic_value(elf::DT_RELA)?)?;
        let size = usize::try_from(self.dynamic_value(elf::DT_RELASZ)?).ok()?.min(table.len());
        let count = size / size_of::<Rela64<LittleEndian>>();
        let (relocations, _) = pod::slice_from_bytes::<Rela64<LittleEndian>>(table, count).ok()?;
        relocations
            .iter()
            .find(|r| r.r_offset(LE) == vaddr && r.r_type(LE, false) == elf::R_X86_64_RELATIVE)
            .map(|r| r.r_addend(LE) as u64)
    }
}

/// A symbol table with its names. Names are compared in place: finding the end of each first would
/// let a string table without ends cost its length once per symbol.
struct Symbols<'a> {
    entries: &'a [Symbol],
    names: &'a [u8],
}

impl<'a> Symbols<'a> {
    fn defined(&self) -> impl Iterator<Item = &'a Symbol> + use<'a> {
        self.entries.iter().filter(|symbol| symbol.st_shndx(LE) != elf::SHN_UNDEF)
    }
}

/// Whether the C string at `offset` is `name`.
fn is_named(strings: &[u8], offset: u32, name: &str) -> bool {
    strings
        .get(offset as usize..)
        .is_some_and(|rest| rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0))
}

fn check_ident(data: &[u8]) -> Result<(), ImageError> {
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

fn is_code(segment: &Segment) -> bool {
    segment.p_type(LE) == elf::PT_LOAD && segment.p_flags(LE) & elf::PF_X != 0
}

fn file_range(segment: &Segment) -> Option<Range<u64>> {
    let start = segment.p_offset(LE);
    Some(start..start.checked_add(segment.p_filesz(LE))?)
}

fn slice(data: &[u8], range: Range<u64>) -> Option<&[u8]> {
    data.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest image with one executable segment: `code` at address 0x400000 + 120.
    pub(crate) fn tiny_image(code: &[u8]) -> Vec<u8> {
        let total = 120 + code.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes()));
        file.extend(1u32.to_le_bytes());
        file.extend([0x40_0078u64, 64, 0].iter().flat_map(|v| v.to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        file.extend([1u32, 5].iter().flat_map(|v| v.to_le_bytes()));
        file.extend([0u64, 0x40_0000, 0x40_0000, total, total, 4096].iter().flat_map(|v| v.to_le_bytes()));
        file.extend(code);
        file
    }

    /// An image without sections: (address, flags, bytes) of each segment.
    pub(crate) fn image_of(segments: &[(u64, u32, &[u8])]) -> Vec<u8> {
        let mut file = tiny_image(&[]);
        file.truncate(64);
        file[56] = segments.len() as u8;
        let mut offset = 64 + 56 * segments.len() as u64;
        for &(address, flags, bytes) in segments {
            let len = bytes.len() as u64;
            file.extend([1u32, flags].iter().flat_map(|v| v.to_le_bytes()));
            file.extend([offset, address, address, len, len, 1].iter().flat_map(|v| v.to_le_bytes()));
            offset += len;
        }
        segments.iter().for_each(|(_, _, bytes)| file.extend(*bytes));
        file
    }

    #[test]
    fn code_is_found_only_inside_the_executable_segment() {
        let file = tiny_image(&[0x90, 0xc3]);
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.machine(), Machine::X86_64);
        assert_eq!(image.file_offset_of(0x40_0078), Some(120));
        assert_eq!(image.code(0x40_0078, 2), Some(&[0x90, 0xc3][..]));
        assert_eq!(image.code(0x40_0078, 3), None);
        assert_eq!(image.file_offset_of(0x40_007a), None);
        assert_eq!(image.file_offset_of(0x3f_ffff), None);
        assert_eq!(image.code(u64::MAX, u64::MAX), None);
        assert!(!image.has_symbol_table() && !image.is_dynamic());
    }

    #[test]
    fn files_that_cannot_be_examined_say_why() {
        let file = tiny_image(&[0xc3]);
        let with = |at: usize, value: u8| {
            let mut copy = file.clone();
            copy[at] = value;
            Image::parse(&copy).err()
        };
        assert_eq!(Image::parse(b"#!/bin/sh").err(), Some(ImageError::NotElf));
        assert_eq!(Image::parse(b"").err(), Some(ImageError::NotElf));
        assert_eq!(with(4, 1), Some(ImageError::ThirtyTwoBit));
        assert_eq!(with(5, 2), Some(ImageError::UnsupportedMachine));
        assert_eq!(with(18, 8), Some(ImageError::UnsupportedMachine));
        for len in 4..file.len() {
            assert_eq!(Image::parse(&file[..len]).err(), Some(ImageError::Truncated), "{len}");
        }
    }

    #[test]
    fn this_test_binary_is_read() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let image = Image::parse(&file).unwrap();
        assert!(image.has_symbol_table() && image.is_dynamic());
        assert!(image.needed_libraries().iter().any(|name| name.starts_with("libc.so")));
        assert!(image.section(".text").is_some());
        assert!(image.executable_ranges().count() > 0);
    }
}
