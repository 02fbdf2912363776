//! The debug information of a Go binary into the places of the fields that are read of its runtime's structs.
//!
//! They are known by version; a binary that has debug information says itself where they are, and is believed.

use std::io::{self, Read};

use gimli::{AttributeValue, DebugAbbrev, DebugInfo, EndianSlice, EntriesRaw, LittleEndian};
use memchr::memmem;

use super::miss;
use super::version::GoVersion;
use crate::allocator::elf::Image;
use crate::site::Miss;

/// The package that has the structs. The linker writes a unit's name first; of this package it makes several, and one of
/// them has the types, before all else.
const UNIT: &[u8] = b"runtime\0";
/// In the unit that has the types.
const TYPE: &[u8] = b"runtime.g\0";
/// A unit's length comes first and does not count itself: 4 bytes, in Go's binaries never 12.
const LENGTH_BYTES: usize = 4;
/// From there to the root's abbreviation code of one byte: 7 bytes in DWARF 4, 8 in DWARF 5, which Go writes since 1.25.
const NAME_OFFSETS: [usize; 2] = [LENGTH_BYTES + 7 + 1, LENGTH_BYTES + 8 + 1];
/// Bounds on what is unpacked and read. The package comes early, since all others need it: in programs with 1.5 to 3.3 MB
/// of debug information its types begin at 0.4 to 0.8 MB, and the structs are in their first 10 KB and 500 entries.
/// Behind the first bound the table by version is used alone: 4 MB take some 45 ms.
const MAX_INFO_BYTES: u64 = 4 << 20;
const MAX_UNIT_BYTES: u64 = 256 << 10;
const MAX_ABBREVIATION_BYTES: u64 = 64 << 10;
const MAX_ENTRIES: usize = 1 << 14;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A field of a struct of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    owner: &'static [u8],
    name: &'static [u8],
    /// In bytes.
    offset: u64,
}

/// What the kernel side and the stack checks rely on, of a version.
fn expected(version: &GoVersion) -> [Field; 8] {
    let field = |owner, name, offset| Field { owner, name, offset };
    [
        field(b"runtime.stack", b"hi", 8),
        field(b"runtime.g", b"stack", 0),
        field(b"runtime.g", b"stackguard0", 16),
        field(b"runtime.g", b"m", 48),
        field(b"runtime.g", b"goid", version.goid_offset().into()),
        field(b"runtime.m", b"curg", version.curg_offset().into()),
        field(b"runtime.mspan", b"startAddr", 24),
        field(b"runtime.mspan", b"npages", 32),
    ]
}

/// Refuses a binary that says that a field is elsewhere. One that says nothing is not refused.
pub fn check(image: &Image<'_>, version: &GoVersion) -> Result<(), Miss> {
    let found = told(image, version);
    let Some((field, offset)) = differing(&found) else { return Ok(()) };
    let [owner, name] = [field.owner, field.name].map(String::from_utf8_lossy);
    let detail = format!(
        "{owner}.{name} is at {offset} in the debug information, and at {} in {version}",
        field.offset
    );
    Err(miss("go_layout_differs", detail))
}

fn differing(found: &[(Field, u64)]) -> Option<&(Field, u64)> {
    found.iter().find(|(field, offset)| field.offset != *offset)
}

/// The fields that the binary tells of, with its offsets.
fn told(image: &Image<'_>, version: &GoVersion) -> Vec<(Field, u64)> {
    let (wanted, mut found) = (expected(version), Vec::new());
    let mut abbreviations = Vec::new();
    let streams = image.unpacked_stream("debug_info").zip(image.unpacked_stream("debug_abbrev"));
    if let Some((info, short)) = streams {
        // What was found before something that is not understood counts.
        let _ = short.take(MAX_ABBREVIATION_BYTES).read_to_end(&mut abbreviations);
        let _ = each_unit(info, |unit| {
            let _ = read_unit(unit, &abbreviations, &wanted, &mut found);
            found.is_empty()
        });
    }
    found
}

