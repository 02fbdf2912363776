//! Ranges of a file into the few bytes that are asked for, so that a large file is never held whole.

use std::ops::{ControlFlow, Range};

use memchr::memmem::Finder;
use object::pod::{self, Pod};

/// How much of a file is read at once where all of it is gone through.
const CHUNK_BYTES: usize = 256 * 1024;
/// What is handed out in one piece at most; see [`Part::read`].
const MAX_READ_BYTES: u64 = 32 << 20;
/// How many strings of a table are looked at: the largest programs known have about two million symbols.
const MAX_STRINGS: usize = 1 << 23;

/// Bytes that can be read by offset: a file, or memory.
pub trait ByteSource {
    /// How many bytes there are. It may be more than can be read: files are cut off while they are looked at.
    fn size(&self) -> u64;

    /// Fills all of `buffer` with what lies at `offset`; `false` where that cannot be done.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool;
}

impl<T: AsRef<[u8]> + ?Sized> ByteSource for &T {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let found = usize::try_from(offset).ok().and_then(|at| {
            let end = at.checked_add(buffer.len())?;
            (*self).as_ref().get(at..end)
        });
        found.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
    }
}

impl ByteSource for Box<dyn ByteSource> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        (**self).read_at(offset, buffer)
    }
}

/// A range of a source, of which nothing has been read yet.
#[derive(Clone, Copy)]
pub struct Part<'s> {
    source: &'s (dyn ByteSource + 's),
    start: u64,
    len: u64,
}

