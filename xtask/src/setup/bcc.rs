//! bcc's funclatency and memleak, and kernel headers for them, under `tools/bcc`: unpacked, not installed.
//!
//! bcc compiles its programs against kernel headers when it starts. Those of the running kernel are often
//! not to be had; for uprobes, which touch no structure of the kernel but the registers, those of
//! Debian's own kernel do. They come as two trees, which are laid over each other.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// bcc, the other peer of the benchmark.
pub struct Bcc;

const LIMIT: Duration = Duration::from_secs(120);
/// Its library comes with bpftrace, which needs it too.
const PACKAGES: [&str; 2] = ["bpfcc-tools", "python3-bpfcc"];
/// Debian's package that depends on the newest headers for amd64.
const NEWEST_HEADERS: &str = "linux-headers-amd64";

impl Item for Bcc {
    fn name(&self) -> String {
        "bcc".into()
    }

    fn present(&self) -> Option<String> {
        let place = run::tools_dir().ok()?.join("bcc");
        if !place.join("kernel/include/generated").is_dir() || !place.join("usr/sbin/memleak-bpfcc").is_file()
        {
            return None;
        }
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", place.join("usr/lib/python3/dist-packages"));
        run::prints(python.args(["-c", "import bcc; print(bcc.__version__)"]))
    }

    fn install(&self) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("it is set up on x86_64 only");
        }
        let work = WorkFolder::new("bcc")?;
        let by_hand = "the comparison with bcc needs Debian's packages";
        let headers = newest_headers()?;
        let common = headers.strip_suffix("-amd64").context("unexpected name")?.to_owned() + "-common";
        let packages: Vec<&str> = PACKAGES.into_iter().chain([headers.as_str(), common.as_str()]).collect();
        debian::unpack(&packages, &work.0, by_hand)?;
        lay_over(&work.0, &[&common, &headers])?;
        replace(&work.0, &run::tools_dir()?.join("bcc"))
    }
}

/// The package's name, such as `linux-headers-6.1.0-56-amd64`.
fn newest_headers() -> Result<String> {
    let depends = run::prints(Command::new("apt-cache").args(["depends", NEWEST_HEADERS]));
    let depends = depends.context("apt-cache knows no kernel headers")?;
    let mut words = depends.split_whitespace().filter(|word| word.starts_with("linux-headers-"));
    let found = words.find(|word| *word != NEWEST_HEADERS).context("apt-cache names no kernel headers")?;
    Ok(found.to_owned())
}

/// Copies the trees into one, `kernel`, and drops them.
fn lay_over(work: &Path, trees: &[&str]) -> Result<()> {
    for tree in trees {
        let from = work.join("usr/src").join(tree).join(".");
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg(from).arg(work.join("kernel"));
        std::fs::create_dir_all(work.join("kernel")).context("cannot make a folder for the headers")?;
        run::logged(&mut copy, &run::tools_dir()?.join("log/headers"), LIMIT)?;
    }
    std::fs::remove_dir_all(work.join("usr/src")).context("cannot remove the trees")
}