/// Shows the beginning of each unit of the package that may have the types, as if it were all of it, until `visit` does
/// not want to go on.
fn each_unit(info: impl Read, mut visit: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut info = info.take(MAX_INFO_BYTES);
    loop {
        let mut unit = Vec::new();
        let begin = (NAME_OFFSETS[1] + UNIT.len()) as u64;
        info.by_ref().take(begin).read_to_end(&mut unit)?;
        let Some(length) = unit.first_chunk::<LENGTH_BYTES>() else { return Ok(()) };
        let mut left = LENGTH_BYTES as u64 + u64::from(u32::from_le_bytes(*length));
        left = left.checked_sub(begin).ok_or(io::ErrorKind::InvalidData)?;
        if NAME_OFFSETS.iter().any(|&at| unit.get(at..).is_some_and(|rest| rest.starts_with(UNIT))) {
            left -= info.by_ref().take(left.min(MAX_UNIT_BYTES)).read_to_end(&mut unit)? as u64;
            let len = (unit.len() - LENGTH_BYTES) as u32;
            unit.splice(..LENGTH_BYTES, len.to_le_bytes());
            if memmem::find(&unit, TYPE).is_some() && !visit(&unit) {
                return Ok(());
            }
        }
        io::copy(&mut info.by_ref().take(left), &mut io::sink())?;
    }
}

/// The fields among a unit's entries.
fn read_unit(
    unit: &[u8],
    abbreviations: &[u8],
    wanted: &[Field],
    found: &mut Vec<(Field, u64)>,
) -> gimli::Result<()> {
    let Some(header) = DebugInfo::new(unit, LittleEndian).units().next()? else { return Ok(()) };
    let abbreviations =
        DebugAbbrev::new(abbreviations, LittleEndian).abbreviations(header.debug_abbrev_offset())?;
    let mut entries = Entries { raw: header.entries_raw(&abbreviations, None)?, owner: None };
    for _ in 0..MAX_ENTRIES {
        if entries.raw.is_empty() || found.len() == wanted.len() {
            break;
        }
        if let Some((owner, name, offset)) = entries.next_member()? {
            let is_it = |field: &&Field| field.owner == owner && field.name == name;
            found.extend(wanted.iter().find(is_it).map(|field| (*field, offset)));
        }
    }
    Ok(())
}

/// A struct's member: the struct's name, its own, and its offset in bytes.
type Member<'u> = (&'u [u8], &'u [u8], u64);

