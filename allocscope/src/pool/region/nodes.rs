//! The kernel's list of NUMA nodes, such as `0-1,3`, into their numbers.

/// More nodes than any kernel is built for.
const MOST: usize = 1024;

/// The nodes of a list; only node 0 where there is none to be read.
pub(super) fn parse(text: &str) -> Vec<u32> {
    let nodes: Vec<u32> = text.trim().split(',').filter_map(range).flatten().take(MOST).collect();
    if nodes.is_empty() { vec![0] } else { nodes }
}

fn range(part: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_nodes_are_read() {
        assert_eq!(parse("0\n"), [0]);
        assert_eq!(parse("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse(""), [0]);
        assert_eq!(parse("x,1-y"), [0]);
        assert_eq!(parse("0-4294967295").len(), MOST);
    }
}
