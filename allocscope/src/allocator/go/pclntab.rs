//! The line table that every Go binary carries, stripped or not, into function addresses.
//!
//! Layout of Go 1.18 and later (`runtime.pcHeader`, `runtime.functab`, `runtime._func` in the Go tree):
//! a header with offsets, names as C strings, and pairs (code offset, record offset) sorted by code.

use std::ops::{ControlFlow, Range};

use crate::allocator::elf::{Image, Machine};
use crate::allocator::source::{Part, Window};

/// Magic number, two zero bytes, instruction quantum 1 (x86), pointer size 8. The first magic is that
/// of Go 1.18 and 1.19, the second of 1.20 and later.
const HEADS: [[u8; 8]; 2] = [[0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8], [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]];
/// Where a head has the instruction quantum.
const QUANTUM: usize = 6;
/// Offsets in the header, whose other fields are not used.
const FUNCTIONS: usize = 8;
const TEXT_START: usize = 24;
const NAMES: usize = 32;
/// What lies behind the names.
const UNITS: usize = 40;
const RECORDS: usize = 64;
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

/// A line table whose header has been checked.
pub struct LineTable<'s> {
    header: [u8; HEADER_BYTES],
    address: u64,
    functions: u64,
    names: Part<'s>,
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
    pub fn function(&self, text: u64, name: &str) -> Option<Range<u64>> {
        let name = self.place_of(name)?;
        let (mut pairs, mut records) = (Window::new(self.records), Window::new(self.records));
        let index = (0..self.functions).find(|index| {
            let record = pairs.word(index * 8 + 4);
            record.and_then(|record| records.word(u64::from(record) + 4)) == Some(name)
        })?;
        let start = text.checked_add(pairs.word(index * 8)?.into())?;
        let end = text.checked_add(pairs.word(index * 8 + 8)?.into())?;
        (start < end).then_some(start..end)
    }

    /// The name of the function that holds a code address; `text` is [`Self::text_start`].
    pub fn name_at(&self, text: u64, address: u64) -> Option<String> {
        let offset = u32::try_from(address.checked_sub(text)?).ok()?;
        let start_of = |index: u64| self.pair(index).map(|pair| pair[0]);
        let (mut low, mut high) = (0, self.functions);
        if start_of(0)? > offset || self.end()? <= offset {
            return None;
        }
        // The last function that begins at or before the address.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if start_of(middle)? <= offset { low = middle } else { high = middle }
        }
        let record = u64::from(self.pair(low)?[1]);
        let name = u32::from_le_bytes(self.records.array(record.checked_add(4)?)?);
        let bytes = self.names.tail(name.into())?.prefix(MAX_NAME_BYTES)?;
        let name = bytes.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Code offset and record offset of a function.
    fn pair(&self, index: u64) -> Option<[u32; 2]> {
        let bytes: [u8; 8] = self.records.array(index.checked_mul(8)?)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Some([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])])
    }

    /// Where the last function ends.
    fn end(&self) -> Option<u32> {
        Some(u32::from_le_bytes(self.records.array(self.functions.checked_mul(8)?)?))
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
        let functions = word(&header, FUNCTIONS)?;
        let (names, units) = (word(&header, NAMES)?, word(&header, UNITS)?);
        let names_end = if (names..=data.len()).contains(&units) { units } else { data.len() };
        let records = data.tail(word(&header, RECORDS)?)?;
        // Each function has a pair of 4-byte offsets, and one more offset ends the table.
        let table_bytes = functions.checked_mul(8)?.checked_add(4)?;
        let is_bounded = (1..=MAX_FUNCTIONS).contains(&functions) && table_bytes <= records.len();
        let names = data.part(names..names_end)?;
        is_bounded.then_some(Self { header, address, functions, names, records })
    }

    /// The address the table's code offsets count from. The header has it up to Go 1.25; a position
    /// independent one may have it only as a relocation. Later it is in the module record alone. It
    /// is not the start of `.text`, which holds C start-up code first in a cgo binary.
    pub fn text_start(&self, image: &Image<'_>) -> Option<u64> {
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
fn heads(machine: Machine) -> [[u8; 8]; 2] {
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
    use crate::allocator::elf::tests::tiny_image;
    use proptest::prelude::*;

    /// A table of functions by name and offset from `text`, the last one ending at `end`.
    pub(crate) fn table_of(text: u64, functions: &[(&str, u32)], end: u32) -> Vec<u8> {
        let names: String = functions.iter().map(|(name, _)| format!("{name}\0")).collect();
        let records_at = 72 + names.len() as u64;
        let mut data = HEADS[1].to_vec();
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

    fn table(text: u64) -> Vec<u8> {
        table_of(text, &[("main.f", 0x10), ("main.g", 0x20)], 0x28)
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        let file = tiny_image(&[0xcc; 0x28]);
        let image = Image::parse(&file).unwrap();
        let data = &table(0x40_0078)[..];
        let lines = LineTable::parse(Part::whole(&data), 0, &HEADS).unwrap();
        let text = lines.text_start(&image).unwrap();
        assert_eq!(lines.function(text, "main.f"), Some(0x40_0088..0x40_0098));
        assert_eq!(lines.function(text, "main.g"), Some(0x40_0098..0x40_00a0));
        assert_eq!(lines.function(text, "main."), None);
        assert_eq!(lines.function(text, "main.ff"), None);
    }

    #[test]
    fn an_address_has_the_name_of_its_function() {
        let data = &table(0x40_0078)[..];
        let lines = LineTable::parse(Part::whole(&data), 0, &HEADS).unwrap();
        let name = |address| lines.name_at(0x40_0078, address);
        assert_eq!((name(0x40_0087), name(0x40_00a0), name(0x10)), (None, None, None));
        assert_eq!(name(0x40_0088).as_deref(), Some("main.f"));
        assert_eq!(name(0x40_0097).as_deref(), Some("main.f"));
        assert_eq!(name(0x40_009f).as_deref(), Some("main.g"));
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
        fn hostile_tables_do_not_panic(at in 8usize..124, value in any::<u64>(), cut in 0usize..124) {
            let file = tiny_image(&[0xcc; 0x28]);
            let image = Image::parse(&file).unwrap();
            let mut data = table(0x40_0078);
            for (slot, byte) in data.iter_mut().skip(at).zip(value.to_le_bytes()) {
                *slot = byte;
            }
            for data in [&data[..], data.get(..cut).unwrap_or(&[])] {
                if let Some(lines) = LineTable::parse(Part::whole(&data), value, &HEADS) {
                    let _ = lines.function(value, "main.g");
                    let _ = lines.text_start(&image);
                    let _ = lines.name_at(0x40_0078, value);
                    let _ = lines.name_at(0x40_0078, 0x40_0090);
                }
            }
        }
    }
}
