//! /proc/PID/exe into an open file that is certainly the one the process runs, even if it has been deleted,
//! replaced, or lies in a container.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use procfs::process::Process;

use super::TargetError;
use super::proc_file::{open_process, sort_error, sort_io_error};

/// What the kernel adds to the path of a file that has none any more.
pub(super) const DELETED_SUFFIX: &str = " (deleted)";

/// A file that a process runs or maps, open for reading.
#[derive(Debug)]
pub struct OpenedBinary {
    /// The file.
    pub file: File,
    /// The number of its device, as `fstat` tells it.
    pub dev: u64,
    /// Its number on that device.
    pub ino: u64,
    /// The kernel says that the path is gone: deleted, or taken by another file.
    pub deleted: bool,
    /// Another file lies at the path: the process runs what was there before.
    pub replaced: bool,
    /// The path as the process sees it, without the kernel's ` (deleted)`. For people only.
    pub path: PathBuf,
    /// A path in /proc by which this very file can be opened while the process lives.
    pub proc_path: PathBuf,
}

/// The class of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfClass {
    /// ELFCLASS32.
    ThirtyTwo,
    /// ELFCLASS64.
    SixtyFour,
    /// Not an ELF file, or too short for one.
    NotElf,
}

/// The executable of a process.
///
/// # Errors
/// Where the process is gone, has none (a kernel thread) or may not be looked at.
pub fn executable(pid: u32) -> Result<OpenedBinary, TargetError> {
    let process = open_process(pid)?;
    let link = process.exe().map_err(|error| sort_error(pid, error))?;
    let file = process.open_relative("exe").map_err(|error| sort_error(pid, error))?;
    OpenedBinary::new(pid, file, &link, format!("/proc/{pid}/exe").into())
}

/// The class that an ELF file's first bytes tell (5 are needed).
pub fn elf_class(header: &[u8]) -> ElfClass {
    match header {
        [0x7f, b'E', b'L', b'F', 1, ..] => ElfClass::ThirtyTwo,
        [0x7f, b'E', b'L', b'F', 2, ..] => ElfClass::SixtyFour,
        _ => ElfClass::NotElf,
    }
}

impl OpenedBinary {
    /// `link` is the path as the kernel tells it.
    pub(super) fn new(pid: u32, file: File, link: &Path, proc_path: PathBuf) -> Result<Self, TargetError> {
        let metadata = file.metadata().map_err(|error| sort_io_error(pid, error))?;
        let (path, deleted) = told_path(pid, link, &metadata);
        let there = in_root_of(pid, &path);
        let replaced = there.metadata().is_ok_and(|found| !same_file(&found, &metadata));
        let (dev, ino) = (metadata.dev(), metadata.ino());
        Ok(Self { file, dev, ino, deleted, replaced, path, proc_path })
    }
}

/// Fails if a process' executable is a 32-bit program.
pub(super) fn refuse_32_bit(pid: u32, process: &Process) -> Result<(), TargetError> {
    let file = process.open_relative("exe").map_err(|error| sort_error(pid, error))?;
    match class_of(&file).map_err(|error| sort_io_error(pid, error))? {
        ElfClass::ThirtyTwo => Err(TargetError::ThirtyTwoBit { pid }),
        // What is no ELF file is for those to judge who parse it.
        ElfClass::SixtyFour | ElfClass::NotElf => Ok(()),
    }
}

/// A path as seen by a process, from here.
pub(super) fn in_root_of(pid: u32, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Path::new("/proc").join(pid.to_string()).join("root").join(relative)
}

/// Whether both are the same file.
pub(super) fn same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The path without the kernel's suffix, and whether the suffix was the kernel's: a file may really have
/// such a name.
fn told_path(pid: u32, link: &Path, metadata: &Metadata) -> (PathBuf, bool) {
    let Some(stem) = link.as_os_str().as_bytes().strip_suffix(DELETED_SUFFIX.as_bytes()) else {
        return (link.to_owned(), false);
    };
    if in_root_of(pid, link).metadata().is_ok_and(|found| same_file(&found, metadata)) {
        return (link.to_owned(), false);
    }
    (PathBuf::from(OsStr::from_bytes(stem)), true)
}

