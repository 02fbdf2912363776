//! Allocators to trace, under `tools/allocators`: unpacked, to be preloaded.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// jemalloc, mimalloc and tcmalloc as Debian has them.
pub struct Allocators;

const PACKAGES: [&str; 3] = ["libjemalloc2", "libmimalloc2.0", "libtcmalloc-minimal4"];
const LIBRARIES: [&str; 3] = ["libjemalloc.so.2", "libmimalloc.so.2.0", "libtcmalloc_minimal.so.4"];

/// Where a library is, by its file's name.
pub fn library(name: &str) -> Option<PathBuf> {
    let folders = run::tools_dir().ok()?.join("allocators/usr/lib").read_dir().ok()?;
    folders.flatten().map(|folder| folder.path().join(name)).find(|file| file.is_file())
}

impl Item for Allocators {
    fn name(&self) -> String {
        "allocators".into()
    }

    fn present(&self) -> Option<String> {
        LIBRARIES.iter().all(|name| library(name).is_some()).then(|| LIBRARIES.join(", "))
    }

    fn install(&self) -> Result<()> {
        let place = run::tools_dir()?.join("allocators");
        let work = WorkFolder::new("allocators")?;
        let by_hand = format!("put {} under {} by hand", LIBRARIES.join(", "), place.display());
        debian::unpack(&PACKAGES, &work.0, &by_hand)?;
        replace(&work.0, &place)?;
        match LIBRARIES.iter().find(|name| library(name).is_none()) {
            Some(name) => bail!("this system's packages have no {name}: {by_hand}"),
            None => Ok(()),
        }
    }
}
