//! Linkers' names into those that people write. Names come out of files that nobody vouches for: a short one may
//! stand for more text than there is memory, so what is written is cut off.

use cpp_demangle::{DemangleOptions, Symbol};
use std::fmt::{self, Write};

/// Bytes of a name that are looked at, and that are told.
const MAX_NAME_BYTES: usize = 1024;

/// The name that people write, for Rust and C++; another one stays as it is. One line, at most 1 KiB.
pub fn demangled(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
    let text = rust(name).or_else(|| cpp(name)).unwrap_or_else(|| name.to_owned());
    text.chars().map(|c| if c.is_control() || c == ';' { '?' } else { c }).collect()
}

fn rust(name: &str) -> Option<String> {
    let found = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded::default();
    // Without the hash. What does not fit is left out.
    let _ = write!(text, "{found:#}");
    Some(text.0)
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") {
        return None;
    }
    let mut text = Bounded::default();
    let written = Symbol::new(name).ok()?.structured_demangle(&mut text, &DemangleOptions::default());
    (written.is_ok() || text.is_full()).then_some(text.0)
}

/// Text of a bounded length.
#[derive(Default)]
struct Bounded(String);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() >= MAX_NAME_BYTES
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_NAME_BYTES - self.0.len().min(MAX_NAME_BYTES);
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if text.len() > room { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_each_language() {
        assert_eq!(demangled("_ZN5store4load17h0123456789abcdefE"), "store::load");
        assert_eq!(demangled("_ZN5store4loadEm"), "store::load(unsigned long)");
        assert_eq!(demangled("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
        assert_eq!(demangled("malloc"), "malloc");
        assert_eq!(demangled("main.(*Store).load"), "main.(*Store).load");
    }

    #[test]
    fn a_name_that_doubles_again_and_again_is_cut_off() {
        // Each substitution is a pair of the one before.
        let mut name = "_Z1fI1AIiEE".to_owned();
        for step in 0..30 {
            let id = std::char::from_digit(step, 36).unwrap().to_ascii_uppercase();
            name.insert_str(name.len() - 1, &format!("1BIS{id}_S{id}_E"));
        }
        assert!(demangled(&name).len() <= MAX_NAME_BYTES);
    }

    proptest! {
        #[test]
        fn any_name_is_told_in_one_bounded_line(name in "(_Z|_R|_ZN)?\\PC{0,80}") {
            let text = demangled(&name);
            prop_assert!(text.len() <= 4 * MAX_NAME_BYTES && !text.contains(['\n', ';']));
        }
    }
}
