//! Arbitrary bytes into an examination, which must not panic or plan a probe outside the file's code.
//!
//! In the folder above, with `cargo-fuzz` and the nightly compiler that `cargo xtask setup` brings:
//! `mkdir -p fuzz/corpus/examine && AYA_BUILD_SKIP=1 cargo +nightly-2026-05-20 fuzz run examine
//! fuzz/corpus/examine fuzz/seeds -- -timeout=1 -malloc_limit_mb=256`. `seeds` holds small images: Go
//! programs with and without sections and symbols, a program and a library of C, and of both for AArch64.

#![no_main]

use allocscope::allocator::elf::Image;
use allocscope::allocator::{Examination, Request, examine};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 3] = ["malloc", "mi_malloc", "runtime.(*mcache).allocLarge"];

fuzz_target!(|file: &[u8]| {
    let Ok(image) = Image::parse(file) else {
        assert!(examine(file, &Request::default()).is_err());
        return;
    };
    for range in image.functions(&NAMES).into_iter().flatten() {
        let _ = image.code(range.start, range.end - range.start);
    }
    let _ = (image.section(".eh_frame"), image.executable_ranges().count());
    if let Ok(found) = examine(file, &Request::default()) {
        assert_sites_are_in_code(file, &found);
    }
});

/// By a reader of its own.
fn assert_sites_are_in_code(file: &[u8], found: &Examination) {
    let (table, count) = (number_at::<8>(file, 32), number_at::<2>(file, 56));
    for site in &found.plan.sites {
        let is_in_code = (0..count).map(|index| (table + index * 56) as usize).any(|at| {
            let (offset, len) = (number_at::<8>(file, at + 8), number_at::<8>(file, at + 32));
            let is_code = number_at::<4>(file, at) == 1 && number_at::<4>(file, at + 4) & 1 != 0;
            is_code && (offset..offset + len).contains(&site.file_offset)
        });
        assert!(is_in_code && site.file_offset < file.len() as u64, "{site:?}");
    }
}

fn number_at<const N: usize>(file: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&file[at..at + N]);
    u64::from_le_bytes(bytes)
}
