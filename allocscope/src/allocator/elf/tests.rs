//! Images made by hand, and real ones: this program and the library it runs with.

use super::*;

/// The smallest image with one executable segment: `code` at address 0x400000 + 120.
pub(crate) fn tiny_image(code: &[u8]) -> Vec<u8> {
    let total = 120 + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([0x40_0078u64, 64, 0].iter().flat_map(|v| v.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    file.extend([1u32, 5].iter().flat_map(|v| v.to_le_bytes()));
    file.extend([0u64, 0x40_0000, 0x40_0000, total, total, 4096].iter().flat_map(|v| v.to_le_bytes()));
    file.extend(code);
    file
}

/// An image without sections: (address, flags, bytes) of each segment.
pub(crate) fn image_of(segments: &[(u64, u32, &[u8])]) -> Vec<u8> {
    let mut file = tiny_image(&[]);
    file.truncate(64);
    file[56] = segments.len() as u8;
    let mut offset = 64 + 56 * segments.len() as u64;
    for &(address, flags, bytes) in segments {
        let len = bytes.len() as u64;
        file.extend([1u32, flags].iter().flat_map(|v| v.to_le_bytes()));
        file.extend([offset, address, address, len, len, 1].iter().flat_map(|v| v.to_le_bytes()));
        offset += len;
    }
    segments.iter().for_each(|(_, _, bytes)| file.extend(*bytes));
    file
}

#[test]
fn code_is_found_only_inside_the_executable_segment() {
    let file = tiny_image(&[0x90, 0xc3]);
    let image = Image::parse(&file).unwrap();
    assert_eq!(image.machine(), Machine::X86_64);
    assert_eq!(image.file_offset_of(0x40_0078), Some(120));
    assert_eq!(image.code(0x40_0078, 2), Some(vec![0x90, 0xc3]));
    assert_eq!(image.code(0x40_0078, 3), None);
    assert_eq!(image.file_offset_of(0x40_007a), None);
    assert_eq!(image.file_offset_of(0x3f_ffff), None);
    assert_eq!(image.code(u64::MAX, u64::MAX), None);
    assert!(!image.has_symbol_table() && !image.is_dynamic());
}

#[test]
fn files_that_cannot_be_examined_say_why() {
    let file = tiny_image(&[0xc3]);
    let with = |at: usize, value: u8| {
        let mut copy = file.clone();
        copy[at] = value;
        Image::parse(&copy).err()
    };
    assert_eq!(Image::parse(b"#!/bin/sh").err(), Some(ImageError::NotElf));
    assert_eq!(Image::parse(b"").err(), Some(ImageError::NotElf));
    assert_eq!(with(4, 1), Some(ImageError::ThirtyTwoBit));
    assert_eq!(with(5, 2), Some(ImageError::UnsupportedMachine));
    assert_eq!(with(18, 8), Some(ImageError::UnsupportedMachine));
    for len in 4..file.len() {
        assert_eq!(Image::parse(&file[..len]).err(), Some(ImageError::Truncated), "{len}");
    }
}

#[test]
fn this_test_binary_is_read() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let image = Image::parse(&file).unwrap();
    assert!(image.has_symbol_table() && image.is_dynamic());
    assert!(image.needed_libraries().iter().any(|name| name.starts_with("libc.so")));
    assert!(image.section(".text").is_some());
    assert!(image.executable_ranges().count() > 0);
}

#[test]
fn functions_of_a_library_are_where_the_loader_found_them() {
    let free: unsafe extern "C" fn(*mut libc::c_void) = libc::free;
    // SAFETY: all its fields are numbers and pointers, which may be zero.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked for, and `found` can be written.
    assert_ne!(unsafe { libc::dladdr(free as *const _, &raw mut found) }, 0);
    // SAFETY: the loader names the library by a C string that lives as long as it.
    let path = unsafe { std::ffi::CStr::from_ptr(found.dli_fname) }.to_str().unwrap();
    let file = std::fs::read(path).unwrap();
    let image = Image::parse(&file).unwrap();
    let functions = image.functions(&["malloc", "no_such_function", "free", "strlen"]);
    let at = functions[2].clone().unwrap();
    assert_eq!(at.start, (free as usize - found.dli_fbase as usize) as u64);
    assert!(at.end > at.start && functions[0].is_some());
    // `strlen` is chosen at load time: its symbol is not the function.
    assert_eq!((&functions[1], &functions[3]), (&None, &None));
    assert_eq!(image.first_defined(&["no_such_function", "malloc", "free"]), Some(1));
}

#[test]
fn a_static_function_is_found_by_its_whole_name() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let image = Image::parse(&file).unwrap();
    let main = image.function_symbol("main").unwrap();
    assert_eq!(image.functions(&["ain", "main"]), [None, Some(main.clone())]);
    assert_eq!(
        image.code(main.start, main.end - main.start).map(|c| c.len() as u64),
        Some(main.end - main.start)
    );
    assert!(image.file_offset_of(main.start).is_some());
}