/// Entries of a unit, one after the other.
struct Entries<'u, 'a> {
    raw: EntriesRaw<'a, Slice<'u>>,
    /// The last struct and how deep its members are.
    owner: Option<(&'u [u8], isize)>,
}

impl<'u> Entries<'u, '_> {
    /// The next entry, if it is a struct's member.
    fn next_member(&mut self) -> gimli::Result<Option<Member<'u>>> {
        let depth = self.raw.next_depth();
        let Some(abbreviation) = self.raw.read_abbreviation()? else { return Ok(None) };
        match (abbreviation.tag(), self.owner) {
            (gimli::DW_TAG_structure_type, _) => {
                let (name, _) = self.name_and_offset(abbreviation)?;
                self.owner = name.map(|name| (name, depth + 1));
                Ok(None)
            }
            (gimli::DW_TAG_member, Some((owner, inside))) if inside == depth => {
                let (name, offset) = self.name_and_offset(abbreviation)?;
                Ok(name.zip(offset).map(|(name, offset)| (owner, name, offset)))
            }
            _ => self.raw.skip_attributes(abbreviation.attributes()).map(|()| None),
        }
    }

    fn name_and_offset(
        &mut self,
        abbreviation: &gimli::Abbreviation,
    ) -> gimli::Result<(Option<&'u [u8]>, Option<u64>)> {
        let (mut name, mut offset) = (None, None);
        for &specification in abbreviation.attributes() {
            let attribute = self.raw.read_attribute(specification)?;
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_name, AttributeValue::String(text)) => name = Some(text.slice()),
                (gimli::DW_AT_data_member_location, _) => offset = attribute.udata_value(),
                _ => {}
            }
        }
        Ok((name, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::elf::tests::tiny_image;
    use proptest::prelude::*;

    fn version() -> GoVersion {
        GoVersion::parse("go1.22.10").unwrap()
    }

    /// Four kinds of entries: 1 unit, 2 struct, 3 member, 4 variable.
    const ABBREVIATIONS: &[u8] = &[
        1, 0x11, 1, 3, 8, 0, 0, // a name
        2, 0x13, 1, 3, 8, 0x0b, 0x0f, 0, 0, // a name and a size
        3, 0x0d, 0, 3, 8, 0x38, 0x0f, 0x49, 0x10, 0, 0, // a name, an offset and a type
        4, 0x34, 0, 3, 8, 0, 0, // a name
        0,
    ];

    fn unit(dwarf: u16, name: &str, entries: &[u8]) -> Vec<u8> {
        let mut rest = dwarf.to_le_bytes().to_vec();
        match dwarf {
            4 => rest.extend([0, 0, 0, 0, 8]),
            _ => rest.extend([1, 8, 0, 0, 0, 0]),
        }
        rest.push(1);
        rest.extend(name.as_bytes());
        rest.push(0);
        rest.extend(entries);
        rest.push(0);
        [(rest.len() as u32).to_le_bytes().to_vec(), rest].concat()
    }

    fn entries(structs: &[(&str, &[(&str, u8)])]) -> Vec<u8> {
        let mut bytes = b"\x04a variable\0".to_vec();
        for (owner, members) in structs {
            bytes.extend([&[2], owner.as_bytes(), &[0, 99]].concat());
            for (name, offset) in *members {
                bytes.extend([&[3], name.as_bytes(), &[0, *offset | 0x80, offset >> 7, 1, 0, 0, 0]].concat());
            }
            bytes.push(0);
        }
        bytes
    }

    fn info(dwarf: u16, goid: u8) -> Vec<u8> {
        let others: &[(&str, u8)] = &[("goid", 1), ("m", 2)];
        let g: &[(&str, u8)] = &[("stack", 0), ("m", 48), ("goid", goid)];
        let of_runtime = entries(&[("runtime.other", others), ("runtime.g", g)]);
        let wrong = entries(&[("runtime.g", others)]);
        [
            unit(dwarf, "runtime/other", &wrong),
            unit(dwarf, "runtime", &entries(&[])),
            unit(dwarf, "runtime", &of_runtime),
            unit(dwarf, "main", &wrong),
        ]
        .concat()
    }

    fn fields(info: &[u8]) -> Vec<(Field, u64)> {
        let mut found = Vec::new();
        let _ = each_unit(info, |unit| {
            let _ = read_unit(unit, ABBREVIATIONS, &expected(&version()), &mut found);
            found.is_empty()
        });
        found
    }

    #[test]
    fn fields_are_read_of_the_package_alone() {
        for dwarf in [4, 5] {
            let found = fields(&info(dwarf, 152));
            let told: Vec<_> = found.iter().map(|(field, offset)| (field.name, *offset)).collect();
            assert_eq!(told, [(&b"stack"[..], 0), (b"m", 48), (b"goid", 152)]);
            assert_eq!(differing(&found), None);
        }
    }

    #[test]
    fn another_place_is_noticed() {
        let found = fields(&info(5, 160));
        let (field, offset) = differing(&found).unwrap();
        assert_eq!((field.name, field.offset, *offset), (&b"goid"[..], 152, 160));
    }

    #[test]
    fn a_binary_without_debug_information_is_not_refused() {
        let file = tiny_image(&[0xc3]);
        assert_eq!(check(&Image::parse(&file).unwrap(), &version()), Ok(()));
    }

    proptest! {
        #[test]
        fn hostile_units_do_not_panic(at in 0usize..200, value in any::<u64>(), cut in 0usize..300) {
            for dwarf in [4, 5] {
                let mut info = info(dwarf, 152);
                info.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(slot, byte)| *slot = byte);
                info.truncate(cut);
                let _ = fields(&info);
                let mut abbreviations = ABBREVIATIONS.to_vec();
                let places = abbreviations.iter_mut().skip(at % 40).zip(value.to_le_bytes());
                places.for_each(|(slot, byte)| *slot = byte);
                let _ = read_unit(&info, &abbreviations, &expected(&version()), &mut Vec::new());
            }
        }
    }
}
