//! An open file into bytes that are read where they are needed.
//!
//! Never by a mapping: a mapped file that somebody cuts off kills whoever looks at the missing pages.

use crate::allocator::source::ByteSource;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Files larger than this are not examined, in bytes: it bounds how long one can take.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A file's bytes.
pub struct FileBytes {
    file: File,
    size: u64,
}

impl FileBytes {
    /// Through the descriptor that the file's probes will go through as well.
    ///
    /// # Errors
    /// What is no regular file, or larger than 1 GiB.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(io::Error::other("larger than 1 GiB; not examined"));
        }
        Ok(Self { file: file.try_clone()?, size: metadata.len() })
    }
}

impl ByteSource for FileBytes {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.file.read_exact_at(buffer, offset).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{Examination, Request, examine};
    use std::io::Write as _;

    fn examine_file(file: &File) -> io::Result<Examination> {
        examine(FileBytes::of(file)?, &Request::default()).map_err(io::Error::other)
    }

    fn own() -> std::path::PathBuf {
        std::env::current_exe().unwrap()
    }

    #[test]
    fn a_file_gives_what_its_bytes_give() {
        let bytes = std::fs::read(own()).unwrap();
        let of_file = examine_file(&File::open(own()).unwrap()).unwrap();
        assert_eq!(of_file, examine(&bytes, &Request::default()).unwrap());
        assert_eq!((of_file.allocator.as_str(), of_file.stripped), ("glibc", false));
    }

    #[test]
    fn a_file_that_is_cut_off_under_its_reader_is_an_error() {
        let mut file = tempfile();
        file.write_all(&std::fs::read(own()).unwrap()).unwrap();
        let bytes = FileBytes::of(&file).unwrap();
        file.set_len(4096).unwrap();
        assert_eq!(
            examine(bytes, &Request::default()).err(),
            Some(crate::allocator::elf::ImageError::Truncated)
        );
    }

    #[test]
    fn what_cannot_be_examined_says_why() {
        let error = |file: &File| examine_file(file).unwrap_err().to_string();
        let file = tempfile();
        assert_eq!(error(&file), "not an ELF file");
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert_eq!(error(&file), "larger than 1 GiB; not examined");
        assert_eq!(error(&File::open("/").unwrap()), "not a regular file");
    }

    /// A file without a name, which goes with its descriptor.
    fn tempfile() -> File {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_TMPFILE);
        options.open(std::env::temp_dir()).unwrap()
    }
}
