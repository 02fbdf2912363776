//! The code of Go functions into the probe sites of their calls: one entry, the cheapest exits that are
//! provably right, and marks between them.
//!
//! The entry is the first instruction behind the stack check, because the runtime runs a function
//! from its start again after growing the stack. The exit is never a return probe: Go moves stacks.

mod analysis;
pub mod marks;
mod refusal;
mod stack_check;

pub use self::refusal::Refusal;

use std::fmt;

use allocscope_common::site_id::{Function as FunctionId, ResultPlace, Role};

use self::analysis::Analysis;
use super::Site;
use super::classify::is_cheap_site;

/// What a call takes from the stack: the return address.
const RETURN_ADDRESS_BYTES: u16 = 8;

/// The code of one function and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Which function it is.
    pub id: FunctionId,
    /// Its symbol.
    pub symbol: &'a str,
    /// Its bytes, with or without the padding behind.
    pub bytes: &'a [u8],
    /// The address of the first byte.
    pub start: u64,
    /// The offset in the file of the first byte.
    pub file_offset: u64,
}

/// A call inside of a probed function that tells what its time goes to from there on.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// What the probe does.
    pub role: Role,
    /// The called function's address.
    pub callee: u64,
}

/// Which exit was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitChoice {
    /// A jump or push behind the last call: all of the function's work is timed.
    LateInstruction,
    /// A jump in the caller, shortly behind the call: all of the function's work is timed.
    Caller,
    /// Every return instruction: exact, but on x86-64 each hit is single-stepped.
    Returns,
}

impl fmt::Display for ExitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LateInstruction => "behind the last call",
            Self::Caller => "in the caller",
            Self::Returns => "at the returns",
        })
    }
}

/// The sites of one function: entry first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSites {
    /// Entry first, then the exits, then the marks.
    pub sites: Vec<Site>,
    /// Which kind of exit.
    pub exit: ExitChoice,
}

/// Plans the probes of a function inside of itself. A mark that has no place is left out.
pub fn plan_call(code: Code<'_>, marks: &[Mark]) -> Result<CallSites, Refusal> {
    let analysis = Analysis::of(code)?;
    if analysis.flow.returns().is_empty() {
        return Err(Refusal::NoReturn);
    }
    let (exits, exit) = match analysis.cheap_exit() {
        Some(site) => (vec![site], ExitChoice::LateInstruction),
        None => (analysis.returns(), ExitChoice::Returns),
    };
    let entry = analysis.site(analysis.check.body, Role::Entry, ResultPlace::Unknown, 0, 0);
    let marks = marks.iter().filter_map(|mark| analysis.mark(mark));
    Ok(CallSites { sites: std::iter::once(entry).chain(exits).chain(marks).collect(), exit })
}

/// Plans the probes of a function that only `caller` calls, and at one place: the exit is behind the call.
///
/// Depths count from the caller's stack pointer at the call. The entry is inside of the function where it is
/// cheap, else at the call, which costs a little more.
pub fn plan_call_in(caller: Code<'_>, callee: Code<'_>) -> Result<CallSites, Refusal> {
    let inner = Analysis::of(callee)?;
    let outer = Analysis::of(caller)?;
    let call = outer.only_call_of(callee.start).ok_or(Refusal::NoSingleCall)?;
    let exit = outer.behind_call(call).ok_or(Refusal::NothingBehindCall)?;
    let body = inner.check.body;
    let entry = if is_cheap_site(inner.function.encoding(body)) {
        inner.site(body, Role::Entry, ResultPlace::Unknown, RETURN_ADDRESS_BYTES, 0)
    } else {
        outer.site(call, Role::Entry, ResultPlace::Unknown, 0, 0)
    };
    let exit = outer.site(exit, Role::Exit, ResultPlace::Register, 0, 0);
    Ok(CallSites { sites: vec![entry, exit], exit: ExitChoice::Caller })
}

#[cfg(test)]
pub(crate) mod tests;
