//! Texts that images are searched for, kept so that allocscope's own image does not hold them: it is examined as any other.

use std::hint::black_box;

/// A text with all of its bits turned over.
pub const fn turned<const N: usize>(mut text: [u8; N]) -> [u8; N] {
    let mut at = 0;
    while at < N {
        text[at] = !text[at];
        at += 1;
    }
    text
}

/// The text that was turned. A compiler that saw through it would keep that instead.
pub fn text(turned: &[u8]) -> Vec<u8> {
    turned.iter().map(|&byte| !black_box(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use memchr::memmem;

    const TURNED: [u8; 33] = turned(*b"a text that is in no image at all");

    #[test]
    fn a_text_comes_back_and_is_not_in_the_image() {
        let text = text(&TURNED);
        assert!(text.starts_with(b"a text ") && text.ends_with(b" at all"));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(memmem::find(&own, &TURNED).is_some() && memmem::find(&own, &text).is_none());
    }
}
