//! Arbitrary bytes into a plan for an allocator's library, which must not panic or probe outside the file's code.
//!
//! As `examine`, with `fuzz run library fuzz/corpus/library fuzz/libraries`. The file's last byte tells which
//! allocator it is taken for and how deep it is probed. `libraries` holds a small one for each allocator whose
//! code is followed.

#![no_main]

use allocscope::allocator::detect::Allocator;
use allocscope::allocator::native::Depth;
use allocscope::allocator::{Request, examine_library};
use libfuzzer_sys::fuzz_target;

const KINDS: [Allocator; 5] =
    [Allocator::Glibc, Allocator::Jemalloc, Allocator::Mimalloc, Allocator::Tcmalloc, Allocator::Musl];

fuzz_target!(|file: &[u8]| {
    let choice = file.last().copied().unwrap_or_default();
    let kind = KINDS[usize::from(choice >> 1) % KINDS.len()];
    let depth = if choice & 1 == 0 {
        Depth::LargePath
    } else {
        Depth::Filtered { min_bytes: u64::from(choice) << 8 }
    };
    let Ok(plan) = examine_library(file, kind, &Request { depth, ..Request::default() }) else { return };
    for offset in plan.file_offsets() {
        assert!(is_in_code(file, offset) && offset < file.len() as u64, "{offset:#x}");
    }
});

/// By a reader of its own.
fn is_in_code(file: &[u8], wanted: u64) -> bool {
    let (table, count) = (number_at::<8>(file, 32), number_at::<2>(file, 56));
    (0..count).map(|index| (table + index * 56) as usize).any(|at| {
        let (offset, len) = (number_at::<8>(file, at + 8), number_at::<8>(file, at + 32));
        let is_code = number_at::<4>(file, at) == 1 && number_at::<4>(file, at + 4) & 1 != 0;
        is_code && (offset..offset.saturating_add(len)).contains(&wanted)
    })
}

fn number_at<const N: usize>(file: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&file[at..at + N]);
    u64::from_le_bytes(bytes)
}
