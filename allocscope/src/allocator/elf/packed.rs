//! A section's bytes in the file into its contents, packed or not.

use std::io::Read as _;

use object::elf;

use crate::allocator::source::Part;

/// All of a part, piece by piece; `None` where that is more than `max` bytes.
pub(super) fn read_all(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
    if part.len() > max {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(part.len()).ok()?];
    part.fill(0, &mut bytes).then_some(bytes)
}

/// A section with a header of its own (`Elf64_Chdr`: type, reserved, size, alignment) in front of zlib's stream.
pub(super) fn inflate(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
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
