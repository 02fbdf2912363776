//! Why no probe is put into a Go function.

use std::fmt;

use crate::site::decode::DecodeError;
use crate::site::flow::FlowError;

/// Why no probe is put into a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not one function's instructions.
    Decode(DecodeError),
    /// Not all ways out are known.
    Flow(FlowError),
    /// It does not start with Go's stack check.
    NoStackCheck,
    /// The entry could run more than once in a call.
    EntryInLoop,
    /// The stack pointer cannot be followed through it.
    StackDepth,
    /// It never returns.
    NoReturn,
    /// It does not call the other function exactly once, outside of loops.
    NoSingleCall,
    /// Nothing behind the call is cheap, runs behind it alone, and still has the result.
    NothingBehindCall,
    /// The place that is looked for is not in it.
    NoSuchPlace,
    /// The kernel lets no probe stand where one is needed.
    NotProbeable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(DecodeError::Empty) => f.write_str("it has no code"),
            Self::Decode(DecodeError::TooLong) => {
                f.write_str("it is longer than a function of this kind can be")
            }
            Self::Decode(DecodeError::Invalid { offset }) => {
                write!(f, "no instruction can be decoded at +{offset:#x}")
            }
            Self::Flow(FlowError::IndirectJump) => {
                f.write_str("it has a jump whose target is not in the code")
            }
            Self::Flow(FlowError::LeavesByJump) => f.write_str("it jumps out of itself"),
            Self::Flow(FlowError::RunsOffEnd) => f.write_str("its code runs over its end"),
            Self::NoStackCheck => f.write_str("it does not start with Go's stack check"),
            Self::EntryInLoop => f.write_str("its first instruction lies in a loop"),
            Self::StackDepth => f.write_str("its stack pointer cannot be followed"),
            Self::NoReturn => f.write_str("it has no return instruction"),
            Self::NoSingleCall => f.write_str("it is not called at one place only"),
            Self::NothingBehindCall => f.write_str("there is no cheap instruction behind its call"),
            Self::NoSuchPlace => f.write_str("the place that is looked for is not in it"),
            Self::NotProbeable => f.write_str("the kernel refuses probes at its entry or returns"),
        }
    }
}
