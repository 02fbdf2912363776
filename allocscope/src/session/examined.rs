//! A file that was examined before into what was found then, so that a program that is started again and
//! again is examined once.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, Hash, RandomState};
use std::os::unix::fs::MetadataExt;

/// How many examinations are remembered: about a kilobyte each.
const CAPACITY: usize = 256;

/// A file's content, as far as its inode tells: what changes one changes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileVersion {
    dev: u64,
    ino: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    fn new(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What was found in the files examined last, at most 256 of them.
pub struct Examined<V> {
    found: BTreeMap<(FileVersion, u64), Entry<V>>,
    /// Keyed anew in each run, so that nobody can make two keys meet.
    hasher: RandomState,
    clock: u64,
}

struct Entry<V> {
    value: V,
    used_at: u64,
}

impl<V> Default for Examined<V> {
    fn default() -> Self {
        Self { found: BTreeMap::new(), hasher: RandomState::new(), clock: 0 }
    }
}

impl<V: Clone> Examined<V> {
    /// What `examine` found in this version of `file` beside the same `others`, or finds now.
    ///
    /// # Errors
    /// Those of `examine`, which are not remembered.
    pub fn get_or_examine<E>(
        &mut self,
        file: &File,
        others: &(impl Hash + ?Sized),
        examine: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let Ok(metadata) = file.metadata() else { return examine() };
        let key = (FileVersion::new(&metadata), self.hasher.hash_one(others));
        self.clock += 1;
        if let Some(entry) = self.found.get_mut(&key) {
            entry.used_at = self.clock;
            return Ok(entry.value.clone());
        }
        let value = examine()?;
        self.make_room();
        self.found.insert(key, Entry { value: value.clone(), used_at: self.clock });
        Ok(value)
    }

    /// Forgets what was not used for longest.
    fn make_room(&mut self) {
        if self.found.len() < CAPACITY {
            return;
        }
        let oldest = self.found.iter().min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| *key);
        oldest.and_then(|key| self.found.remove(&key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::time::{Duration, SystemTime};

    fn tempfile() -> File {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_TMPFILE);
        options.open(std::env::temp_dir()).unwrap()
    }

    /// Whether it had to be looked at.
    fn looks(examined: &mut Examined<u32>, file: &File, others: &[&str]) -> bool {
        let mut looked = false;
        let found = examined.get_or_examine::<()>(file, others, || {
            looked = true;
            Ok(7)
        });
        assert_eq!(found, Ok(7));
        looked
    }

    #[test]
    fn the_same_file_is_examined_once() {
        let (one, other) = (tempfile(), tempfile());
        let mut examined = Examined::default();
        assert!(looks(&mut examined, &one, &[]));
        assert!(!looks(&mut examined, &one, &[]));
        assert!(!looks(&mut examined, &one.try_clone().unwrap(), &[]));
        assert!(looks(&mut examined, &other, &[]));
    }

    #[test]
    fn other_libraries_are_another_case() {
        let file = tempfile();
        let mut examined = Examined::default();
        assert!(looks(&mut examined, &file, &["libc.so.6"]));
        assert!(looks(&mut examined, &file, &["libc.so.6", "libjemalloc.so.2"]));
        assert!(!looks(&mut examined, &file, &["libc.so.6"]));
    }

    #[test]
    fn a_changed_file_is_examined_again() {
        let mut file = tempfile();
        let mut examined = Examined::default();
        assert!(looks(&mut examined, &file, &[]));
        file.write_all(b"more").unwrap();
        assert!(looks(&mut examined, &file, &[]));
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert!(looks(&mut examined, &file, &[]));
        assert!(!looks(&mut examined, &file, &[]));
    }

    #[test]
    fn errors_are_not_remembered() {
        let file = tempfile();
        let mut examined = Examined::<u32>::default();
        assert_eq!(examined.get_or_examine(&file, "", || Err("cut off")), Err("cut off"));
        assert_eq!(examined.get_or_examine::<()>(&file, "", || Ok(1)), Ok(1));
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let file = tempfile();
        let names: Vec<String> = (0..CAPACITY + 10).map(|index| index.to_string()).collect();
        let mut examined = Examined::default();
        for name in &names {
            assert!(looks(&mut examined, &file, &[name]));
            assert!(!looks(&mut examined, &file, &[&names[0]]));
        }
        assert_eq!(examined.found.len(), CAPACITY);
        assert!(looks(&mut examined, &file, &[&names[1]]));
        assert!(!looks(&mut examined, &file, &[&names[CAPACITY]]));
    }
}
