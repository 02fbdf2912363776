//! /proc/PID/maps into the files whose code a process has mapped, and the end of its heap. Read as bytes:
//! paths need not be UTF-8.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str;

use super::TargetError;
use super::binary::{DELETED_SUFFIX, OpenedBinary, in_root_of};
use super::proc_file::{open_process, sort_error, sort_io_error};

/// Lines of a maps file that are read: the kernel's own default limit of mappings.
const MAX_LINES: usize = 65_536;

/// Files that are kept.
const MAX_FILES: usize = 4096;

/// Bytes of a maps file that are read.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What a process maps, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// Files with mapped code, in order of address: the executable and the libraries in use.
    pub files: Vec<MappedFile>,
    /// The end of the `[heap]` mapping: the program break, rounded up to a page.
    pub heap_end: Option<u64>,
    /// There is more than is read at most (65,536 lines, 4,096 files).
    pub truncated: bool,
}

/// A file with at least one executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// The path as the process sees it, without the kernel's ` (deleted)`.
    pub path: PathBuf,
    /// The number of its device, encoded as in `st_dev`. On btrfs and some overlays it is not what `fstat`
    /// tells.
    pub dev: u64,
    /// Its number on that device.
    pub ino: u64,
    /// The kernel says that the path is gone.
    pub deleted: bool,
    /// Where its code is, in order of address.
    pub executable: Vec<ExecutableRange>,
}

/// An executable mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutableRange {
    /// The first address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// Where in the file the first byte is.
    pub file_offset: u64,
}

/// Reads what a process maps.
///
/// # Errors
/// Where the process is gone or may not be looked at.
pub fn mappings(pid: u32) -> Result<Mappings, TargetError> {
    let process = open_process(pid)?;
    let file = process.open_relative("maps").map_err(|error| sort_error(pid, error))?;
    parse(BufReader::with_capacity(64 * 1024, file)).map_err(|error| sort_io_error(pid, error))
}

/// The files of [`mappings`].
///
/// # Errors
/// As [`mappings`].
pub fn mapped_files(pid: u32) -> Result<Vec<MappedFile>, TargetError> {
    Ok(mappings(pid)?.files)
}

/// Where a process has the byte at `offset` of a file in memory that it can write to, in order of address. More than one
/// place while a library is being loaded whose segments share a page of the file.
///
/// # Errors
/// Where the process is gone or may not be looked at.
pub fn writable_places(pid: u32, mapped: &MappedFile, offset: u64) -> Result<Vec<u64>, TargetError> {
    let process = open_process(pid)?;
    let file = process.open_relative("maps").map_err(|error| sort_error(pid, error))?;
    let lines = BufReader::with_capacity(64 * 1024, file.take(MAX_BYTES)).split(b'\n').take(MAX_LINES);
    let place = |line: &[u8]| {
        let line = parse_line(line).filter(|line| line.writable)?;
        let within = offset.checked_sub(line.file_offset).filter(|at| *at < line.end - line.start)?;
        ((line.dev, line.ino) == (mapped.dev, mapped.ino)).then_some(line.start + within)
    };
    Ok(lines.map_while(Result::ok).filter_map(|line| place(&line)).collect())
}

/// The heap's end of [`mappings`], or `None` where no heap was ever made.
///
/// # Errors
/// As [`mappings`].
pub fn heap_end(pid: u32) -> Result<Option<u64>, TargetError> {
    Ok(mappings(pid)?.heap_end)
}

/// Opens a mapped file: through `/proc/PID/map_files` where that is allowed, which finds deleted files
/// too; else by its path in the process' root, if that is still the same file.
///
/// # Errors
/// [`TargetError::FileGone`] if neither way leads to it.
pub fn open_mapped(pid: u32, mapped: &MappedFile) -> Result<OpenedBinary, TargetError> {
    let links = mapped.executable.iter().map(|range| {
        let name = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
        PathBuf::from(name)
    });
    for proc_path in links {
        // The range may be another file's by now, so what the link says is compared.
        let link = proc_path.read_link();
        if let (Ok(link), Ok(file)) = (link, File::open(&proc_path)) {
            let opened = OpenedBinary::new(pid, file, &link, proc_path)?;
            if opened.path == mapped.path {
                return Ok(opened);
            }
        }
    }
    open_by_path(pid, mapped)
        .ok_or_else(|| TargetError::FileGone { pid, path: mapped.path.to_string_lossy().into_owned() })
}

