//! An image's code, gone through piece by piece, into the places that hold a constant or lead somewhere.
//!
//! What is found by bytes alone may lie across two instructions: whoever uses a place decodes its function first.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use super::super::source::Part;
use super::follow::Follower;

/// An allocator has some ten of what is looked for here; more than this is another thing.
const MAX_PLACES: usize = 4096;
/// The largest programs have some hundred megabytes of code.
const MAX_CODE_BYTES: u64 = 512 << 20;
/// A displacement relative to the next instruction.
const DISPLACEMENT_BYTES: usize = 4;
/// `call rel32` and `jmp rel32`: the displacement is next to it.
const BRANCHES: Displaced = Displaced { opcodes: [0xe8, 0xe9], behind: 1, is_one: |_| true };
/// `lea r, [rip + disp32]`: between them is a byte that says so.
const ADDRESSES: Displaced =
    Displaced { opcodes: [0x8d, 0x8d], behind: 2, is_one: |byte| byte & 0xc7 == 0x05 };

/// Instructions that end in a displacement.
struct Displaced {
    opcodes: [u8; 2],
    /// Bytes from the opcode to the displacement.
    behind: usize,
    /// By the byte in front of the displacement.
    is_one: fn(u8) -> bool,
}

impl Follower<'_> {
    /// Where in code one of `patterns` begins, ascending; `None` where that is too often.
    pub fn places(&self, patterns: &[&[u8]]) -> Option<Vec<u64>> {
        let mut found = Vec::new();
        for range in self.all_code()? {
            self.places_in(&range, patterns, &mut found)?;
        }
        found.sort_unstable();
        Some(found)
    }

    /// The same in a part of the code.
    pub fn places_in(&self, range: &Range<u64>, patterns: &[&[u8]], found: &mut Vec<u64>) -> Option<()> {
        let broke = self.code_part(range)?.search(patterns, |offset, _| {
            found.push(range.start.saturating_add(offset));
            full(found)
        });
        broke.is_none().then_some(())
    }

    /// The functions, by their starts, that seem to call `target` or to jump to it.
    pub fn branching_to(&self, target: u64, range: &Range<u64>) -> Option<BTreeSet<u64>> {
        Some(self.functions_of(&self.displaced_to(&[target], range, &BRANCHES)?))
    }

    /// Where code seems to take one of the addresses `targets`.
    pub fn taking(&self, targets: &[u64]) -> Option<Vec<u64>> {
        let mut found = Vec::new();
        for range in self.all_code()? {
            found.extend(self.displaced_to(targets, &range, &ADDRESSES)?);
        }
        Some(found)
    }

    /// The functions that hold `places`, by their starts.
    pub fn functions_of(&self, places: &[u64]) -> BTreeSet<u64> {
        places.iter().filter_map(|&place| Some(self.frames.function_at(place)?.start)).collect()
    }

    fn displaced_to(&self, targets: &[u64], range: &Range<u64>, kind: &Displaced) -> Option<Vec<u64>> {
        let mut found = Vec::new();
        let overlap = (kind.behind + DISPLACEMENT_BYTES) as u64;
        let broke = self.code_part(range)?.chunks(overlap, |offset, bytes, own| {
            let start = range.start.saturating_add(offset);
            found.extend(kind.leading_to(targets, start, bytes, own).take(MAX_PLACES));
            full(&found)
        });
        broke.is_none().then_some(found)
    }

    fn all_code(&self) -> Option<Vec<Range<u64>>> {
        let code: Vec<Range<u64>> = self.image.executable_ranges().collect();
        let bytes =
            code.iter().fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        (bytes <= MAX_CODE_BYTES).then_some(code)
    }

    /// The code from the beginning of `range` to its end, as far as there is any.
    fn code_part(&self, range: &Range<u64>) -> Option<Part<'_>> {
        let code = self.image.executable_ranges().find(|code| code.contains(&range.start))?;
        let len = range.end.min(code.end).checked_sub(range.start)?;
        Some(self.image.loaded(range.start)?.first(len))
    }
}

impl Displaced {
    /// Where such instructions begin in the first `own` of `bytes`, which lie at `start`.
    fn leading_to<'b>(
        &'b self,
        targets: &'b [u64],
        start: u64,
        bytes: &'b [u8],
        own: usize,
    ) -> impl Iterator<Item = u64> + 'b {
        let [first, second] = self.opcodes;
        let opcodes = memchr::memchr2_iter(first, second, bytes).take_while(move |&at| at < own);
        opcodes.filter_map(move |at| {
            let behind = at + self.behind;
            let displacement = bytes.get(behind..behind + DISPLACEMENT_BYTES)?.try_into().ok()?;
            let next = start.wrapping_add((behind + DISPLACEMENT_BYTES) as u64);
            let target = next.wrapping_add_signed(i32::from_le_bytes(displacement).into());
            let leads = targets.contains(&target) && (self.is_one)(*bytes.get(behind - 1)?);
            leads.then(|| start.wrapping_add(at as u64))
        })
    }
}

fn full(found: &[u64]) -> ControlFlow<()> {
    if found.len() > MAX_PLACES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(kind: &Displaced, bytes: &[u8], target: u64) -> Vec<u64> {
        kind.leading_to(&[target], 0x1000, bytes, bytes.len()).collect()
    }

    #[test]
    fn calls_jumps_and_addresses_lead_where_they_say() {
        // call +2; jmp -3
        let code = [0xe8, 2, 0, 0, 0, 0xe9, 0xfd, 0xff, 0xff, 0xff];
        assert_eq!(leading(&BRANCHES, &code, 0x1007), [0x1000, 0x1005]);
        // lea rdi,[rip+1]; and by another register, which is none
        assert_eq!(leading(&ADDRESSES, &[0x48, 0x8d, 0x3d, 1, 0, 0, 0], 0x1008), [0x1001]);
        assert!(leading(&ADDRESSES, &[0x48, 0x8d, 0x3e, 1, 0, 0, 0], 0x1008).is_empty());
    }

    #[test]
    fn what_is_cut_off_leads_nowhere() {
        assert!(leading(&BRANCHES, &[0xe8, 2, 0, 0], 0x1007).is_empty());
        assert!(leading(&ADDRESSES, &[0x8d], 0x1007).is_empty());
    }
}
