//! The line table that every Go binary carries, stripped or not, into function addresses.
//!
//! Layout of Go 1.18 and later (`runtime.pcHeader`, `runtime.functab`, `runtime._func` in the Go tree):
//! a header with offsets, names as C strings, and pairs (code offset, record offset) sorted by code.

use std::ops::Range;

use crate::allocator::elf::Image;

/// Go 1.18 and 1.19; Go 1.20 and later.
const MAGICS: [[u8; 4]; 2] = [0xffff_fff0u32.to_le_bytes(), 0xffff_fff1u32.to_le_bytes()];
/// After the magic: two zero bytes, instruction quantum 1 (x86), pointer size 8.
const HEADER_TAIL: [u8; 4] = [0, 0, 1, 8];
const TEXT_START: usize = 24;
/// `runtime.moduledata.text`, word 22: the same in 1.26 and 1.27, which have the section.
const MODULE_TEXT: u64 = 22 * 8;
/// Positions where the table is looked for when it has no section of its own: the linker aligns it
/// to 32 bytes at least, pointers need 8.
const SCAN_STEP: usize = 8;

/// A line table whose header has been checked.
pub struct LineTable<'a> {
    data: &'a [u8],
    address: u64,
    functions: usize,
    names: &'a [u8],
    records: &'a [u8],
}

impl<'a> LineTable<'a> {
    /// Finds the table in its section, or in the data it was merged into by an external linker.
    pub fn find(image: &Image<'a>) -> Option<Self> {
        [".gopclntab", ".data.rel.ro.gopclntab"]
            .into_iter()
            .filter_map(|name| image.section(name))
            .find_map(|(address, data)| Self::parse(data, address))
            .or_else(|| Self::scan(image))
    }

    /// The code range of the function of this exact name; `text` is [`Self::text_start`]. The end is
    /// the start of the function behind it, so padding is included.
    pub fn function(&self, text: u64, name: &str) -> Option<Range<u64>> {
        (0..self.functions).find(|&index| self.name_is(index, name.as_bytes()) == Some(true)).and_then(
            |index| {
                let start = text.checked_add(self.entry(index)?.into())?;
                let end = text.checked_add(self.entry(index.checked_add(1)?)?.into())?;
                (start < end).then_some(start..end)
            },
        )
    }

    fn scan(image: &Image<'a>) -> Option<Self> {
        image.data_segments().find_map(|(address, data)| {
            (0..data.len()).step_by(SCAN_STEP).find_map(|at| {
                let rest = data.get(at..)?;
                has_magic(rest).then(|| Self::parse(rest, address.checked_add(at as u64)?))?
            })
        })
    }

    fn parse(data: &'a [u8], address: u64) -> Option<Self> {
        if !has_magic(data) {
            return None;
        }
        let functions = word(data, 8)?;
        let names = data.get(word(data, 32)?..)?;
        let records = data.get(word(data, 64)?..)?;
        // Each function has a pair of 4-byte offsets, and one more offset ends the table.
        let table_bytes = functions.checked_mul(8)?.checked_add(4)?;
        (functions > 0 && table_bytes <= records.len()).then_some(Self {
            data,
            address,
            functions,
            names,
            records,
        })
    }

    /// The address the table's code offsets count from. The header has it up to Go 1.25; a position
    /// independent one may have it only as a relocation. Later it is in the module record alone. It
    /// is not the start of `.text`, which holds C start-up code first in a cgo binary.
    pub fn text_start(&self, image: &Image<'_>) -> Option<u64> {
        let address = self.address.checked_add(TEXT_START as u64)?;
        image
            .pointer_at(address)
            .or_else(|| word(self.data, TEXT_START).map(|text| text as u64))
            .filter(|&text| text != 0)
            .or_else(|| self.module_text(image))
            .filter(|&text| image.file_offset_of(text).is_some())
    }

    /// From the module record, if that is the one of this table: its first word points here.
    fn module_text(&self, image: &Image<'_>) -> Option<u64> {
        let (module, _) = image.section(".go.module")?;
        let is_ours = image.pointer_at(module) == Some(self.address);
        is_ours.then(|| image.pointer_at(module.checked_add(MODULE_TEXT)?))?
    }

    fn entry(&self, index: usize) -> Option<u32> {
        half_word(self.records, index.checked_mul(8)?)
    }

    fn name_is(&self, index: usize, name: &[u8]) -> Option<bool> {
        let record = half_word(self.records, index.checked_mul(8)?.checked_add(4)?)? as usize;
        let offset = half_word(self.records, record.checked_add(4)?)? as usize;
        let found = self.names.get(offset..)?;
        Some(found.starts_with(name) && found.get(name.len()) == Some(&0))
    }
}

fn has_magic(data: &[u8]) -> bool {
    MAGICS.iter().any(|magic| data.starts_with(magic)) && data.get(4..8) == Some(&HEADER_TAIL)
}

fn word(data: &[u8], at: usize) -> Option<usize> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn half_word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
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
        let mut data = MAGICS[1].to_vec();
        data.extend(HEADER_TAIL);
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
        let data = table(0x40_0078);
        let lines = LineTable::parse(&data, 0).unwrap();
        let text = lines.text_start(&image).unwrap();
        assert_eq!(lines.function(text, "main.f"), Some(0x40_0088..0x40_0098));
        assert_eq!(lines.function(text, "main.g"), Some(0x40_0098..0x40_00a0));
        assert_eq!(lines.function(text, "main."), None);
        assert_eq!(lines.function(text, "main.ff"), None);
    }

    #[test]
    fn a_text_start_outside_the_code_finds_nothing() {
        let file = tiny_image(&[0xcc; 0x28]);
        let image = Image::parse(&file).unwrap();
        for text in [0, 0x30_0000, u64::MAX] {
            let data = table(text);
            assert_eq!(LineTable::parse(&data, 0).unwrap().text_start(&image), None);
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
                if let Some(lines) = LineTable::parse(data, value) {
                    let _ = lines.function(value, "main.g");
                    let _ = lines.text_start(&image);
                }
            }
        }
    }
}
