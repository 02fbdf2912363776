//! The kernel's own type information into the number of an enumerator.
//!
//! The format is told in the kernel's Documentation/bpf/btf.rst; the numbers are those of the kernel that runs, so in
//! this machine's byte order.

use std::fs;
use std::sync::LazyLock;

/// `PGFAULT` of `enum vm_event_item`; `None` where the kernel does not tell.
pub(super) static PAGE_FAULT: LazyLock<Option<i32>> = LazyLock::new(|| value("vm_event_item", "PGFAULT"));

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u32 = 0xeb9f;
/// A type's name, information, and size or type.
const TYPE_BYTES: usize = 12;

// Kinds of types that something follows.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;
const LAST: u32 = ENUM64;

/// The number of `enumerator` in `enum name`; `None` where the kernel does not tell.
fn value(name: &str, enumerator: &str) -> Option<i32> {
    value_in(&fs::read(KERNEL_TYPES).ok()?, name, enumerator)
}

fn value_in(bytes: &[u8], name: &str, enumerator: &str) -> Option<i32> {
    let field = |number: usize| Some(word(bytes, number * 4)? as usize);
    if word(bytes, 0)? & 0xffff != MAGIC {
        return None;
    }
    let header = field(1)?;
    let part = |offset: usize, len: usize| bytes.get(header.checked_add(offset)?..)?.get(..len);
    let types = part(field(2)?, field(3)?)?;
    let strings = part(field(4)?, field(5)?)?;
    let mut rest = types;
    while !rest.is_empty() {
        let (kind, count) = kind_and_count(word(rest, 4)?);
        let following = rest.get(TYPE_BYTES..TYPE_BYTES.checked_add(following_bytes(kind, count)?)?)?;
        if kind == ENUM && is_text(strings, word(rest, 0)?, name) {
            let (values, _) = following.as_chunks::<8>();
            let value = values.iter().find(|value| {
                word(value.as_slice(), 0).is_some_and(|offset| is_text(strings, offset, enumerator))
            });
            return Some(word(value?, 4)? as i32);
        }
        rest = rest.get(TYPE_BYTES + following.len()..)?;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn kind_and_count(information: u32) -> (u32, usize) {
    (information >> 24 & 0x1f, (information & 0xffff) as usize)
}

/// Bytes that follow a type; `None` of a kind that is not known.
fn following_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
        ENUM | FUNC_PROTO => 8 * count,
        kind if kind > LAST => return None,
        _ => 0,
    })
}

fn is_text(strings: &[u8], offset: u32, text: &str) -> bool {
    let rest = strings.get(offset as usize..).and_then(|rest| rest.strip_prefix(text.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRINGS: &[u8] = b"\0vm_event_item\0PGPGIN\0PGFAULT\0PGFAULTS\0other\0";

    fn at(text: &str) -> u32 {
        let text = [b"\0", text.as_bytes(), b"\0"].concat();
        STRINGS.windows(text.len()).position(|window| window == text).unwrap() as u32 + 1
    }

    /// An integer, a structure of two members, an enumeration of another name, and the one asked for.
    fn kernel_types() -> Vec<u8> {
        let mut types = vec![0, INT << 24, 4, 32];
        types.extend([0, STRUCT << 24 | 2, 8, 0, 1, 0, 0, 1, 32]);
        types.extend([at("other"), ENUM << 24 | 1, 4, at("PGFAULT"), 3]);
        let name = at("vm_event_item");
        types.extend([name, ENUM << 24 | 3, 4, at("PGPGIN"), 0, at("PGFAULTS"), 20, at("PGFAULT"), 21]);
        let len = types.len() as u32 * 4;
        let header = [MAGIC | 1 << 16, 24, 0, len, len, STRINGS.len() as u32];
        let words = header.into_iter().chain(types);
        words.flat_map(u32::to_ne_bytes).chain(STRINGS.iter().copied()).collect()
    }

    #[test]
    fn an_enumerator_has_its_number() {
        let bytes = kernel_types();
        assert_eq!(value_in(&bytes, "vm_event_item", "PGFAULT"), Some(21));
        assert_eq!(value_in(&bytes, "vm_event_item", "PGMAJFAULT"), None);
        assert_eq!(value_in(&bytes, "vm_event", "PGFAULT"), None);
    }

    proptest! {
        #[test]
        fn damaged_types_tell_nothing_or_something_but_do_no_harm(
            at in 0usize..200, byte: u8, len in 0usize..300
        ) {
            let mut bytes = kernel_types();
            bytes.truncate(len);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = value_in(&bytes, "vm_event_item", "PGFAULT");
        }
    }
}
