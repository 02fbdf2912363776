//! The line table that every Go binary carries, stripped or not, into function addresses.
//!
//! Layout of Go 1.16 and later (`runtime.pcHeader`, `runtime.functab`, `runtime._func` in the Go tree; for 1.16 also
//! `debug/gosym`, which reads all of them): a header with offsets, names as C strings, and pairs (code, record offset)
//! sorted by code. Code is an offset from a text start, before Go 1.18 an address.

use std::ops::{ControlFlow, Range};

use crate::allocator::elf::{Image, Machine};
use crate::allocator::source::{Part, Window};

/// Magic number, two zero bytes, instruction quantum 1 (x86), pointer size 8. The first magic is that of Go 1.16 and
/// 1.17, the second of 1.18 and 1.19, the third of 1.20 and later.
const HEADS: [[u8; 8]; 3] = [
    [0xfa, 0xff, 0xff, 0xff, 0, 0, 1, 8],
    [0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8],
    [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8],
];
/// Where a head has the instruction quantum.
const QUANTUM: usize = 6;
/// Where a header has the number of functions.
const FUNCTIONS: usize = 8;
/// Where it has the text start, but for [`OLD`].
const TEXT_START: usize = 24;
const HEADER_BYTES: usize = 72;
/// `runtime.moduledata.text`, word 22: the same in 1.26 and 1.27, which have the section.
const MODULE_TEXT: u64 = 22 * 8;
/// The linker aligns the table to 32 bytes at least, pointers need 8.
const ALIGNMENT: u64 = 8;
/// Bounds on hostile input. The largest programs known have a few hundred thousand functions.
const MAX_FUNCTIONS: u64 = 1 << 22;
const MAX_SCAN_BYTES: u64 = 256 << 20;
const MAX_CANDIDATES: u64 = 64;
const MAX_NAME_BYTES: u64 = 4096;

/// Where tables of one kind have what is used of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Offsets in the header: of the names, of what lies behind them, and of pairs and records.
    names: usize,
    units: usize,
    records: usize,
    /// Of each half of a pair, and of the code's place that begins a record, in bytes.
    entry_bytes: u64,
    /// Whether code is told by its address.
    has_addresses: bool,
}

/// Go 1.16 and 1.17.
const OLD: Layout = Layout { names: 24, units: 32, records: 56, entry_bytes: 8, has_addresses: true };
/// Go 1.18 and later.
const NEW: Layout = Layout { names: 32, units: 40, records: 64, entry_bytes: 4, has_addresses: false };

impl Layout {
    /// That of a table that begins with one of [`HEADS`].
    fn of(header: &[u8]) -> Self {
        let is_old = HEADS.first().is_some_and(|old| header.first() == old.first());
        if is_old { OLD } else { NEW }
    }

    /// Where the pair of a function is; of the number behind the last one, where the last one's end is.
    fn pair(&self, index: u64) -> Option<u64> {
        index.checked_mul(self.entry_bytes * 2)
    }

    /// Where the pair has the offset of the record.
    fn record_of_pair(&self, index: u64) -> Option<u64> {
        self.pair(index)?.checked_add(self.entry_bytes)
    }

    /// All pairs and the end of the last function, in bytes.
    fn table_bytes(&self, functions: u64) -> Option<u64> {
        self.pair(functions)?.checked_add(self.entry_bytes)
    }
}

/// A line table whose header has been checked.
pub struct LineTable<'s> {
    header: [u8; HEADER_BYTES],
    layout: Layout,
    address: u64,
    functions: u64,
    names: Part<'s>,
    records_at: u64,
    records: Part<'s>,
}

impl<'s> LineTable<'s> {
    /// Finds the table in its section, or in the data it was merged into by an external linker.
    pub fn find(image: &'s Image<'_>) -> Option<Self> {
        [".gopclntab", ".data.rel.ro.gopclntab"]
            .into_iter()
            .filter_map(|name| image.section_part(name))
            .find_map(|(address, data)| Self::parse(data, address, &heads(image.machine())))
            .or_else(|| Self::scan(image))
    }

