//! The kernel's type information into where a member of a structure is.
//!
//! Format: Documentation/bpf/btf.rst. What does not parse has no members.

use std::fs;

/// Header: magic, version, flags, hdr_len, then offset and length of types and of strings.
const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const KIND_STRUCT: u32 = 4;

/// Of the running kernel: the offset in bytes of a structure's member; `None` where it does not tell.
pub fn kernel_member_at(structure: &str, member: &str) -> Option<u32> {
    member_at(&fs::read("/sys/kernel/btf/vmlinux").ok()?, structure, member)
}

fn member_at(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
    if btf.get(0..2)? != MAGIC.to_ne_bytes() {
        return None;
    }
    let body = btf.get(word(btf, 4)? as usize..)?;
    let part = |at: usize| body.get(word(btf, at)? as usize..)?.get(..word(btf, at + 4)? as usize);
    let (types, strings) = (part(8)?, part(16)?);
    let mut at = 0;
    while let (Some(name), Some(info)) = (word(types, at), word(types, at + 4)) {
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let more = at + TYPE_BYTES;
        if kind == KIND_STRUCT && is_string(strings, name, structure) {
            let members = types.get(more..)?.chunks_exact(MEMBER_BYTES).take(count);
            return offset_of(members, strings, member, info >> 31 != 0);
        }
        at = more + more_bytes(kind, count)?;
    }
    None
}

/// Where bit fields are told, only the lower three bytes are the offset, and always it is in bits.
fn offset_of<'a>(
    mut members: impl Iterator<Item = &'a [u8]>,
    strings: &[u8],
    member: &str,
    has_bit_fields: bool,
) -> Option<u32> {
    let found = members.find(|found| word(found, 0).is_some_and(|name| is_string(strings, name, member)))?;
    let bits = word(found, 8)?;
    Some(if has_bit_fields { bits & 0xff_ffff } else { bits } / 8)
}

/// What follows a type of a kind.
fn more_bytes(kind: u32, count: usize) -> Option<usize> {
    match kind {
        // A pointer, a forward declaration, a name for a type, a qualifier, a function, a float, a type's tag.
        2 | 7..=12 | 16 | 18 => Some(0),
        // An integer, a variable, a declaration's tag.
        1 | 14 | 17 => Some(4),
        // An array.
        3 => Some(12),
        // An enumeration, a function's parameters.
        6 | 13 => Some(count * 8),
        // A structure, a union, a section, an enumeration of 64 bits.
        4 | 5 | 15 | 19 => Some(count * 12),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn is_string(strings: &[u8], at: u32, text: &str) -> bool {
    let end = at as usize + text.len();
    strings.get(at as usize..end) == Some(text.as_bytes()) && strings.get(end) == Some(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, then `struct s { int a; int b; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0s\0a\0bc\0";
        let types: [u32; 13] = [1, 1 << 24, 4, 32, 5, 4 << 24 | 2, 8, 7, 1, 0, 9, 1, 32];
        let mut bytes = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        types.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_by_their_whole_names() {
        assert_eq!(member_at(&sample(), "s", "a"), Some(0));
        assert_eq!(member_at(&sample(), "s", "bc"), Some(4));
        for (structure, member) in [("s", "b"), ("s", "c"), ("int", "a"), ("", "a"), ("t", "a")] {
            assert_eq!(member_at(&sample(), structure, member), None, "{structure}.{member}");
        }
    }

    #[test]
    fn what_is_cut_or_no_type_information_has_no_members() {
        let whole = sample();
        for end in 0..whole.len() - 1 {
            assert_eq!(member_at(&whole[..end], "s", "bc"), None, "{end}");
        }
        assert_eq!(member_at(&[0xff; 64], "s", "a"), None);
    }

    #[test]
    fn this_kernel_tells_where_a_sample_has_its_address() {
        if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
            assert!(kernel_member_at("perf_sample_data", "addr").is_some());
        }
    }
}
