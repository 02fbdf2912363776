//! Texts of the kernel's files into numbers: bounded, and nothing in them can make it panic.

/// Lines that are looked at; more than any of these files has.
const MAX_LINES: usize = 65_536;

/// The lines of a text, so many that no text takes long.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take(MAX_LINES)
}

/// Bytes of a file that holds one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok()
}

/// `key 123` of a table such as `memory.stat`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    lines(text).find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number))
}

/// Bytes of `Key:   123 kB` of `/proc/meminfo`.
pub(super) fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let of_line = |line: &str| {
        number(line.strip_prefix(key)?.strip_prefix(':')?.strip_suffix("kB")?)?.checked_mul(1024)
    };
    lines(text).find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        assert_eq!(number(" 12\n"), Some(12));
        assert_eq!([number("max"), number("-1"), number(""), number("1e3")], [None; 4]);
        assert_eq!(field("inactive_file_x 1\ninactive_file 7\n", "inactive_file"), Some(7));
        assert_eq!(kibibytes("MemTotal:       16 kB\n", "MemTotal"), Some(16_384));
        assert_eq!(kibibytes("MemTotal: 18446744073709551615 kB", "MemTotal"), None);
        assert_eq!(kibibytes("MemTotal: 5 MB", "MemTotal"), None);
    }
}
