//! The kernel's own type information into the number of an enumerator and the place of a member.
//!
//! The format is told in the kernel's Documentation/bpf/btf.rst; the numbers are those of the kernel that runs, so in
//! this machine's byte order.

use std::fs;
use std::sync::LazyLock;

/// What is asked of the kernel's types, read once: they are megabytes.
pub(super) static KERNEL: LazyLock<KernelTypes> = LazyLock::new(|| {
    fs::read(KERNEL_TYPES).map_or_else(|_| KernelTypes::default(), |types| KernelTypes::of(&types))
});

/// Each `None` where the kernel does not tell.
#[derive(Default)]
pub(super) struct KernelTypes {
    /// `PGFAULT` of `enum vm_event_item`.
    pub page_fault: Option<i32>,
    /// `THP_FAULT_ALLOC`, by a fault that is served with a huge page.
    pub thp_fault: Option<i32>,
    /// `PGMAJFAULT`, by a fault that reads its page from a disk.
    pub major_fault: Option<i32>,
    /// The offset of `pid` in `struct task_struct`, in bytes.
    pub task_pid_at: Option<u32>,
    /// The offset of `data_page_size` in `struct perf_sample_data`, in bytes.
    pub page_size_at: Option<u32>,
}

impl KernelTypes {
    fn of(types: &[u8]) -> Self {
        let event = |name| value_in(types, "vm_event_item", name);
        Self {
            page_fault: event("PGFAULT"),
            thp_fault: event("THP_FAULT_ALLOC"),
            major_fault: event("PGMAJFAULT"),
            task_pid_at: member_in(types, "task_struct", "pid"),
            page_size_at: member_in(types, "perf_sample_data", "data_page_size"),
        }
    }
}

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
fn value_in(bytes: &[u8], name: &str, enumerator: &str) -> Option<i32> {
    let types = Types::of(bytes)?;
    let found = types.find(ENUM, name)?;
    let value = types.named::<8>(found.following, enumerator)?;
    Some(word(value, 4)? as i32)
}

/// The offset in bytes of a structure's member; `None` where the kernel does not tell.
fn member_in(bytes: &[u8], structure: &str, member: &str) -> Option<u32> {
    let types = Types::of(bytes)?;
    let found = types.find(STRUCT, structure)?;
    let bits = word(types.named::<12>(found.following, member)?, 8)?;
    // Where bit fields are told, only the lower three bytes are the offset, and always it is in bits.
    Some(if found.has_bit_fields { bits & 0xff_ffff } else { bits } / 8)
}

/// The two parts of type information.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type.
struct Found<'a> {
    has_bit_fields: bool,
    following: &'a [u8],
}

impl<'a> Types<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let field = |number: usize| Some(word(bytes, number * 4)? as usize);
        if word(bytes, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = field(1)?;
        let part = |offset: usize, len: usize| bytes.get(header.checked_add(offset)?..)?.get(..len);
        Some(Self { types: part(field(2)?, field(3)?)?, strings: part(field(4)?, field(5)?)? })
    }

    fn find(&self, wanted: u32, name: &str) -> Option<Found<'a>> {
        let mut rest = self.types;
        while !rest.is_empty() {
            let information = word(rest, 4)?;
            let (kind, count) = kind_and_count(information);
            let following = rest.get(TYPE_BYTES..TYPE_BYTES.checked_add(following_bytes(kind, count)?)?)?;
            if kind == wanted && is_text(self.strings, word(rest, 0)?, name) {
                return Some(Found { has_bit_fields: information >> 31 != 0, following });
            }
            rest = rest.get(TYPE_BYTES + following.len()..)?;
        }
        None
    }

    /// The one of a type's members or enumerators, `BYTES` each, that bears the name.
    fn named<const BYTES: usize>(&self, following: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let mut entries = following.chunks_exact(BYTES);
        entries.find(|entry| word(entry, 0).is_some_and(|offset| is_text(self.strings, offset, name)))
    }
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

    const STRINGS: &[u8] = b"\0vm_event_item\0PGPGIN\0PGFAULT\0PGFAULTS\0other\0s\0a\0bc\0";

    fn at(text: &str) -> u32 {
        let text = [b"\0", text.as_bytes(), b"\0"].concat();
        STRINGS.windows(text.len()).position(|window| window == text).unwrap() as u32 + 1
    }

    /// An integer, a structure of two members, an enumeration of another name, and the one asked for.
    fn kernel_types() -> Vec<u8> {
        let mut types = vec![0, INT << 24, 4, 32];
        types.extend([at("s"), STRUCT << 24 | 2, 8, at("a"), 1, 0, at("bc"), 1, 32]);
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

    #[test]
    fn members_are_found_by_their_whole_names() {
        let bytes = kernel_types();
        assert_eq!(member_in(&bytes, "s", "a"), Some(0));
        assert_eq!(member_in(&bytes, "s", "bc"), Some(4));
        for (structure, member) in [("s", "b"), ("s", "c"), ("other", "a"), ("", "a"), ("t", "a")] {
            assert_eq!(member_in(&bytes, structure, member), None, "{structure}.{member}");
        }
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
            let _ = member_in(&bytes, "s", "bc");
        }
    }
}
