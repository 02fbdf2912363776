//! A copy of a stack into program counters, by the unwind tables of the process' executable and libraries.
//!
//! Where code has no table, its frame pointer is followed.

use crate::allocator::elf::Image;
use crate::intake::StackCopy;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder as _};
use std::ops::Range;
use std::sync::Arc;

/// Frames of a stack that are told.
const MAX_FRAMES: usize = 127;
/// The unwind tables of one image that are read, in bytes.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// What an index begins with as linkers write it (Linux Standard Base, "The .eh_frame_hdr section"): version 1, and how
/// what follows is written: the table's address as 4 bytes relative to their own place, the number of entries as 4
/// bytes, and in each entry 4 bytes for a function and 4 for its unwind information, relative to the index.
const INDEX_FORM: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
const INDEX_HEAD: usize = 12;
const INDEX_ENTRY: usize = 8;

/// A section: its address and contents.
type Section = (u64, Arc<[u8]>);

/// The unwind tables of an image.
#[derive(Clone, Debug, Default)]
pub struct UnwindTables {
    eh_frame: Option<Section>,
    eh_frame_hdr: Option<Section>,
    text: Option<Range<u64>>,
    got: Option<Range<u64>>,
}

impl UnwindTables {
    /// Those of an image.
    pub fn of(image: &Image<'_>) -> Self {
        let section = |name: &str| {
            let (address, _) = image.section_part(name)?;
            Some((address, Arc::from(image.unpacked(name, MAX_TABLE_BYTES)?)))
        };
        let range = |name: &str| {
            let (address, part) = image.section_part(name)?;
            Some(address..address.checked_add(part.len())?)
        };
        let eh_frame = section(".eh_frame");
        let leads_there = |index: &Section| eh_frame.as_ref().is_some_and(|table| leads_into(index, table));
        Self {
            eh_frame_hdr: section(".eh_frame_hdr").filter(leads_there),
            eh_frame,
            text: range(".text"),
            got: range(".got"),
        }
    }

    fn sections(&self) -> ExplicitModuleSectionInfo<Arc<[u8]>> {
        let range = |section: &Option<Section>| {
            let (address, bytes) = section.as_ref()?;
            Some(*address..address.checked_add(bytes.len() as u64)?)
        };
        ExplicitModuleSectionInfo {
            text_svma: self.text.clone(),
            got_svma: self.got.clone(),
            eh_frame_svma: range(&self.eh_frame),
            eh_frame: self.eh_frame.as_ref().map(|(_, bytes)| bytes.clone()),
            eh_frame_hdr_svma: range(&self.eh_frame_hdr),
            eh_frame_hdr: self.eh_frame_hdr.as_ref().map(|(_, bytes)| bytes.clone()),
            ..ExplicitModuleSectionInfo::default()
        }
    }
}

/// Whether an index leads into the table and nowhere else, which who reads it takes for granted. Of a table without an
/// index one is made.
fn leads_into((address, index): &Section, (start, table): &Section) -> bool {
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as u64)
    };
    let (Some(named), Some(count)) = (word(index, 4), word(index, 8)) else { return false };
    let is_of_table = index.starts_with(&INDEX_FORM) && address.wrapping_add(named).wrapping_add(4) == *start;
    let (count, entries) = ((count & 0xffff_ffff) as usize, index[INDEX_HEAD..].chunks_exact(INDEX_ENTRY));
    let is_in = |at: u64| address.wrapping_add(at).wrapping_sub(*start) < table.len() as u64;
    is_of_table
        && count <= entries.len()
        && entries.take(count).all(|entry| word(entry, 4).is_some_and(is_in))
}

/// Unwinds stacks of one address space.
#[derive(Default)]
pub struct Unwinder {
    unwinder: UnwinderX86_64<Arc<[u8]>>,
    cache: CacheX86_64,
}

impl Unwinder {
    /// Adds what is mapped at `range`; `bias` is what is added to the image's own addresses there.
    pub fn add(&mut self, range: Range<u64>, bias: u64, tables: &UnwindTables) {
        self.unwinder.add_module(Module::new(String::new(), range, bias, tables.sections()));
    }

    /// The program counters of a stack, the innermost first; all but the first are return addresses.
    pub fn frames(&mut self, stack: &StackCopy) -> Vec<u64> {
        let mut registers = UnwindRegsX86_64::new(stack.ip, stack.sp, stack.fp);
        let mut frames = vec![stack.ip];
        let mut address = FrameAddress::from_instruction_pointer(stack.ip);
        let mut read = |at: u64| stack.word(at).ok_or(());
        while frames.len() < MAX_FRAMES {
            let next = self.unwinder.unwind_frame(address, &mut registers, &mut self.cache, &mut read);
            let Ok(Some(return_address)) = next else { break };
            let Some(place) = FrameAddress::from_return_address(return_address) else { break };
            frames.push(return_address);
            address = place;
        }
        frames
    }
}