    /// The code range of the function of this exact name; `text` is [`Self::text_start`]. The end is
    /// the start of the function behind it, so padding is included.
    pub fn function(&self, image: &Image<'_>, text: u64, name: &str) -> Option<Range<u64>> {
        let name = self.place_of(name)?;
        let (mut pairs, mut records) = (Window::new(self.records), Window::new(self.records));
        let name_at = self.layout.entry_bytes;
        let index = (0..self.functions).find(|&index| {
            let record = self.layout.record_of_pair(index).and_then(|at| pairs.word(at));
            record.and_then(|record| records.word(u64::from(record) + name_at)) == Some(name)
        })?;
        let start = self.loaded_code(image, text, index)?;
        let end = self.loaded_code(image, text, index + 1)?;
        (start < end).then_some(start..end)
    }

    /// Where a function's code begins once the image is loaded: an address is in a position independent one perhaps
    /// only as a relocation.
    fn loaded_code(&self, image: &Image<'_>, text: u64, index: u64) -> Option<u64> {
        if !self.layout.has_addresses {
            return text.checked_add(self.code(index)?);
        }
        let table = self.address.checked_add(self.records_at)?;
        image.pointer_at(table.checked_add(self.layout.pair(index)?)?)
    }

    /// The name of the function that holds a code address; `text` is [`Self::text_start`].
    pub fn name_at(&self, text: u64, address: u64) -> Option<String> {
        let offset = address.checked_sub(text)?;
        let (mut low, mut high) = (0, self.functions);
        if self.code(0)? > offset || self.code(self.functions)? <= offset {
            return None;
        }
        // The last function that begins at or before the address.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.code(middle)? <= offset { low = middle } else { high = middle }
        }
        let record = u64::from(self.word(self.layout.record_of_pair(low)?)?);
        let name = self.word(record.checked_add(self.layout.entry_bytes)?)?;
        let bytes = self.names.tail(name.into())?.prefix(MAX_NAME_BYTES)?;
        let name = bytes.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Where a function's code begins, as the file has it; of the number behind the last one, where that ends.
    fn code(&self, index: u64) -> Option<u64> {
        let at = self.layout.pair(index)?;
        if self.layout.has_addresses {
            self.records.array(at).map(u64::from_le_bytes)
        } else {
            self.word(at).map(u64::from)
        }
    }

    fn word(&self, at: u64) -> Option<u32> {
        self.records.array(at).map(u32::from_le_bytes)
    }

    /// The table's number for a name: its offset among the names. The linker writes each name once.
    fn place_of(&self, name: &str) -> Option<u32> {
        let whole = [name.as_bytes(), b"\0"].concat();
        self.names.search(&[&whole], |at, _| {
            let is_whole = at == 0 || self.names.array(at - 1) == Some([0]);
            if is_whole { ControlFlow::Break(u32::try_from(at).ok()) } else { ControlFlow::Continue(()) }
        })?
    }

    fn scan(image: &'s Image<'_>) -> Option<Self> {
        let (mut left, mut candidates) = (MAX_SCAN_BYTES, MAX_CANDIDATES);
        let heads = heads(image.machine());
        image.data_segments().find_map(|(address, data)| {
            let part = data.first(left);
            left -= part.len();
            part.search(&heads.each_ref().map(|head| &head[..]), |at, _| {
                if !at.is_multiple_of(ALIGNMENT) {
                    return ControlFlow::Continue(());
                }
                let found =
                    data.tail(at).and_then(|rest| Self::parse(rest, address.checked_add(at)?, &heads));
                candidates = candidates.saturating_sub(1);
                if found.is_some() || candidates == 0 {
                    ControlFlow::Break(found)
                } else {
                    ControlFlow::Continue(())
                }
            })?
        })
    }

