//! The kernel's own type information (BTF) into the one offset that the kernel side needs.
//!
//! aya relocates nothing in programs written in Rust, so the offset is a load-time constant. The format is that of
//! `Documentation/bpf/btf.rst`. It is the running kernel's, but read as carefully as any file.

use anyhow::{Context, Result};
use std::fs;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
/// Bytes of a type, of a struct's member.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// The offset of `pid` in `struct task_struct`, in bytes.
///
/// # Errors
/// Where the kernel has no type information, or no such member in it.
pub fn task_pid_offset() -> Result<u64> {
    let bytes = fs::read(VMLINUX).context("the kernel has no BTF")?;
    member_offset(&bytes, "task_struct", "pid").context("the kernel's BTF has no task_struct::pid")
}

/// The offset in bytes of a direct member of a struct.
fn member_offset(btf: &[u8], of_struct: &str, member: &str) -> Option<u64> {
    if btf.first_chunk().copied().map(u16::from_ne_bytes)? != MAGIC {
        return None;
    }
    let header = word(btf, 4)? as usize;
    let section = |offset: usize| -> Option<&[u8]> {
        let (start, len) =
            (header.checked_add(word(btf, offset)? as usize)?, word(btf, offset + 4)? as usize);
        btf.get(start..start.checked_add(len)?)
    };
    let (mut types, names) = (section(8)?, section(16)?);
    while let (Some(name), Some(info)) = (word(types, 0), word(types, 4)) {
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let extra = types.get(TYPE_BYTES..TYPE_BYTES.checked_add(extra_bytes(kind, count)?)?)?;
        if kind == KIND_STRUCT && is_named(names, name, of_struct) {
            return offset_in(extra, names, member, info >> 31 != 0);
        }
        types = types.get(TYPE_BYTES + extra.len()..)?;
    }
    None
}

fn offset_in(members: &[u8], names: &[u8], member: &str, has_bitfields: bool) -> Option<u64> {
    let found = members
        .chunks_exact(MEMBER_BYTES)
        .find(|bytes| word(bytes, 0).is_some_and(|name| is_named(names, name, member)))?;
    let offset = word(found, 8)?;
    let bits = if has_bitfields { offset & 0x00ff_ffff } else { offset };
    Some(u64::from(bits) / 8)
}

/// What follows a type of this kind (include/uapi/linux/btf.h); `None` for a kind that is not known.
fn extra_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        2 | 7..=12 | 16 | 18 => 0,
        1 | 14 | 17 => 4,
        3 => 12,
        KIND_STRUCT | 5 | 15 | 19 => count * 12,
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn is_named(names: &[u8], offset: u32, name: &str) -> bool {
    let text = names.get(offset as usize..).unwrap_or_default();
    text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An int, `struct task_structure { pid }` at 0, and `struct task_struct { x; pid }` with `pid` at byte 72.
    fn btf() -> Vec<u8> {
        let names = b"\0int\0task_structure\0pid\0task_struct\0x\0";
        let (structure, pid, task, x) = (5u32, 20u32, 24u32, 36u32);
        let types: Vec<u32> = [
            vec![1, 1 << 24, 4, 32],
            vec![structure, 4 << 24 | 1, 4, pid, 1, 0],
            vec![task, 4 << 24 | 1 << 31 | 2, 80, x, 1, 8 << 24, pid, 1, 72 * 8],
        ]
        .concat();
        let len = 4 * types.len() as u32;
        let header = [24u32, 0, len, len, names.len() as u32];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()));
        bytes.extend(names);
        bytes
    }

    #[test]
    fn a_member_is_found_by_its_whole_name() {
        assert_eq!(member_offset(&btf(), "task_struct", "pid"), Some(72));
        assert_eq!(member_offset(&btf(), "task_structure", "pid"), Some(0));
        assert_eq!(member_offset(&btf(), "task_struct", "tgid"), None);
        assert_eq!(member_offset(&btf(), "task", "pid"), None);
    }

    #[test]
    fn what_is_cut_short_or_changed_is_refused_or_harmless() {
        let whole = btf();
        for len in 0..whole.len() {
            member_offset(&whole[..len], "task_struct", "pid");
            for value in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[len] = value;
                member_offset(&changed, "task_struct", "pid");
            }
        }
    }

    #[test]
    fn the_running_kernel_tells() {
        assert!((64..65_536).contains(&task_pid_offset().unwrap()));
    }
}
