//! Files of the kernel into readings of memory: the only part of this that does I/O.

use super::cgroup::{Folder, Version, folders};
use super::share::{Level, Levels};
use super::stall::Stall;
use super::text::{field, kibibytes, number};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file that are read at most; mountinfo of a host with thousands of containers fits.
const MAX_FILE: u64 = 4 << 20;

/// The machine and this process' cgroups, as the kernel's files tell of them.
#[derive(Clone, Debug)]
pub struct Host {
    proc: PathBuf,
    cgroups: Vec<Folder>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// The machine that this runs on, and the cgroups that this process is in now.
    pub fn new() -> Self {
        Self::below(Path::new("/"))
    }

    /// The same for files below a folder, as tests have them.
    pub fn below(root: &Path) -> Self {
        let proc = root.join("proc");
        let text = |name: &str| read(&proc.join(name)).unwrap_or_default();
        let placed = |folder: Folder| Folder { path: under(root, &folder.path), ..folder };
        let cgroups =
            folders(&text("self/cgroup"), &text("self/mountinfo")).into_iter().map(placed).collect();
        Self { proc, cgroups }
    }

    /// What is used of the machine's memory, and of each limit of a cgroup from this process' own up.
    pub fn memory(&self) -> Levels {
        let machine = read(&self.proc.join("meminfo")).and_then(|text| machine(&text));
        let levels: Vec<Level> = self.cgroups.iter().filter_map(limited).chain(machine).collect();
        if levels.is_empty() { Err("no file tells of memory") } else { Ok(levels) }
    }

    /// How long tasks wait for memory: those of this process' cgroup where the kernel tells, else all of the machine.
    pub fn stall(&self) -> Result<Stall, &'static str> {
        let own = self.cgroups.iter().find(|folder| folder.version == Version::V2);
        let own = own.and_then(|folder| stall_in(&folder.path.join("memory.pressure")));
        own.or_else(|| stall_in(&self.proc.join("pressure/memory")))
            .ok_or("the kernel has no pressure stalls")
    }
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A file's text up to the bound; `None` where it is not readable or no text.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn stall_in(path: &Path) -> Option<Stall> {
    Stall::parse(&read(path)?)
}

/// The machine's memory: what is not available is used.
fn machine(meminfo: &str) -> Option<Level> {
    let limit_bytes = kibibytes(meminfo, "MemTotal")?;
    let used_bytes = limit_bytes.saturating_sub(kibibytes(meminfo, "MemAvailable")?);
    Some(Level { used_bytes, limit_bytes })
}