impl<'s> Part<'s> {
    /// All of a source.
    pub fn whole(source: &'s (dyn ByteSource + 's)) -> Self {
        Self { source, start: 0, len: source.size() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The range `inner` of this one, if it lies in it.
    pub fn part(&self, inner: Range<u64>) -> Option<Self> {
        let len = inner.end.checked_sub(inner.start)?;
        (inner.end <= self.len).then_some(Self {
            source: self.source,
            start: self.start.checked_add(inner.start)?,
            len,
        })
    }

    /// Its beginning, `max` bytes at most.
    pub fn first(&self, max: u64) -> Self {
        Self { len: self.len.min(max), ..*self }
    }

    /// What comes at and behind `offset`.
    pub fn tail(&self, offset: u64) -> Option<Self> {
        self.part(offset..self.len)
    }

    /// `len` bytes at `offset`: all of them, or `None`. No more than 32 MiB are ever read.
    pub fn read(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        let part = self.part(offset..offset.checked_add(len)?).filter(|_| len <= MAX_READ_BYTES)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        part.fill(0, &mut bytes).then_some(bytes)
    }

    /// The first bytes, `max` at most.
    pub fn prefix(&self, max: u64) -> Option<Vec<u8>> {
        self.read(0, self.len.min(max))
    }

    /// `N` bytes at `offset`.
    pub fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(offset, &mut bytes).then_some(bytes)
    }

    /// Fills `buffer` from `offset`; `false` where that is not in the range or cannot be read.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let end = offset.checked_add(buffer.len() as u64);
        match (end, self.start.checked_add(offset)) {
            (Some(end), Some(at)) if end <= self.len => self.source.read_at(at, buffer),
            _ => false,
        }
    }

    /// Shows each record of a table of `T` to `visit`, until that breaks off.
    pub fn records<T: Pod, B>(&self, mut visit: impl FnMut(&T) -> ControlFlow<B>) -> Option<B> {
        let size = size_of::<T>() as u64;
        let step = CHUNK_BYTES as u64 / size * size;
        let end = self.len / size * size;
        for at in (0..end).step_by(step as usize) {
            let bytes = self.read(at, step.min(end - at))?;
            let (records, _) = pod::slice_from_bytes(&bytes, bytes.len() / size as usize).ok()?;
            if let ControlFlow::Break(found) = records.iter().try_for_each(&mut visit) {
                return Some(found);
            }
        }
        None
    }

    /// Shows each place in a string table where one of `names` lies before a terminator, as offset and
    /// index of the name, until `visit` breaks off. The place may be inside of a longer string.
    pub fn search_strings<B>(
        &self,
        names: &[&[u8]],
        mut visit: impl FnMut(u64, usize) -> ControlFlow<B>,
    ) -> Option<B> {
        let longest = names.iter().map(|name| name.len()).max()? as u64;
        let mut is_last = [false; 256];
        names.iter().filter_map(|name| name.last()).for_each(|&last| is_last[usize::from(last)] = true);
        let mut left = MAX_STRINGS;
        for at in (0..self.len).step_by(CHUNK_BYTES) {
            // What begins in the chunk before and ends in this one belongs here.
            let overlap = longest.min(at);
            let bytes = self.read(at - overlap, overlap + (CHUNK_BYTES as u64).min(self.len - at))?;
            for end in memchr::memchr_iter(0, bytes.get(overlap as usize..)?) {
                left = left.checked_sub(1)?;
                let before = bytes.get(..overlap as usize + end)?;
                if !before.last().is_some_and(|&last| is_last[usize::from(last)]) {
                    continue;
                }
                for (index, name) in names.iter().enumerate() {
                    if before.ends_with(name) {
                        let place = at - overlap + (before.len() - name.len()) as u64;
                        if let ControlFlow::Break(found) = visit(place, index) {
                            return Some(found);
                        }
                    }
                }
            }
        }
        None
    }

    /// Shows each place of each needle to `visit`, as offset and index of the needle, until that breaks off.
    /// Nearer chunks come first. No needle may end as it begins: overlapping places are not told apart.
    pub fn search<B>(
        &self,
        needles: &[&[u8]],
        mut visit: impl FnMut(u64, usize) -> ControlFlow<B>,
    ) -> Option<B> {
        let finders: Vec<_> = needles.iter().map(Finder::new).collect();
        let overlap = needles.iter().map(|needle| needle.len()).max()?.saturating_sub(1) as u64;
        self.chunks(overlap, |at, bytes, own| {
            finders.iter().enumerate().try_for_each(|(index, finder)| {
                let mut found = finder.find_iter(bytes).take_while(|&place| place < own);
                found.try_for_each(|place| visit(at + place as u64, index))
            })
        })
    }

    /// Shows all of it to `visit`, chunk by chunk, until that breaks off: the offset, the bytes of the chunk with
    /// `overlap` ones of the next, and how many are its own.
    pub fn chunks<B>(
        &self,
        overlap: u64,
        mut visit: impl FnMut(u64, &[u8], usize) -> ControlFlow<B>,
    ) -> Option<B> {
        for at in (0..self.len).step_by(CHUNK_BYTES) {
            let bytes = self.read(at, (CHUNK_BYTES as u64).saturating_add(overlap).min(self.len - at))?;
            if let ControlFlow::Break(found) = visit(at, &bytes, CHUNK_BYTES.min(bytes.len())) {
                return Some(found);
            }
        }
        None
    }
}

/// Words of a part that are asked for in about the order they lie in: one stretch of it is kept.
pub struct Window<'s> {
    part: Part<'s>,
    start: u64,
    bytes: Vec<u8>,
    /// How often the stretch may still move: whoever jumps around in a huge file is stopped.
    moves: u64,
}

impl<'s> Window<'s> {
    const BYTES: u64 = 64 * 1024;

    /// A window that can go through `part` twice, and jump a little.
    pub fn new(part: Part<'s>) -> Self {
        Self { part, start: 0, bytes: Vec::new(), moves: part.len() / Self::BYTES * 2 + 64 }
    }

    /// The 4-byte word at `at`.
    pub fn word(&mut self, at: u64) -> Option<u32> {
        if let Some(word) = self.held(at) {
            return Some(word);
        }
        self.moves = self.moves.checked_sub(1)?;
        self.bytes = self.part.tail(at)?.prefix(Self::BYTES)?;
        self.start = at;
        self.held(at)
    }

