//! Text from outside into text that a terminal only shows.

/// Text from outside without control characters, which a terminal could take for commands, and
/// without the invisible ones that turn the direction of writing.
pub(super) fn plain(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_unsafe(c) { '?' } else { c }).collect()
}
