//! File bytes into a checked view of an ELF image: segments, sections, symbols, relocations.

use std::fmt;
use std::io::Read as _;
use std::ops::{ControlFlow, Range};

use object::LittleEndian;
use object::elf::{self, Dyn64, FileHeader64, ProgramHeader64, Rela64, SectionHeader64, Sym64};
use object::pod::{self, Pod};
use object::read::elf::{
    FileHeader as _, NoteIterator, ProgramHeader as _, Rela as _, SectionHeader as _, Sym as _,
};

use super::source::{ByteSource, Part};

/// What real images have is far below; the rest is ignored, which bounds what a hostile file can cost.
const MAX_SEGMENTS: u64 = 64;
const MAX_SECTIONS: u64 = 65_536;
const MAX_SECTION_NAMES_BYTES: u64 = 4 << 20;
const MAX_DYNAMIC_ENTRIES: u64 = 4096;
const MAX_RELOCATION_BYTES: u64 = 128 << 20;
const MAX_SYMBOLS: u64 = 1 << 22;
const MAX_SYMBOL_NAMES_BYTES: u64 = 256 << 20;
const MAX_SYMBOL_PLACES: usize = 65_536;
const MAX_NOTE_BYTES: u64 = 64 * 1024;
const MAX_NOTES: usize = 1024;
const MAX_LIBRARIES: usize = 1024;
const MAX_LIBRARY_NAME: u64 = 4096;
/// A page that an executable is mapped by.
const PAGE_MASK: u64 = 4095;
/// No function that is looked at is longer, in bytes.
const MAX_CODE_BYTES: u64 = 256 * 1024;

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;
type Symbol = Sym64<LittleEndian>;
type Relocation = Rela64<LittleEndian>;
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
    /// x86-64.
    X86_64,
    /// AArch64: sites are planned, and none can be attached.
    Aarch64,
}

impl Machine {
    /// Whether binaries for it are probed where this program runs. The kernel side reads the registers of x86-64.
    pub const fn is_probed_here(self) -> bool {
        matches!(self, Self::X86_64) && cfg!(target_arch = "x86_64")
    }

