//! First touches of a file's pages, which come from the disk if the page cache has let go of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use anyhow::Context;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use super::truth::{Faults, timed};
use super::{PAGE_BYTES, pages};
use crate::cli::workload::FileFaultsArgs;

/// What file-faults did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileFaultsTruth {
    workload: &'static str,
    pid: u32,
    dir: PathBuf,
    size_bytes: u64,
    /// Pages read from for the first time.
    pages_touched: u64,
    map_ns: u64,
    touch_ns: u64,
    unmap_ns: u64,
    /// While touching. Major ones are the pages that had to come from the disk; a file on tmpfs has none.
    faults: Faults,
}

/// Makes a file without a name, drops it from the page cache, maps it and reads a byte of each page.
pub fn run(args: &FileFaultsArgs) -> anyhow::Result<FileFaultsTruth> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let size_bytes = pages(args.size) * PAGE_BYTES;
    let file =
        cold_file(&dir, size_bytes).with_context(|| format!("cannot make a file in {}", dir.display()))?;
    let mut truth = FileFaultsTruth {
        workload: "file-faults",
        pid: std::process::id(),
        dir,
        size_bytes,
        ..Default::default()
    };
    let mapped = timed(&mut truth.map_ns, || MappedFile::new(&file, size_bytes))?;
    let before = Faults::so_far()?;
    truth.pages_touched = timed(&mut truth.touch_ns, || mapped.read_pages());
    truth.faults = Faults::so_far()? - before;
    timed(&mut truth.unmap_ns, || drop(mapped));
    Ok(truth)
}

/// Written, on the disk, and no longer in the page cache.
fn cold_file(dir: &Path, bytes: u64) -> io::Result<File> {
    let mut file = nameless_file(dir)?;
    let chunk = vec![0xa5; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(chunk.len() as u64);
        file.write_all(&chunk[..part as usize])?;
        left -= part;
    }
    file.sync_all()?;
    // Only clean pages are dropped, hence the sync.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(file)
}

/// A file that vanishes with its last user, whatever ends the program.
fn nameless_file(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir)
}

/// A file's read-only mapping.
struct MappedFile {
    start: NonNull<u8>,
    bytes: u64,
}

impl MappedFile {
    fn new(file: &File, bytes: u64) -> anyhow::Result<Self> {
        let size = usize::try_from(bytes)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), size, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map the file");
        }
        // Without read-ahead each page is a fault of its own. A kernel that refuses makes fewer, larger reads.
        // SAFETY: the range is the mapping made just now; this advice changes no contents.
        unsafe { libc::madvise(start, size, libc::MADV_RANDOM) };
        Ok(Self { start: NonNull::new(start.cast()).context("cannot map the file")?, bytes })
    }

    fn read_pages(&self) -> u64 {
        for page in 0..pages(self.bytes) {
            // SAFETY: the page is within the mapping, and the file, which nobody else can open, is that long.
            unsafe { self.start.as_ptr().add((page * PAGE_BYTES) as usize).read_volatile() };
        }
        pages(self.bytes)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and no reference into it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes as usize) };
    }
}