    fn parse(data: Part<'s>, address: u64, heads: &[[u8; 8]]) -> Option<Self> {
        let header: [u8; HEADER_BYTES] = data.array(0)?;
        if !heads.iter().any(|head| header.starts_with(head)) {
            return None;
        }
        let layout = Layout::of(&header);
        let functions = word(&header, FUNCTIONS)?;
        let (names, units) = (word(&header, layout.names)?, word(&header, layout.units)?);
        let names_end = if (names..=data.len()).contains(&units) { units } else { data.len() };
        let records_at = word(&header, layout.records)?;
        let records = data.tail(records_at)?;
        let table_bytes = layout.table_bytes(functions)?;
        let is_bounded = (1..=MAX_FUNCTIONS).contains(&functions) && table_bytes <= records.len();
        let names = data.part(names..names_end)?;
        is_bounded.then_some(Self { header, layout, address, functions, names, records_at, records })
    }

    /// The address the table's code offsets count from; 0 where it has addresses. The header has it from Go 1.18 to
    /// 1.25; a position independent one may have it only as a relocation. Later it is in the module record alone. It
    /// is not the start of `.text`, which holds C start-up code first in a cgo binary.
    pub fn text_start(&self, image: &Image<'_>) -> Option<u64> {
        if self.layout.has_addresses {
            return Some(0);
        }
        let address = self.address.checked_add(TEXT_START as u64)?;
        image
            .pointer_at(address)
            .or_else(|| word(&self.header, TEXT_START))
            .filter(|&text| text != 0)
            .or_else(|| self.module_text(image))
            .filter(|&text| image.file_offset_of(text).is_some())
    }

    /// From the module record, if that is the one of this table: its first word points here.
    fn module_text(&self, image: &Image<'_>) -> Option<u64> {
        let (module, _) = image.section_part(".go.module")?;
        let is_ours = image.pointer_at(module) == Some(self.address);
        is_ours.then(|| image.pointer_at(module.checked_add(MODULE_TEXT)?))?
    }
}

/// Those of a machine's tables.
fn heads(machine: Machine) -> [[u8; 8]; HEADS.len()] {
    let quantum = match machine {
        Machine::X86_64 => 1,
        Machine::Aarch64 => 4,
    };
    HEADS.map(|mut head| {
        head[QUANTUM] = quantum;
        head
    })
}