/// The path is the process' own, unless it has only changed its root: then the kernel tells it from ours, and
/// a file there has to be on the same device, too.
fn open_by_path(pid: u32, mapped: &MappedFile) -> Option<OpenedBinary> {
    let same_number = |found: &Metadata| found.ino() == mapped.ino;
    let same_file = |found: &Metadata| same_number(found) && found.dev() == mapped.dev;
    let open = |path: PathBuf, is_it: &dyn Fn(&Metadata) -> bool| {
        let file = File::open(&path).ok()?;
        is_it(&file.metadata().ok()?).then_some((file, path))
    };
    let (file, path) = open(in_root_of(pid, &mapped.path), &same_number)
        .or_else(|| open(mapped.path.clone(), &same_file))?;
    OpenedBinary::new(pid, file, &mapped.path, path).ok()
}

/// One line of a maps file.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    start: u64,
    end: u64,
    executable: bool,
    writable: bool,
    file_offset: u64,
    dev: u64,
    ino: u64,
    /// Empty where nothing is told.
    path: &'a [u8],
}

fn parse(reader: impl BufRead) -> std::io::Result<Mappings> {
    let mut reader = reader.take(MAX_BYTES);
    let mut found = Mappings::default();
    let mut places: HashMap<(u64, u64, Vec<u8>), usize> = HashMap::new();
    let mut bytes = Vec::new();
    for _ in 0..MAX_LINES {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            found.truncated |= reader.limit() == 0;
            return Ok(found);
        }
        let Some(line) = parse_line(bytes.strip_suffix(b"\n").unwrap_or(&bytes)) else {
            continue;
        };
        if line.path == b"[heap]" {
            found.heap_end = found.heap_end.max(Some(line.end));
        } else if line.executable && line.ino != 0 {
            add(&mut found, &mut places, &line);
        }
    }
    bytes.clear();
    found.truncated |= reader.read_until(b'\n', &mut bytes)? > 0;
    Ok(found)
}

fn add(found: &mut Mappings, places: &mut HashMap<(u64, u64, Vec<u8>), usize>, line: &Line<'_>) {
    let range = ExecutableRange { start: line.start, end: line.end, file_offset: line.file_offset };
    let key = (line.dev, line.ino, line.path.to_vec());
    if let Some(&place) = places.get(&key) {
        found.files[place].executable.push(range);
    } else if found.files.len() == MAX_FILES {
        found.truncated = true;
    } else {
        places.insert(key, found.files.len());
        let (path, deleted) = match line.path.strip_suffix(DELETED_SUFFIX.as_bytes()) {
            Some(stem) => (stem, true),
            None => (line.path, false),
        };
        let path = PathBuf::from(OsString::from_vec(unescape(path)));
        found.files.push(MappedFile { path, dev: line.dev, ino: line.ino, deleted, executable: vec![range] });
    }
}

/// `start-end perms offset major:minor inode   path`, numbers but the inode in hexadecimal.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let mut rest = line;
    let (start, end) = split_numbers(word(&mut rest)?, '-')?;
    let permissions = word(&mut rest)?;
    let file_offset = hex(str::from_utf8(word(&mut rest)?).ok()?)?;
    let (major, minor) = split_numbers(word(&mut rest)?, ':')?;
    let ino = str::from_utf8(word(&mut rest)?).ok()?.parse().ok()?;
    let path = rest.trim_ascii_start();
    let dev = libc::makedev(u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    let executable = permissions.get(2) == Some(&b'x');
    let writable = permissions.get(1) == Some(&b'w');
    (start < end).then_some(Line { start, end, executable, writable, file_offset, dev, ino, path })
}

/// Takes the next word off.
fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}

