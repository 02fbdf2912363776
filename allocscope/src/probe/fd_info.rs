//! What the kernel tells of a descriptor of this process (`/proc/self/fdinfo`) into a number.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The number behind `field` and a colon; `None` where the kernel does not tell it.
pub fn number(fd: BorrowedFd<'_>, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    number_in(&text, field)
}

fn number_in(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "pos:\t0\nmemlock_more:\t7\nmemlock:\t4096\nrecursion_misses:\tmany\n";
        assert_eq!(number_in(text, "memlock"), Some(4096));
        assert_eq!(number_in(text, "recursion_misses"), None);
        assert_eq!(number_in(text, "prog_id"), None);
    }
}
