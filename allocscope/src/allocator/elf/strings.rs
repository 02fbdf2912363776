//! Tables of strings into the one at an offset, or into where names stand in them.

use std::ops::ControlFlow;

use crate::allocator::source::Part;

const MAX_SYMBOL_PLACES: usize = 65_536;
const MAX_LIBRARY_NAME: u64 = 4096;

/// Whether the C string at `offset` is `name`.
pub(super) fn is_named(strings: &[u8], offset: u32, name: &str) -> bool {
    strings
        .get(offset as usize..)
        .is_some_and(|rest| rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0))
}

pub(super) fn c_string(strings: Part<'_>, offset: u64) -> Option<String> {
    let bytes = strings.tail(offset)?.prefix(MAX_LIBRARY_NAME)?;
    let name = bytes.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Offsets in a string table where one of the names lies, ascending. A name is found as the end of a
/// longer one as well: linkers let such names share their bytes.
pub(super) fn places_of(strings: Part<'_>, names: &[&str]) -> Vec<(u64, usize)> {
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let mut places = Vec::new();
    strings.search_strings(&names, |at, index| {
        places.push((at, index));
        if places.len() < MAX_SYMBOL_PLACES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    places.sort_unstable();
    places
}
