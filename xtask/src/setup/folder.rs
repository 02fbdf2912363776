//! Folders for tools: filled aside, then moved to their place whole.

use crate::run;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Moves a folder to where another one may be.
pub fn replace(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    if to.is_dir() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    fs::rename(from, to).with_context(|| format!("cannot make {}", to.display()))
}

/// A folder beside the tools, removed with all that is left in it.
pub struct WorkFolder(pub PathBuf);

impl WorkFolder {
    /// An empty folder of this process' own.
    pub fn new(name: &str) -> Result<Self> {
        let path = run::tools_dir()?.join(format!("work-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Go makes what it downloads read-only; whatever stays is in the target folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
