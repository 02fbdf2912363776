//! A section's bytes in the file into its contents, packed or not.

use std::io::{self, BufReader, Read};

use flate2::read::ZlibDecoder;
use object::elf;

use crate::allocator::source::Part;

/// In front of zlib's stream in sections named `.z...`, with the size in 8 bytes behind it.
const OLD_MAGIC: [u8; 4] = *b"ZLIB";
const OLD_HEADER_BYTES: u64 = 12;
/// Of `Elf64_Chdr`: type, reserved, size, alignment.
const HEADER_BYTES: u64 = 24;
/// How much of a stream is read at once.
const READ_BYTES: usize = 64 * 1024;

/// All of a part, piece by piece; `None` where that is more than `max` bytes.
pub(super) fn read_all(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
    if part.len() > max {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(part.len()).ok()?];
    part.fill(0, &mut bytes).then_some(bytes)
}

/// A section with a header of its own in front of zlib's stream.
pub(super) fn inflate(part: Part<'_>, max: u64) -> Option<Vec<u8>> {
    let kind = u32::from_le_bytes(part.array(0)?);
    let size = u64::from_le_bytes(part.array(8)?);
    if kind != elf::ELFCOMPRESS_ZLIB || size > max {
        return None;
    }
    let packed = read_all(part.tail(HEADER_BYTES)?, max)?;
    let mut bytes = Vec::new();
    ZlibDecoder::new(&packed[..]).take(max).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
}

/// The same, unpacked while it is read.
pub(super) fn inflating(part: Part<'_>) -> Option<Box<dyn Read + '_>> {
    let kind = u32::from_le_bytes(part.array(0)?);
    let packed = part.tail(HEADER_BYTES).filter(|_| kind == elf::ELFCOMPRESS_ZLIB)?;
    Some(zlib(packed))
}

/// The same of a section that tells by its name that it is packed.
pub(super) fn inflating_named(part: Part<'_>) -> Option<Box<dyn Read + '_>> {
    let packed = part.tail(OLD_HEADER_BYTES).filter(|_| part.array(0) == Some(OLD_MAGIC))?;
    Some(zlib(packed))
}

fn zlib(packed: Part<'_>) -> Box<dyn Read + '_> {
    Box::new(BufReader::with_capacity(READ_BYTES, ZlibDecoder::new(PartReader::new(packed))))
}

/// A part from its beginning on.
pub(super) struct PartReader<'s> {
    part: Part<'s>,
    at: u64,
}

impl<'s> PartReader<'s> {
    pub(super) fn new(part: Part<'s>) -> Self {
        Self { part, at: 0 }
    }
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.part.len().saturating_sub(self.at);
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        if !self.part.fill(self.at, buffer) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += len as u64;
        Ok(len)
    }
}
