//! How often a program passes an instruction, and what was in a register then, by the kernel's own dynamic events
//! (`Documentation/trace/uprobetracer.rst`): no program of allocscope's takes part.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Of a CPU, in KiB: some ten thousand events.
const BUFFER_KIB: &str = "4096";

/// An event of a program's file, in a buffer of its own, until it is dropped.
pub struct Hits {
    name: String,
    /// Where tracefs is mounted for it, whether it is elsewhere too or not.
    tracefs: PathBuf,
}

impl Hits {
    /// Whoever runs `file` is counted at `offset` from now on, with what rbx holds.
    pub fn at(file: &Path, offset: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hits_{}_{number}", std::process::id());
        let tracefs = std::env::temp_dir().join(format!("allocscope-{name}"));
        fs::create_dir(&tracefs).unwrap();
        mount(Some("tracefs"), &tracefs, Some("tracefs"), MsFlags::empty(), None::<&str>).unwrap();
        let hits = Self { name, tracefs };
        hits.define(&format!("p:allocscope/{} {}:{offset:#x} rbx=%bx:u64", hits.name, file.display()))
            .unwrap();
        fs::create_dir(hits.instance()).unwrap();
        fs::write(hits.instance().join("buffer_size_kb"), BUFFER_KIB).unwrap();
        hits.switch("1").unwrap();
        hits
    }

    /// What rbx held each time. All of it: the kernel counts hits elsewhere too.
    pub fn values(&self) -> Vec<u64> {
        self.switch("0").unwrap();
        let trace = fs::read_to_string(self.instance().join("trace")).unwrap();
        let values = trace.lines().filter_map(|line| line.split_once(" rbx="));
        let values: Vec<u64> = values.map(|(_, value)| value.trim().parse().unwrap()).collect();
        assert_eq!(values.len(), self.counted(), "the buffer is too small");
        values
    }

    fn counted(&self) -> usize {
        let profile = fs::read_to_string(self.tracefs.join("uprobe_profile")).unwrap();
        let mut lines = profile.lines().map(|line| line.split_whitespace().skip(1));
        let mut words = lines.find(|words| words.clone().next() == Some(&self.name)).unwrap();
        words.nth(1).unwrap().parse().unwrap()
    }

    fn instance(&self) -> PathBuf {
        self.tracefs.join("instances").join(&self.name)
    }

    fn switch(&self, value: &str) -> io::Result<()> {
        fs::write(self.instance().join(format!("events/allocscope/{}/enable", self.name)), value)
    }

    /// Appended: written from the start, the file forgets the events of others.
    fn define(&self, line: &str) -> io::Result<()> {
        let mut events = OpenOptions::new().append(true).open(self.tracefs.join("uprobe_events"))?;
        events.write_all(format!("{line}\n").as_bytes())
    }
}

impl Drop for Hits {
    fn drop(&mut self) {
        self.switch("0").ok();
        fs::remove_dir(self.instance()).ok();
        self.define(&format!("-:allocscope/{}", self.name)).ok();
        umount2(&self.tracefs, MntFlags::MNT_DETACH).ok();
        fs::remove_dir(&self.tracefs).ok();
    }
}