/// A cgroup's limit, if it has one. File pages that were not used lately are the kernel's to take back.
fn limited(folder: &Folder) -> Option<Level> {
    let text = |name: &str| read(&folder.path.join(name));
    let bytes = |name: &str| text(name).and_then(|text| number(&text));
    let (limit, used, file) = match folder.version {
        Version::V1 => (bytes("memory.limit_in_bytes"), "memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => (lesser(bytes("memory.max"), bytes("memory.high")), "memory.current", "inactive_file"),
    };
    let (limit_bytes, used) = (limit.filter(|&limit| limit < NO_LIMIT)?, bytes(used)?);
    let file = text("memory.stat").and_then(|text| field(&text, file)).unwrap_or(0);
    Some(Level { used_bytes: used.saturating_sub(file), limit_bytes })
}

/// What version 1 says for no limit: `i64::MAX` rounded down to pages of up to 64 KiB.
const NO_LIMIT: u64 = (i64::MAX as u64) & !0xffff;

fn lesser(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A folder with files as a kernel would have them.
    struct Tree(PathBuf);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("pressure-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let tree = Self(std::env::temp_dir().join(name));
            files.iter().for_each(|(path, text)| tree.write(path, text));
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn host(&self) -> Host {
            Host::below(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n");
    const MACHINE: Level = Level { used_bytes: 600 << 10, limit_bytes: 1000 << 10 };

    #[test]
    fn version_2_is_read_up_the_tree() {
        let tree = Tree::new(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", "9 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("cg/a/b/memory.max", "max\n"),
            ("cg/a/b/memory.high", "700\n"),
            ("cg/a/b/memory.current", "650\n"),
            ("cg/a/b/memory.stat", "anon 1\ninactive_file 50\n"),
            ("cg/a/memory.max", "800\n"),
            ("cg/a/memory.high", "max\n"),
            ("cg/a/memory.current", "790\n"),
        ]);
        let level = |used_bytes, limit_bytes| Level { used_bytes, limit_bytes };
        assert_eq!(tree.host().memory(), Ok(vec![level(600, 700), level(790, 800), MACHINE]));
    }

    #[test]
    fn version_1_is_read_and_no_limit_is_none() {
        let tree = Tree::new(&[
            MEMINFO,
            ("proc/self/cgroup", "3:cpu:/\n4:memory:/a\n"),
            ("proc/self/mountinfo", "9 1 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n"),
            ("cg/memory/a/memory.limit_in_bytes", "500\n"),
            ("cg/memory/a/memory.usage_in_bytes", "400\n"),
            ("cg/memory/a/memory.stat", "inactive_file 9\ntotal_inactive_file 100\n"),
            ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cg/memory/memory.usage_in_bytes", "400\n"),
        ]);
        assert_eq!(tree.host().memory(), Ok(vec![Level { used_bytes: 300, limit_bytes: 500 }, MACHINE]));
    }

    #[test]
    fn files_that_lack_or_lie_are_no_readings() {
        assert_eq!(Tree::new(&[("proc/x", "")]).host().memory(), Err("no file tells of memory"));
        for meminfo in ["", "MemTotal: x kB", "MemTotal: 5 kB\n", "\u{0}", "MemAvailable: 5 kB"] {
            let tree = Tree::new(&[("proc/meminfo", meminfo)]);
            assert_eq!(tree.host().memory(), Err("no file tells of memory"), "{meminfo:?}");
        }
        let more_than_all = Tree::new(&[("proc/meminfo", "MemTotal: 5 kB\nMemAvailable: 9 kB\n")]);
        assert_eq!(more_than_all.host().memory(), Ok(vec![Level { used_bytes: 0, limit_bytes: 5 << 10 }]));
    }

    #[test]
    fn a_huge_file_is_read_up_to_a_bound() {
        let tree = Tree::new(&[("proc/meminfo", &"x".repeat(9 << 20))]);
        assert_eq!(read(&tree.0.join("proc/meminfo")).unwrap().len() as u64, MAX_FILE);
        assert!(tree.host().memory().is_err());
    }

    #[test]
    fn a_cgroups_own_stalls_come_first() {
        let machine = ("proc/pressure/memory", "some avg10=2.00 avg60=0 avg300=0 total=0\n");
        let cgroup = [
            ("proc/self/cgroup", "0::/a\n"),
            ("proc/self/mountinfo", "9 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n"),
        ];
        let tree = Tree::new(&[machine, cgroup[0], cgroup[1]]);
        let host = tree.host();
        assert_eq!(host.stall(), Ok(Stall { some: 0.02, full: None }));
        tree.write("cg/a/memory.pressure", "some avg10=50.00 avg60=0 avg300=0 total=0\n");
        assert_eq!(host.stall(), Ok(Stall { some: 0.5, full: None }));
        assert_eq!(Tree::new(&[cgroup[0]]).host().stall(), Err("the kernel has no pressure stalls"));
    }

    #[test]
    fn this_machine_tells_of_its_memory() {
        let levels = Host::new().memory().unwrap();
        let machine = levels.last().unwrap();
        assert!(0 < machine.used_bytes && machine.used_bytes < machine.limit_bytes, "{levels:?}");
    }
}