    /// The relocation of a pointer into the image itself.
    const fn relative_relocation(self) -> u32 {
        match self {
            Self::X86_64 => elf::R_X86_64_RELATIVE,
            Self::Aarch64 => elf::R_AARCH64_RELATIVE,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "AArch64",
        })
    }
}

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

    /// The pointer that `vaddr` holds once the image is loaded at its preferred base: the addend of
    /// its relative relocation where it has one, else what the file holds.
    pub fn pointer_at(&self, vaddr: u64) -> Option<u64> {
        self.relative_addend(vaddr).or_else(|| Some(u64::from_le_bytes(self.loaded(vaddr)?.array(0)?)))
    }

    /// Whether the image has a static symbol table.
    pub fn has_symbol_table(&self) -> bool {
        self.symbols.entries(self.file()).is_some_and(|entries| !entries.is_empty())
    }

    /// Whether others are loaded with the image: it asks for a loader, as programs do, or for libraries.
    pub fn is_dynamic(&self) -> bool {
        let asks_for_loader = self.segments.iter().any(|s| s.p_type(LE) == elf::PT_INTERP);
        asks_for_loader || self.dynamic.iter().any(|&(tag, _)| tag == elf::DT_NEEDED)
    }

    /// The address range of a function in the static symbol table.
    pub fn function_symbol(&self, name: &str) -> Option<Range<u64>> {
        self.functions_in(&[&self.symbols], &[name]).pop()?
    }

    /// The address ranges of functions of these exact names, static or dynamic: one pass over each
    /// table. Where a name stands more than once, the first counts; indirect functions do not.
    pub fn functions(&self, names: &[&str]) -> Vec<Option<Range<u64>>> {
        self.functions_in(&[&self.symbols, &self.dynamic_symbols], names)
    }

    /// The address range of a function by its name, static or dynamic.
    pub fn function_named(&self, name: &str) -> Option<Range<u64>> {
        self.functions(&[name]).pop()?
    }

    /// The lowest index in `names` of a symbol that the image defines, static or dynamic.
    pub fn first_defined(&self, names: &[&str]) -> Option<usize> {
        let mut first = None;
        for table in [&self.symbols, &self.dynamic_symbols] {
            table.for_each_defined(self.file(), names, |index, _| {
                first = Some(first.map_or(index, |first: usize| first.min(index)));
            });
        }
        first
    }

    /// Shows each function of the static or dynamic symbol table, with the offset of its name, until `visit` has
    /// had enough.
    pub fn each_function(&self, dynamic: bool, mut visit: impl FnMut(Range<u64>, u64) -> bool) {
        let Some(entries) = self.symbol_table(dynamic).entries(self.file()) else { return };
        entries.first(MAX_SYMBOLS * size_of::<Symbol>() as u64).records(|symbol: &Symbol| {
            let defined = symbol.st_shndx(LE) != elf::SHN_UNDEF;
            let goes_on = match function_range(symbol).filter(|_| defined) {
                Some(range) => visit(range, symbol.st_name(LE).into()),
                None => true,
            };
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }

    /// The name at an offset that [`Self::each_function`] told.
    pub fn symbol_name(&self, dynamic: bool, offset: u64) -> Option<String> {
        let strings = self.file().part(self.symbol_table(dynamic).names.clone())?;
        c_string(strings, offset)
    }

    fn symbol_table(&self, dynamic: bool) -> &SymbolTable {
        if dynamic { &self.dynamic_symbols } else { &self.symbols }
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

    /// The libraries the image asks for (DT_NEEDED).
    pub fn needed_libraries(&self) -> Vec<String> {
        let Some(strings) = self.dynamic_value(elf::DT_STRTAB).and_then(|v| self.loaded(v)) else {
            return Vec::new();
        };
        let needed = self.dynamic.iter().filter(|&&(tag, _)| tag == elf::DT_NEEDED);
        needed.take(MAX_LIBRARIES).filter_map(|&(_, offset)| c_string(strings, offset)).collect()
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

    fn dynamic_value(&self, wanted: i64) -> Option<u64> {
        self.dynamic.iter().find(|&&(tag, _)| tag == wanted).map(|&(_, value)| value)
    }

    /// The addend of the relative relocation of `vaddr`.
    fn relative_addend(&self, vaddr: u64) -> Option<u64> {
        let table = self.loaded(self.dynamic_value(elf::DT_RELA)?)?;
        let size = self.dynamic_value(elf::DT_RELASZ)?;
        let relative = self.machine.relative_relocation();
        table.first(size.min(MAX_RELOCATION_BYTES)).records(|relocation: &Relocation| {
            let is_of = relocation.r_offset(LE) == vaddr && relocation.r_type(LE, false) == relative;
            if is_of { ControlFlow::Break(relocation.r_addend(LE) as u64) } else { ControlFlow::Continue(()) }
        })
    }

    fn functions_in(&self, tables: &[&SymbolTable], names: &[&str]) -> Vec<Option<Range<u64>>> {
        let mut found = vec![None; names.len()];
        for table in tables {
            table.for_each_defined(self.file(), names, |index, symbol| {
                if let Some(place) = found.get_mut(index).filter(|place| place.is_none()) {
                    *place = function_range(symbol);
                }
            });
        }
        found
    }
}

/// Where the file has a symbol table and its names.
#[derive(Default)]
struct SymbolTable {
    entries: Range<u64>,
    names: Range<u64>,
}

impl SymbolTable {
    /// The first table of this type; an empty one where there is none or it is damaged.
    fn find(sections: &[Section], kind: u32) -> Self {
        let found = sections.iter().find(|s| s.sh_type(LE) == kind).and_then(|table| {
            let names = sections.get(table.link(LE).0)?;
            Some(Self { entries: section_range(table)?, names: section_range(names)? })
        });
        found.unwrap_or_default()
    }

    fn entries<'s>(&self, file: Part<'s>) -> Option<Part<'s>> {
        file.part(self.entries.clone())
    }

    /// Shows each defined symbol that has one of the names, with the index of the name. The names are
    /// looked for in the string table first: then the symbols only have numbers to be compared.
    fn for_each_defined(&self, file: Part<'_>, names: &[&str], mut visit: impl FnMut(usize, &Symbol)) {
        let (Some(entries), Some(strings)) = (self.entries(file), file.part(self.names.clone())) else {
            return;
        };
        let places = places_of(strings.first(MAX_SYMBOL_NAMES_BYTES), names);
        if places.is_empty() {
            return;
        }
        entries.first(MAX_SYMBOLS * size_of::<Symbol>() as u64).records(|symbol: &Symbol| {
            if symbol.st_shndx(LE) != elf::SHN_UNDEF
                && let Ok(found) = places.binary_search_by_key(&u64::from(symbol.st_name(LE)), |p| p.0)
                && let Some(&(_, index)) = places.get(found)
            {
                visit(index, symbol);
            }
            ControlFlow::<()>::Continue(())
        });
    }
}

/// Offsets in a string table where one of the names lies, ascending. A name is found as the end of a
/// longer one as well: linkers let such names share their bytes.
fn places_of(strings: Part<'_>, names: &[&str]) -> Vec<(u64, usize)> {
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let mut places = Vec::new();
    strings.search_strings(&names, |at, index| {
        places.push((at, index));
        if places.len() < MAX_SYMBOL_PLACES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    places.sort_unstable();
    places
}

fn function_range(symbol: &Symbol) -> Option<Range<u64>> {
    let start = symbol.st_value(LE);
    let is_function = symbol.st_type() == elf::STT_FUNC && symbol.st_size(LE) > 0;
    is_function.then_some(start..start.checked_add(symbol.st_size(LE))?)
}

/// Whether the C string at `offset` is `name`.
fn is_named(strings: &[u8], offset: u32, name: &str) -> bool {
    strings
        .get(offset as usize..)
        .is_some_and(|rest| rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0))
}

fn c_string(strings: Part<'_>, offset: u64) -> Option<String> {
    let bytes = strings.tail(offset)?.prefix(MAX_LIBRARY_NAME)?;
    let name = bytes.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// All of a part, piece by piece; `None` where that is more than `max` bytes.
fn read_all(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
    if part.len() > max {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(part.len()).ok()?];
    part.fill(0, &mut bytes).then_some(bytes)
}

/// A section with a header of its own (`Elf64_Chdr`: type, reserved, size, alignment) in front of zlib's stream.
fn inflate(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
    let kind = u32::from_le_bytes(part.array(0)?);
    let size = u64::from_le_bytes(part.array(8)?);
    if kind != elf::ELFCOMPRESS_ZLIB || size > max {
        return None;
    }
    let packed = read_all(part.tail(24)?, max)?;
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(&packed[..]).take(max).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
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

/// The program headers; `None` where the file does not hold them.
fn segments(whole: Part<'_>, header: &Header) -> Option<Vec<Segment>> {
    let (offset, count) = (header.e_phoff(LE), u64::from(header.e_phnum(LE)));
    if offset == 0 || count == 0 {
        return Some(Vec::new());
    }
    let is_of_size = usize::from(header.e_phentsize(LE)) == size_of::<Segment>();
    is_of_size.then(|| table(whole, offset, count.min(MAX_SEGMENTS)))?
}

/// The section headers and the index of the names' one; `None` where the file does not hold them.
/// Counts that do not fit their fields are in the first section header.
fn sections(whole: Part<'_>, header: &Header) -> Option<(Vec<Section>, usize)> {
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

fn names(whole: Part<'_>, section: &Section) -> Option<Vec<u8>> {
    whole.part(section_range(section)?)?.prefix(MAX_SECTION_NAMES_BYTES)
}

fn table<T: Pod>(whole: Part<'_>, offset: u64, count: u64) -> Option<Vec<T>> {
    let bytes = whole.read(offset, count.checked_mul(size_of::<T>() as u64)?)?;
    let (entries, _) = pod::slice_from_bytes(&bytes, count.try_into().ok()?).ok()?;
    Some(entries.to_vec())
}

/// The dynamic loader's tags and values.
fn dynamic_entries(whole: Part<'_>, segments: &[Segment]) -> Vec<(i64, u64)> {
    let read = |segment: &Segment| {
        let part = whole.part(file_range(segment)?)?;
        let count = (part.len() / size_of::<Dyn64<LittleEndian>>() as u64).min(MAX_DYNAMIC_ENTRIES);
        table::<Dyn64<LittleEndian>>(part, 0, count)
    };
    let entries = segments.iter().find(|s| s.p_type(LE) == elf::PT_DYNAMIC).and_then(read);
    let entries = entries.unwrap_or_default().into_iter().map(|e| (e.d_tag.get(LE), e.d_val.get(LE)));
    entries.take_while(|&(tag, _)| tag != elf::DT_NULL).collect()
}

fn is_code(segment: &Segment) -> bool {
    segment.p_type(LE) == elf::PT_LOAD && segment.p_flags(LE) & elf::PF_X != 0
}

fn file_range(segment: &Segment) -> Option<Range<u64>> {
    let start = segment.p_offset(LE);
    Some(start..start.checked_add(segment.p_filesz(LE))?)
}

/// Where the file has a section's bytes: `None` for those that only memory has.
fn section_range(section: &Section) -> Option<Range<u64>> {
    let (start, size) = section.file_range(LE)?;
    Some(start..start.checked_add(size)?)
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
        assert_eq!(image.code(0x40_0078, 2), Some(vec![0x90, 0xc3]));
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

    #[test]
    fn functions_of_a_library_are_where_the_loader_found_them() {
        let free: unsafe extern "C" fn(*mut libc::c_void) = libc::free;
        // SAFETY: all its fields are numbers and pointers, which may be zero.
        let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: any address may be asked for, and `found` can be written.
        assert_ne!(unsafe { libc::dladdr(free as *const _, &raw mut found) }, 0);
        // SAFETY: the loader names the library by a C string that lives as long as it.
        let path = unsafe { std::ffi::CStr::from_ptr(found.dli_fname) }.to_str().unwrap();
        let file = std::fs::read(path).unwrap();
        let image = Image::parse(&file).unwrap();
        let functions = image.functions(&["malloc", "no_such_function", "free", "strlen"]);
        let at = functions[2].clone().unwrap();
        assert_eq!(at.start, (free as usize - found.dli_fbase as usize) as u64);
        assert!(at.end > at.start && functions[0].is_some());
        // `strlen` is chosen at load time: its symbol is not the function.
        assert_eq!((&functions[1], &functions[3]), (&None, &None));
        assert_eq!(image.first_defined(&["no_such_function", "malloc", "free"]), Some(1));
    }

    #[test]
    fn a_static_function_is_found_by_its_whole_name() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let image = Image::parse(&file).unwrap();
        let main = image.function_symbol("main").unwrap();
        assert_eq!(image.functions(&["ain", "main"]), [None, Some(main.clone())]);
        assert_eq!(
            image.code(main.start, main.end - main.start).map(|c| c.len() as u64),
            Some(main.end - main.start)
        );
        assert!(image.file_offset_of(main.start).is_some());
    }
}
