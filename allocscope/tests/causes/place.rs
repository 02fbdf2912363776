//! What a test changes of the machine and takes back when it ends, failed or not: a memory cgroup, and swap.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A memory cgroup with a limit, in a mount of its own.
pub struct Cgroup {
    mount: PathBuf,
    group: PathBuf,
}

impl Cgroup {
    /// Of the memory controller's first version, or where that is not to be had of the second.
    pub fn new(limit_bytes: u64) -> Self {
        let point = scratch("cgroup");
        fs::create_dir_all(&point).unwrap();
        let none: Option<&str> = None;
        let is_first = mount(Some("none"), &point, Some("cgroup"), MsFlags::empty(), Some("memory")).is_ok();
        if !is_first {
            mount(Some("none"), &point, Some("cgroup2"), MsFlags::empty(), none).unwrap();
            fs::write(point.join("cgroup.subtree_control"), "+memory").unwrap();
        }
        let group = point.join(format!("allocscope-test-{}", std::process::id()));
        let cgroup = Self { mount: point, group };
        fs::create_dir(&cgroup.group).unwrap();
        let limit = if is_first { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(cgroup.group.join(limit), limit_bytes.to_string()).unwrap();
        cgroup
    }

    /// The list of its processes.
    pub fn procs(&self) -> PathBuf {
        self.group.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves a moment later.
        let start = Instant::now();
        while fs::remove_dir(&self.group).is_err() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        umount2(&self.mount, MntFlags::MNT_DETACH).ok();
        fs::remove_dir(&self.mount).ok();
    }
}

/// Swap in compressed memory, or where the kernel has no such device in a file.
pub struct Swap {
    area: PathBuf,
    device: Option<PathBuf>,
}

impl Swap {
    pub fn on(bytes: u64) -> Self {
        let device = free_zram();
        let area = match &device {
            Some(device) => {
                fs::write(device.join("disksize"), bytes.to_string()).unwrap();
                Path::new("/dev").join(device.file_name().unwrap())
            }
            None => file_of(bytes),
        };
        let swap = Self { area, device };
        run("mkswap", &swap.area);
        run("swapon", &swap.area);
        swap
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        Command::new("swapoff").arg(&self.area).output().ok();
        match &self.device {
            Some(device) => drop(fs::write(device.join("reset"), "1")),
            None => drop(fs::remove_file(&self.area)),
        }
    }
}

/// A device that nobody uses.
fn free_zram() -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path());
    let is_free = |device: &PathBuf| {
        fs::read_to_string(device.join("initstate")).is_ok_and(|state| state.trim() == "0")
    };
    devices.filter(|device| device.to_string_lossy().contains("zram")).find(is_free)
}

/// A swap file may have no holes.
fn file_of(bytes: u64) -> PathBuf {
    let path = scratch("swap");
    let file = fs::File::create(&path).unwrap();
    nix::fcntl::posix_fallocate(&file, 0, bytes as i64).unwrap();
    path
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

fn run(program: &str, area: &Path) {
    let said = Command::new(program).arg(area).output().unwrap();
    assert!(said.status.success(), "{program}: {}", String::from_utf8_lossy(&said.stderr));
}