fn class_of(file: &File) -> io::Result<ElfClass> {
    let mut header = [0; 5];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(elf_class(&header)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(ElfClass::NotElf),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Sleeper, TempDir};
    use super::*;

    #[test]
    fn own_executable() {
        let own = executable(std::process::id()).unwrap();
        let there = std::env::current_exe().unwrap();
        assert_eq!(own.path, there);
        assert_eq!((own.dev, own.ino), (there.metadata().unwrap().dev(), there.metadata().unwrap().ino()));
        assert!(!own.deleted && !own.replaced);
        assert_eq!(class_of(&own.file).unwrap(), ElfClass::SixtyFour);
    }

    #[test]
    fn a_deleted_executable_is_still_readable() {
        let dir = TempDir::new();
        let sleeper = Sleeper::start_copy(&dir.path.join("nap"));
        std::fs::remove_file(dir.path.join("nap")).unwrap();
        let binary = executable(sleeper.pid()).unwrap();
        assert!(binary.deleted && !binary.replaced);
        assert_eq!(binary.path, dir.path.join("nap"));
        assert_eq!(class_of(&binary.file).unwrap(), ElfClass::SixtyFour);
        assert_eq!(File::open(&binary.proc_path).unwrap().metadata().unwrap().ino(), binary.ino);
    }

    #[test]
    fn a_replaced_executable_is_told_from_its_successor() {
        let dir = TempDir::new();
        let path = dir.path.join("nap");
        let sleeper = Sleeper::start_copy(&path);
        let before = path.metadata().unwrap().ino();
        std::fs::copy("/bin/true", dir.path.join("new")).unwrap();
        std::fs::rename(dir.path.join("new"), &path).unwrap();
        let binary = executable(sleeper.pid()).unwrap();
        assert!(binary.deleted && binary.replaced);
        assert_eq!(binary.ino, before);
    }

    #[test]
    fn a_file_may_be_named_as_if_deleted() {
        let dir = TempDir::new();
        let path = dir.path.join("nap (deleted)");
        let sleeper = Sleeper::start_copy(&path);
        let binary = executable(sleeper.pid()).unwrap();
        assert!(!binary.deleted && !binary.replaced);
        assert_eq!(binary.path, path);
    }

    #[test]
    fn classes() {
        assert_eq!(elf_class(b"\x7fELF\x01\x01\x01\x00"), ElfClass::ThirtyTwo);
        assert_eq!(elf_class(b"\x7fELF\x02"), ElfClass::SixtyFour);
        for bad in [&b""[..], b"\x7fELF", b"\x7fELF\x00", b"\x7fELF\x03", b"#!/bin/sh"] {
            assert_eq!(elf_class(bad), ElfClass::NotElf);
        }
    }

    /// A whole 32-bit program that calls pause(2) for ever.
    fn program_of_32_bits() -> Vec<u8> {
        const BASE: u32 = 0x0804_8000;
        let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
        let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend([2u16, 3].map(u16::to_le_bytes).concat());
        elf.extend([1, BASE + 84, 52, 0, 0].map(u32::to_le_bytes).concat());
        elf.extend([52u16, 32, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
        let bytes = 84 + code.len() as u32;
        elf.extend([1, 0, BASE, BASE, bytes, bytes, 5, 4096].map(u32::to_le_bytes).concat());
        elf.extend(code);
        elf
    }

    #[test]
    fn a_32_bit_process_is_refused() {
        let dir = TempDir::new();
        let path = dir.path.join("tiny");
        std::fs::write(&path, program_of_32_bits()).unwrap();
        assert_eq!(class_of(&File::open(&path).unwrap()).unwrap(), ElfClass::ThirtyTwo);
        // Without 32-bit emulation in the kernel there is no such process to be refused.
        if let Some(sleeper) = Sleeper::start_if_executable(&path) {
            let error = super::super::describe(sleeper.pid()).unwrap_err();
            assert!(matches!(error, TargetError::ThirtyTwoBit { .. }), "{error:?}");
        }
    }

    #[test]
    fn an_executable_of_nobody() {
        assert!(matches!(executable(u32::MAX), Err(TargetError::NoSuchProcess { .. })));
    }
}
