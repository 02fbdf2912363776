//! What an image tells the dynamic loader into its libraries and its pointers.

use std::ops::ControlFlow;

use object::LittleEndian;
use object::elf::{self, Dyn64, Rela64};
use object::read::elf::{ProgramHeader as _, Rela as _};

use super::Image;
use super::headers::{LE, Segment, file_range, table};
use super::strings::c_string;
use crate::allocator::source::Part;

const MAX_DYNAMIC_ENTRIES: u64 = 4096;
const MAX_RELOCATION_BYTES: u64 = 128 << 20;
const MAX_LIBRARIES: usize = 1024;

type Relocation = Rela64<LittleEndian>;

impl Image<'_> {
    /// Whether others are loaded with the image: it asks for a loader, as programs do, or for libraries.
    pub fn is_dynamic(&self) -> bool {
        let asks_for_loader = self.segments.iter().any(|s| s.p_type(LE) == elf::PT_INTERP);
        asks_for_loader || self.dynamic.iter().any(|&(tag, _)| tag == elf::DT_NEEDED)
    }

    /// The pointer that `vaddr` holds once the image is loaded at its preferred base: the addend of
    /// its relative relocation where it has one, else what the file holds.
    pub fn pointer_at(&self, vaddr: u64) -> Option<u64> {
        self.relative_addend(vaddr).or_else(|| Some(u64::from_le_bytes(self.loaded(vaddr)?.array(0)?)))
    }

    /// The libraries the image asks for (DT_NEEDED).
    pub fn needed_libraries(&self) -> Vec<String> {
        let Some(strings) = self.dynamic_value(elf::DT_STRTAB).and_then(|v| self.loaded(v)) else {
            return Vec::new();
        };
        let needed = self.dynamic.iter().filter(|&&(tag, _)| tag == elf::DT_NEEDED);
        needed.take(MAX_LIBRARIES).filter_map(|&(_, offset)| c_string(strings, offset)).collect()
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
}

/// The dynamic loader's tags and values.
pub(super) fn dynamic_entries(whole: Part<'_>, segments: &[Segment]) -> Vec<(i64, u64)> {
    let read = |segment: &Segment| {
        let part = whole.part(file_range(segment)?)?;
        let count = (part.len() / size_of::<Dyn64<LittleEndian>>() as u64).min(MAX_DYNAMIC_ENTRIES);
        table::<Dyn64<LittleEndian>>(part, 0, count)
    };
    let entries = segments.iter().find(|s| s.p_type(LE) == elf::PT_DYNAMIC).and_then(read);
    let entries = entries.unwrap_or_default().into_iter().map(|e| (e.d_tag.get(LE), e.d_val.get(LE)));
    entries.take_while(|&(tag, _)| tag != elf::DT_NULL).collect()
}
