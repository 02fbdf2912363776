//! Other kernels to test on, and what starts them: QEMU, cpio, and under `tools` Debian's kernels and busybox.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// One kernel for each rung of attachment that the newest does not use: 6.1 has perf events only, 6.12 has
/// uprobe multi links.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Debian's newest kernel of a series, unpacked.
pub struct Kernel(pub &'static str);

/// The emulator.
pub struct Qemu;

/// What writes a kernel's first file system.
pub struct Cpio;

/// The programs of that file system. Unpacked only: installed, it would replace another busybox.
pub struct Busybox;

impl Item for Kernel {
    fn name(&self) -> String {
        format!("Linux {} to test on", self.0)
    }

    fn present(&self) -> Option<String> {
        let image = image(self.0).ok()?;
        Some(image.file_name()?.to_string_lossy().strip_prefix(IMAGE_PREFIX)?.to_owned())
    }

    fn install(&self) -> Result<()> {
        let place = place(self.0)?;
        let by_hand = format!("put a kernel's vmlinuz-VERSION into {} by hand", place.display());
        let package = debian::newest(&format!("linux-image-{}.", self.0), "-cloud-amd64", &by_hand)?;
        let work = WorkFolder::new(&format!("kernel-{}", self.0))?;
        debian::unpack(&[&package], &work.0, &by_hand)?;
        replace(&work.0.join("boot"), &place)
    }
}

const IMAGE_PREFIX: &str = "vmlinuz-";

fn place(series: &str) -> Result<PathBuf> {
    Ok(run::tools_dir()?.join("kernel").join(series))
}

/// A kernel's image.
pub fn image(series: &str) -> Result<PathBuf> {
    let missing = || format!("there is no Linux {series}: run `cargo xtask setup`");
    let files = fs::read_dir(place(series)?).with_context(missing)?.flatten();
    let is_image = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(IMAGE_PREFIX))
    };
    files.map(|entry| entry.path()).find(is_image).with_context(missing)
}

impl Item for Qemu {
    fn name(&self) -> String {
        "QEMU for x86-64".into()
    }

    fn present(&self) -> Option<String> {
        let said = run::prints(Command::new(QEMU).arg("--version"))?;
        Some(said.lines().next()?.to_owned())
    }

    fn install(&self) -> Result<()> {
        debian::install(&["qemu-system-x86"])
    }
}

/// The emulator's program.
pub const QEMU: &str = "qemu-system-x86_64";

impl Item for Cpio {
    fn name(&self) -> String {
        "cpio".into()
    }

    fn present(&self) -> Option<String> {
        let said = run::prints(Command::new("cpio").arg("--version"))?;
        Some(said.lines().next()?.to_owned())
    }

    fn install(&self) -> Result<()> {
        debian::install(&["cpio"])
    }
}

impl Item for Busybox {
    fn name(&self) -> String {
        "busybox, static".into()
    }

    fn present(&self) -> Option<String> {
        let said = run::prints(&mut Command::new(busybox().ok()?))?;
        Some(said.lines().next()?.to_owned())
    }

    fn install(&self) -> Result<()> {
        let place = run::tools_dir()?.join("busybox");
        let by_hand = format!("put a static busybox into {}/bin by hand", place.display());
        let work = WorkFolder::new("busybox")?;
        debian::unpack(&["busybox-static"], &work.0, &by_hand)?;
        // Debian before 13 has it in bin, later ones in usr/bin.
        let folder = ["bin", "usr/bin"].map(|name| work.0.join(name));
        let Some(folder) = folder.iter().find(|folder| folder.join("busybox").is_file()) else {
            bail!("this system's package has no busybox: {by_hand}");
        };
        replace(folder, &place.join("bin"))
    }
}

/// A busybox that needs no libraries.
pub fn busybox() -> Result<PathBuf> {
    Ok(run::tools_dir()?.join("busybox/bin/busybox"))
}