fn word(header: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(header.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::allocator::elf::tests::{image_of, tiny_image};
    use proptest::prelude::*;

    /// A table of functions by name and offset from `text`, the last one ending at `end`.
    pub(crate) fn table_of(text: u64, functions: &[(&str, u32)], end: u32) -> Vec<u8> {
        let names: String = functions.iter().map(|(name, _)| format!("{name}\0")).collect();
        let records_at = 72 + names.len() as u64;
        let mut data = HEADS[2].to_vec();
        // Functions, files, text, then the offsets of names, units, files, pc values, records.
        let header = [functions.len() as u64, 0, text, 72, 0, 0, 0, records_at];
        data.extend(header.iter().flat_map(|v| v.to_le_bytes()));
        data.extend(names.as_bytes());
        let (mut pairs, mut records) = (Vec::new(), Vec::new());
        let (mut name_at, mut record_at) = (0, functions.len() as u32 * 8 + 4);
        for &(name, start) in functions {
            pairs.extend([start, record_at]);
            records.extend([start, name_at]);
            name_at += name.len() as u32 + 1;
            record_at += 8;
        }
        pairs.push(end);
        data.extend(pairs.iter().chain(&records).flat_map(|v| v.to_le_bytes()));
        data
    }

    /// The same as Go 1.16 and 1.17 have it.
    pub(crate) fn old_table_of(text: u64, functions: &[(&str, u32)], end: u32) -> Vec<u8> {
        let names: String = functions.iter().map(|(name, _)| format!("{name}\0")).collect();
        let names_bytes = names.len().next_multiple_of(8) as u64;
        let mut data = HEADS[0].to_vec();
        // Functions, files, then the offsets of names, units, files, pc values, records.
        let header = [functions.len() as u64, 0, 64, 64 + names_bytes, 0, 0, 64 + names_bytes];
        data.extend(header.iter().flat_map(|v| v.to_le_bytes()));
        data.extend(names.as_bytes());
        data.resize(64 + names_bytes as usize, 0);
        let (mut name_at, mut record_at) = (0, functions.len() as u64 * 16 + 8);
        let mut records = Vec::new();
        for &(name, start) in functions {
            let start = text + u64::from(start);
            data.extend([start, record_at].iter().flat_map(|v| v.to_le_bytes()));
            records.extend(start.to_le_bytes());
            records.extend([name_at, 0u32].iter().flat_map(|v| v.to_le_bytes()));
            name_at += name.len() as u32 + 1;
            record_at += 16;
        }
        data.extend((text + u64::from(end)).to_le_bytes());
        data.extend(records);
        data
    }

    const FUNCTIONS: [(&str, u32); 2] = [("main.f", 0x10), ("main.g", 0x20)];
    const TEXT: u64 = 0x40_0078;
    /// Where tables are loaded.
    const ADDRESS: u64 = 0x50_0000;

    fn table(text: u64) -> Vec<u8> {
        table_of(text, &FUNCTIONS, 0x28)
    }

    /// An image of code and a table.
    fn image_with(table: &[u8]) -> Vec<u8> {
        image_of(&[(TEXT, 5, &[0xcc; 0x28]), (ADDRESS, 6, table)])
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        for data in [table(TEXT), old_table_of(TEXT, &FUNCTIONS, 0x28)] {
            let file = image_with(&data);
            let image = Image::parse(&file).unwrap();
            let lines = LineTable::find(&image).unwrap();
            let text = lines.text_start(&image).unwrap();
            let function = |name| lines.function(&image, text, name);
            assert_eq!(function("main.f"), Some(0x40_0088..0x40_0098));
            assert_eq!(function("main.g"), Some(0x40_0098..0x40_00a0));
            assert_eq!((function("main."), function("main.ff")), (None, None));
        }
    }

    #[test]
    fn an_address_has_the_name_of_its_function() {
        for data in [table(TEXT), old_table_of(TEXT, &FUNCTIONS, 0x28)] {
            let file = image_with(&data);
            let image = Image::parse(&file).unwrap();
            let lines = LineTable::find(&image).unwrap();
            let text = lines.text_start(&image).unwrap();
            let name = |address| lines.name_at(text, address);
            assert_eq!((name(0x40_0087), name(0x40_00a0), name(0x10)), (None, None, None));
            assert_eq!(name(0x40_0088).as_deref(), Some("main.f"));
            assert_eq!(name(0x40_0097).as_deref(), Some("main.f"));
            assert_eq!(name(0x40_009f).as_deref(), Some("main.g"));
        }
    }

    #[test]
    fn a_text_start_outside_the_code_finds_nothing() {
        let file = tiny_image(&[0xcc; 0x28]);
        let image = Image::parse(&file).unwrap();
        for text in [0, 0x30_0000, u64::MAX] {
            let data = table(text);
            assert_eq!(LineTable::parse(Part::whole(&&data), 0, &HEADS).unwrap().text_start(&image), None);
        }
    }

    proptest! {
        #[test]
        fn hostile_tables_do_not_panic(old: bool, at in 8usize..124, value in any::<u64>(), cut in 0usize..124) {
            let file = tiny_image(&[0xcc; 0x28]);
            let image = Image::parse(&file).unwrap();
            let mut data = if old { old_table_of(TEXT, &FUNCTIONS, 0x28) } else { table(TEXT) };
            for (slot, byte) in data.iter_mut().skip(at).zip(value.to_le_bytes()) {
                *slot = byte;
            }
            for data in [&data[..], data.get(..cut).unwrap_or(&[])] {
                if let Some(lines) = LineTable::parse(Part::whole(&data), value, &HEADS) {
                    let _ = lines.function(&image, value, "main.g");
                    let _ = lines.text_start(&image);
                    let _ = lines.name_at(TEXT, value);
                    let _ = lines.name_at(TEXT, 0x40_0090);
                }
            }
        }
    }
}