fn split_numbers(word: &[u8], separator: char) -> Option<(u64, u64)> {
    let (one, other) = str::from_utf8(word).ok()?.split_once(separator)?;
    Some((hex(one)?, hex(other)?))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel writes a line end in a path as `\012`, and nothing else so.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                out.push(b'\n');
                rest = after;
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Sleeper, TempDir};
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn lines() {
        let text = b"\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 77                         /bin/a b
55d0c0001000-55d0c0003000 r-xp 00001000 fe:01 77                         /bin/a b
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
55d0c1021000-55d0c1022000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 r-xp 00000000 fe:01 78                         /lib/new\\012line\xff.so (deleted)
7f0000002000-7f0000003000 r-xp 00005000 fe:01 77                         /bin/a b
7f0000004000-7f0000005000 rw-p 00000000 fe:01 79                         /data
7fff00000000-7fff00001000 r-xp 00000000 00:00 0                          [vdso]
garbage
1-0 r-xp 0 0:0 5 /backwards
";
        let found = parse(&text[..]).unwrap();
        assert_eq!(found.heap_end, Some(0x55d0_c102_2000));
        assert!(!found.truncated);
        assert_eq!(found.files.len(), 2);
        let own = &found.files[0];
        assert_eq!(
            (own.path.as_path(), own.dev, own.ino, own.deleted),
            (Path::new("/bin/a b"), libc::makedev(0xfe, 1), 77, false)
        );
        assert_eq!(own.executable.len(), 2);
        let first = ExecutableRange { start: 0x55d0_c000_1000, end: 0x55d0_c000_3000, file_offset: 0x1000 };
        assert_eq!(own.executable[0], first);
        let library = &found.files[1];
        assert!(library.deleted);
        assert_eq!(library.path.as_os_str().as_encoded_bytes(), b"/lib/new\nline\xff.so");
    }

    #[test]
    fn bounds() {
        let line = |i: u64| format!("{:x}-{:x} r-xp 0 0:1 {} /f\n", i * 4096, (i + 1) * 4096, i + 1);
        let many: String = (0..MAX_FILES as u64 + 1).map(line).collect();
        let found = parse(many.as_bytes()).unwrap();
        assert_eq!((found.files.len(), found.truncated), (MAX_FILES, true));
        let same = "1000-2000 r-xp 0 0:1 7 /f\n";
        assert!(!parse(same.repeat(MAX_LINES).as_bytes()).unwrap().truncated);
        assert!(parse(same.repeat(MAX_LINES + 1).as_bytes()).unwrap().truncated);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes[..]).unwrap();
            parse_line(&bytes);
            unescape(&bytes);
        }
    }

    #[test]
    fn own_mappings() {
        let pid = std::process::id();
        let own = std::env::current_exe().unwrap();
        let files = mapped_files(pid).unwrap();
        let mapped = files.iter().find(|file| file.path == own).unwrap();
        let here = own_mappings as *const () as u64;
        assert!(mapped.executable.iter().any(|range| (range.start..range.end).contains(&here)));
        let opened = open_mapped(pid, mapped).unwrap();
        assert_eq!(opened.ino, own.metadata().unwrap().ino());
        assert!(heap_end(pid).unwrap().is_some_and(|end| end % 4096 == 0));
    }

    #[test]
    fn a_file_is_opened_by_its_path_only_if_it_is_the_same() {
        let pid = std::process::id();
        let own = std::env::current_exe().unwrap();
        let files = mapped_files(pid).unwrap();
        let mut mapped = files.into_iter().find(|file| file.path == own).unwrap();
        let opened = open_by_path(pid, &mapped).unwrap();
        assert!(opened.proc_path.starts_with("/proc") && opened.path == own);
        mapped.ino += 1;
        assert!(open_by_path(pid, &mapped).is_none());
    }

    #[test]
    fn a_deleted_file_is_opened_or_told_gone() {
        let dir = TempDir::new();
        let path = dir.path.join("nap");
        let sleeper = Sleeper::start_copy(&path);
        let ino = path.metadata().unwrap().ino();
        std::fs::remove_file(&path).unwrap();
        let files = mapped_files(sleeper.pid()).unwrap();
        let mapped = files.iter().find(|file| file.path == path).unwrap();
        assert!(mapped.deleted);
        match open_mapped(sleeper.pid(), mapped) {
            Ok(opened) => assert_eq!((opened.ino, opened.deleted), (ino, true)),
            Err(error) => assert!(matches!(error, TargetError::FileGone { .. })),
        }
    }
}
