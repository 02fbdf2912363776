//! A function's bytes into its instructions, or a refusal when the stream does not end where the function does.

use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, Instruction, NasmFormatter};

/// Large-object functions are a few hundred instructions; a longer range is not one function.
const MAX_CODE_BYTES: usize = 16 * 1024;
/// Bounds the analyses behind, which look at each pair of instructions.
const MAX_INSTRUCTIONS: usize = 4096;
/// INT3: what Go's linker fills the space between functions with on x86.
const PADDING: u8 = 0xcc;
const BITNESS: u32 = 64;

/// Why bytes are not taken for a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Nothing but padding.
    Empty,
    /// More than 16 KiB or 4096 instructions.
    TooLong,
    /// No instruction starts at this offset.
    Invalid {
        /// Bytes from the function's start.
        offset: u64,
    },
}

/// The instructions of one function, addressed by index, with the padding behind it cut off.
pub struct Function<'a> {
    bytes: &'a [u8],
    start: u64,
    instructions: Vec<Instruction>,
}

impl<'a> Function<'a> {
    /// Decodes `bytes`, which lie at address `start`, from the first to the last one.
    ///
    /// A probe off an instruction boundary corrupts the target, so one bad byte refuses everything.
    pub fn decode(bytes: &'a [u8], start: u64) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CODE_BYTES {
            return Err(DecodeError::TooLong);
        }
        let code_len = bytes.iter().rposition(|&byte| byte != PADDING).map_or(0, |last| last + 1);
        let mut decoder = Decoder::with_ip(BITNESS, bytes, start, DecoderOptions::NONE);
        let mut instructions = Vec::new();
        // The last instruction may itself end in padding-like bytes, so the decoder sees them all.
        while decoder.position() < code_len {
            let offset = decoder.position() as u64;
            let instruction = decoder.decode();
            if instruction.code() == Code::INVALID {
                return Err(DecodeError::Invalid { offset });
            }
            if instructions.len() == MAX_INSTRUCTIONS {
                return Err(DecodeError::TooLong);
            }
            instructions.push(instruction);
        }
        if instructions.is_empty() {
            return Err(DecodeError::Empty);
        }
        Ok(Self { bytes, start, instructions })
    }

    /// All instructions in address order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The address of the first instruction.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The index of the instruction at address `ip`: `None` off a boundary or outside.
    pub fn index_of(&self, ip: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&ip, Instruction::ip).ok()
    }

    /// Bytes from the function's start to instruction `index`.
    pub fn offset(&self, index: usize) -> Option<u64> {
        self.instructions.get(index)?.ip().checked_sub(self.start)
    }

    /// The bytes of instruction `index`.
    pub fn encoding(&self, index: usize) -> &'a [u8] {
        self.range(index).and_then(|range| self.bytes.get(range)).unwrap_or(&[])
    }

    /// Instruction `index` as text.
    pub fn text(&self, index: usize) -> String {
        let mut text = String::new();
        if let Some(instruction) = self.instructions.get(index) {
            let mut formatter = NasmFormatter::new();
            let options = formatter.options_mut();
            options.set_hex_prefix("0x");
            options.set_hex_suffix("");
            options.set_branch_leading_zeros(false);
            options.set_show_branch_size(false);
            options.set_uppercase_hex(false);
            formatter.format(instruction, &mut text);
        }
        text
    }

    fn range(&self, index: usize) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset(index)?).ok()?;
        Some(start..start.checked_add(self.instructions.get(index)?.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_behind_a_function_is_cut_off() {
        let function = Function::decode(&[0x55, 0x5d, 0xc3, 0xcc, 0xcc], 0x1000).unwrap();
        assert_eq!(function.instructions().len(), 3);
        assert_eq!(function.index_of(0x1002), Some(2));
        assert_eq!(function.index_of(0x1003), None);
        assert_eq!((function.encoding(2), function.text(0).as_str()), (&[0xc3][..], "push rbp"));
    }

    #[test]
    fn an_immediate_that_looks_like_padding_is_code() {
        let function = Function::decode(&[0xb8, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc], 0).unwrap();
        assert_eq!(function.instructions().len(), 1);
        assert_eq!(function.encoding(0).len(), 5);
    }

    #[test]
    fn a_stream_that_does_not_end_with_the_function_is_refused() {
        let refused = |bytes| Function::decode(bytes, 0).err();
        assert_eq!(refused(&[0x55, 0xe8, 0, 0]), Some(DecodeError::Invalid { offset: 1 }));
        assert_eq!(refused(&[0x90, 0x06]), Some(DecodeError::Invalid { offset: 1 }));
        assert_eq!(refused(&[0xcc; 9]), Some(DecodeError::Empty));
        assert_eq!(refused(&[]), Some(DecodeError::Empty));
        assert_eq!(refused(&[0x90; MAX_CODE_BYTES + 1]), Some(DecodeError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), start: u64) {
            if let Ok(function) = Function::decode(&bytes, start) {
                for index in 0..=function.instructions().len() {
                    let _ = (function.offset(index), function.encoding(index), function.text(index));
                }
            }
        }
    }
}
