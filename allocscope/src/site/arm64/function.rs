//! A function's bytes into its AArch64 instructions and the ways through them, or a refusal.

use super::instruction::{Instruction, Next};
use super::text::text;
use crate::site::decode::DecodeError;
use crate::site::flow::{Flow, FlowError};

/// As on x86-64: a longer range is not one function.
const MAX_CODE_BYTES: usize = 16 * 1024;
const WORD_BYTES: usize = 4;

/// The instructions of one function, addressed by index, with the padding behind it cut off.
pub struct Function {
    start: u64,
    instructions: Vec<Instruction>,
}

impl Function {
    /// Decodes `bytes`, which lie at address `start`. Go's linker fills the space between functions with zeros,
    /// which are no instructions; anywhere else one such word refuses everything, a pool of constants too.
    ///
    /// # Errors
    /// Where something is no instruction, or a part of one.
    pub fn decode(bytes: &[u8], start: u64) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CODE_BYTES {
            return Err(DecodeError::TooLong);
        }
        let (words, rest) = bytes.as_chunks::<WORD_BYTES>();
        if !rest.is_empty() {
            return Err(DecodeError::Invalid { offset: (words.len() * WORD_BYTES) as u64 });
        }
        let end = words.iter().rposition(|word| *word != [0; WORD_BYTES]).map_or(0, |last| last + 1);
        let words = words.get(..end).unwrap_or_default();
        let instructions: Vec<_> = words.iter().map(|&word| Instruction(u32::from_le_bytes(word))).collect();
        if let Some(index) = instructions.iter().position(|instruction| !instruction.is_known()) {
            return Err(DecodeError::Invalid { offset: (index * WORD_BYTES) as u64 });
        }
        if instructions.is_empty() { Err(DecodeError::Empty) } else { Ok(Self { start, instructions }) }
    }

    /// All instructions in address order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Bytes from the function's start to instruction `index`.
    pub fn offset(&self, index: usize) -> u64 {
        (index as u64).saturating_mul(WORD_BYTES as u64)
    }

    /// The index of the instruction `distance` bytes from instruction `index`: `None` off a boundary or outside.
    pub fn index_at(&self, index: usize, distance: i64) -> Option<usize> {
        let words = isize::try_from(distance / WORD_BYTES as i64).ok()?;
        let target = index.checked_add_signed(words)?;
        (distance % WORD_BYTES as i64 == 0 && target < self.instructions.len()).then_some(target)
    }

    /// The address of what is `distance` bytes from instruction `index`.
    pub fn address_at(&self, index: usize, distance: i64) -> u64 {
        self.start.wrapping_add(self.offset(index)).wrapping_add_signed(distance)
    }

    /// Instruction `index` as text.
    pub fn text(&self, index: usize) -> String {
        let instruction = self.instructions.get(index);
        instruction.map(|&instruction| text(instruction, self.address_at(index, 0))).unwrap_or_default()
    }

    /// The ways through it. A call is taken to return, since whether it does is not in the bytes.
    ///
    /// # Errors
    /// Where not all ways out are known.
    pub fn flow(&self) -> Result<Flow, FlowError> {
        let count = self.instructions.len();
        let successors = (0..count).map(|index| self.successors(index)).collect::<Result<Vec<_>, _>>()?;
        let returns = (0..count).filter(|&index| self.next(index) == Next::Returns).collect();
        Ok(Flow::new(successors, returns))
    }

    /// Where control goes behind instruction `index`.
    pub fn next(&self, index: usize) -> Next {
        self.instructions.get(index).map_or(Next::Traps, |instruction| instruction.next())
    }

    fn successors(&self, index: usize) -> Result<Vec<usize>, FlowError> {
        let following = (index + 1 < self.instructions.len()).then_some(index + 1);
        let target = |distance| self.index_at(index, distance).ok_or(FlowError::LeavesByJump);
        Ok(match self.next(index) {
            Next::Falls => vec![following.ok_or(FlowError::RunsOffEnd)?],
            Next::Branches(distance) => vec![following.ok_or(FlowError::RunsOffEnd)?, target(distance)?],
            Next::Jumps(distance) => vec![target(distance)?],
            // A call in last place is one that does not return.
            Next::Calls(_) => following.into_iter().collect(),
            Next::Returns | Next::Traps => Vec::new(),
            Next::JumpsAnywhere => return Err(FlowError::IndirectJump),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::site::arm64) fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn padding_behind_a_function_is_cut_off() {
        // nop; ret; padding
        let function = Function::decode(&bytes(&[0xd503_201f, 0xd65f_03c0, 0, 0]), 0x1000).unwrap();
        assert_eq!((function.instructions().len(), function.text(1).as_str()), (2, "ret"));
        assert_eq!((function.index_at(1, -4), function.index_at(1, 4)), (Some(0), None));
        assert_eq!((function.index_at(1, -2), function.address_at(1, 8)), (None, 0x100c));
    }

    #[test]
    fn what_is_not_one_function_is_refused() {
        let refused = |bytes: &[u8]| Function::decode(bytes, 0).err();
        assert_eq!(refused(&[]), Some(DecodeError::Empty));
        assert_eq!(refused(&[0; 16]), Some(DecodeError::Empty));
        assert_eq!(refused(&bytes(&[0xd503_201f])[..3]), Some(DecodeError::Invalid { offset: 0 }));
        // ret; udf; ret: a constant between the instructions
        let pool = bytes(&[0xd65f_03c0, 7, 0xd65f_03c0]);
        assert_eq!(refused(&pool), Some(DecodeError::Invalid { offset: 4 }));
        assert_eq!(refused(&[0x1f; MAX_CODE_BYTES + 4]), Some(DecodeError::TooLong));
    }

    #[test]
    fn ways_out_that_are_no_returns_are_refused() {
        let flow = |words: &[u32]| Function::decode(&bytes(words), 0).unwrap().flow().err();
        assert_eq!(flow(&[0xd61f_0200]), Some(FlowError::IndirectJump));
        assert_eq!(flow(&[0x1400_0003]), Some(FlowError::LeavesByJump));
        assert_eq!(flow(&[0xd503_201f]), Some(FlowError::RunsOffEnd));
        assert_eq!(flow(&[0x9400_0001]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), start: u64) {
            if let Ok(function) = Function::decode(&bytes, start) {
                for index in 0..=function.instructions().len() {
                    let _ = (function.offset(index), function.text(index), function.next(index));
                }
                if let Ok(flow) = function.flow() {
                    prop_assert!(flow.returns().iter().all(|&index| index * 4 < bytes.len()));
                }
            }
        }

        #[test]
        fn any_word_is_classified(word: u32) {
            let instruction = Instruction(word);
            let is_branch = !matches!(instruction.next(), Next::Falls);
            prop_assert!(!is_branch || instruction.step() != Some(allocscope_common::site_id::StepClass::Stepped));
            prop_assert!(instruction.is_known() || instruction.step().is_none());
        }
    }
}
