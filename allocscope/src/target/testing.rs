//! Real processes and folders for the tests of this module, gone when they are dropped.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A child that sleeps until it is dropped.
pub struct Sleeper {
    pub child: Child,
    _dir: Option<TempDir>,
}

impl Sleeper {
    pub fn start() -> Self {
        Self::start_program(Path::new("/bin/sleep"))
    }

    /// With this for its short name.
    pub fn start_as(comm: &[u8]) -> Self {
        let dir = TempDir::new();
        let mut sleeper = Self::start_copy(&dir.path.join(OsStr::from_bytes(comm)));
        sleeper._dir = Some(dir);
        sleeper
    }

    /// Copies the program there and starts the copy.
    pub fn start_copy(path: &Path) -> Self {
        std::fs::copy("/bin/sleep", path).unwrap();
        Self::start_program(path)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// After a kill: waits until the kernel has let go of everything but the entry.
    pub fn wait_until_zombie(&self) {
        let stat = || procfs::process::Process::new(self.pid() as i32).unwrap().stat().unwrap();
        while stat().state != 'Z' {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn start_program(path: &Path) -> Self {
        Self::start_if_executable(path).unwrap()
    }

    /// `None` if the kernel cannot run such a program. Another test's fork may hold a fresh copy open for writing for a moment.
    pub fn start_if_executable(path: &Path) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if path.starts_with(std::env::temp_dir()) {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        loop {
            match Command::new(path).arg("1000").spawn() {
                Ok(child) => {
                    let sleeper = Self { child, _dir: None };
                    sleeper.wait_until_loaded();
                    return Some(sleeper);
                }
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// `spawn` returns in the midst of exec: the name and the mappings come last.
    fn wait_until_loaded(&self) {
        while super::mapped_files(self.pid()).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A folder of one's own.
pub struct TempDir {
    pub path: PathBuf,
}

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("allocscope-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self { path: path.canonicalize().unwrap() }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}
