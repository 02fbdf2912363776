//! An ELF image's DWARF into the functions at an address, those inlined there included.

use crate::allocator::elf::Image;
use addr2line::gimli::{self, EndianArcSlice, LittleEndian, SectionId};
use addr2line::{Context, LookupResult};
use std::sync::Arc;

type Bytes = EndianArcSlice<LittleEndian>;

/// DWARF that is read of one image at most, in bytes, unpacked.
const MAX_BYTES: u64 = 512 << 20;

/// Functions that are told of one address.
const MAX_INLINED: usize = 32;

/// The debug information of an image.
pub struct Lines(Context<Bytes>);

impl Lines {
    /// Reads it; `None` where there is none, or more than is read.
    pub fn of(image: &Image<'_>) -> Option<Self> {
        let mut left = MAX_BYTES;
        image.section_part(SectionId::DebugInfo.name())?;
        let load = |id: SectionId| -> Result<Bytes, gimli::Error> {
            let bytes = image.unpacked(id.name(), left).unwrap_or_default();
            left -= (bytes.len() as u64).min(left);
            Ok(EndianArcSlice::new(Arc::from(bytes), LittleEndian))
        };
        Context::from_dwarf(gimli::Dwarf::load(load).ok()?).ok().map(Self)
    }

    /// The names of the functions at an address, the innermost first, as the linker or the language writes them.
    pub fn names(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        let Some(mut frames) = self.frames(address) else { return names };
        while let Ok(Some(frame)) = frames.next() {
            let Some(name) = frame.function.as_ref().and_then(|function| function.raw_name().ok()) else {
                break;
            };
            names.push(name.into_owned());
            if names.len() == MAX_INLINED {
                break;
            }
        }
        names
    }

    fn frames(&self, address: u64) -> Option<addr2line::FrameIter<'_, Bytes>> {
        let mut lookup = self.0.find_frames(address);
        loop {
            match lookup {
                LookupResult::Output(frames) => return frames.ok(),
                // Split DWARF is in other files, which are not looked for.
                LookupResult::Load { continuation, .. } => {
                    lookup = addr2line::LookupContinuation::resume(continuation, None);
                }
            }
        }
    }
}