    fn held(&self, at: u64) -> Option<u32> {
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let bytes = self.bytes.get(skip..skip.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{LittleEndian, U32};

    fn places(bytes: &[u8], needles: &[&[u8]]) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        Part::whole(&bytes).search(needles, |at, index| {
            found.push((at, index));
            ControlFlow::<()>::Continue(())
        });
        found
    }

    #[test]
    fn what_lies_across_two_chunks_is_found_once() {
        for at in CHUNK_BYTES - 12..CHUNK_BYTES + 2 {
            let mut bytes = vec![b'.'; 2 * CHUNK_BYTES];
            bytes[at..at + 6].copy_from_slice(b"needle");
            assert_eq!(places(&bytes, &[b"pin", b"needle", b"a long needle"]), [(at as u64, 1)]);
        }
    }

    #[test]
    fn strings_are_found_with_their_ends_and_once() {
        for at in CHUNK_BYTES - 12..CHUNK_BYTES + 2 {
            let mut bytes = vec![b'.'; 2 * CHUNK_BYTES];
            bytes[at..at + 9].copy_from_slice(b"x_malloc\0");
            let (mut found, names) = (Vec::new(), [&b"free"[..], b"malloc", b"alloc", b"x_mallo"]);
            let part = &&bytes;
            Part::whole(part).search_strings(&names, |place, index| {
                found.push((place, index));
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(found, [(at as u64 + 2, 1), (at as u64 + 3, 2)]);
        }
    }

    #[test]
    fn records_come_in_order_and_a_torn_one_is_left_out() {
        let count = CHUNK_BYTES / 4 * 2 + 3;
        let mut bytes: Vec<u8> = (0..count as u32).flat_map(u32::to_le_bytes).collect();
        bytes.extend([1, 2, 3]);
        let mut next = 0;
        let broke = Part::whole(&&bytes).records(|record: &U32<LittleEndian>| {
            assert_eq!(record.get(LittleEndian), next);
            next += 1;
            ControlFlow::<()>::Continue(())
        });
        assert_eq!((broke, next), (None, count as u32));
    }

    #[test]
    fn ranges_outside_are_nothing() {
        let bytes = &[1u8, 2, 3, 4][..];
        let whole = Part::whole(&bytes);
        let part = whole.part(1..3).unwrap();
        assert_eq!(part.read(0, 2), Some(vec![2, 3]));
        assert_eq!((part.read(1, 2), part.read(u64::MAX, 2), part.read(1, u64::MAX)), (None, None, None));
        assert!(part.part(0..3).is_none() && part.tail(3).is_none());
        assert_eq!((part.tail(2).unwrap().len(), part.prefix(9)), (0, Some(vec![2, 3])));
        assert_eq!((part.array(0), part.array::<3>(0)), (Some([2, 3]), None));
    }

    /// Claims more than it can give.
    struct CutOff;

    impl ByteSource for CutOff {
        fn size(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
            offset + buffer.len() as u64 <= 300_000
        }
    }

    #[test]
    fn a_source_that_ends_early_holds_nothing() {
        let whole = Part::whole(&CutOff);
        assert_eq!(whole.search(&[b"x"], |at, _| ControlFlow::Break(at)), None);
        assert!(whole.read(299_999, 2).is_none() && whole.read(299_998, 2).is_some());
        assert_eq!(Window::new(whole).word(299_998), None);
    }

    #[test]
    fn a_window_that_jumps_around_stops() {
        let bytes = &[7u8; 3 * 65_536][..];
        let mut window = Window::new(Part::whole(&bytes));
        let mut jump = |round: u64| window.word(if round.is_multiple_of(2) { 0 } else { 131_072 });
        assert_eq!(jump(0), Some(0x0707_0707));
        assert_eq!((1..1000).take_while(|&round| jump(round).is_some()).count(), 69);
    }
}
