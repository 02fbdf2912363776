//! A process into the plans of the files that its memory comes from: its executable and its allocators'
//! libraries.

use super::file_bytes::FileBytes;
use crate::allocator::detect::{Allocator, is_other_library, library_kind};
use crate::allocator::native::Depth;
use crate::allocator::source::ByteSource;
use crate::allocator::{Examination, OtherLibrary, Request, examine, examine_library, examine_other};
use crate::site::{Miss, Plan};
use crate::target::{self, MappedFile, OpenedBinary, TargetError};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How files are examined.
#[derive(Clone, Debug, Default)]
pub struct Examiner {
    /// Folders of separate debug files.
    pub debug_dirs: Vec<PathBuf>,
    /// Which functions of native allocators are probed.
    pub depth: Depth,
    /// Whether Go's runtime is probed beside its large-object path.
    pub go_runtime: bool,
}

/// A file and where it is probed.
pub struct ExaminedFile {
    /// The file.
    pub path: PathBuf,
    /// The allocator or runtime, with a version where it is known.
    pub allocator: String,
    /// Whether it has no symbol table.
    pub stripped: bool,
    /// The GNU build-id in hexadecimal.
    pub build_id: Option<String>,
    /// Where it is probed.
    pub plan: Plan,
}

impl Examiner {
    /// Examines an executable beside the libraries that its process maps.
    ///
    /// # Errors
    /// Where it is unreadable.
    pub fn executable(&self, file: &File, libraries: &[String]) -> io::Result<Examination> {
        let debug_file = |build_id: &str| self.debug_file(build_id);
        let request =
            Request { libraries, debug_file: &debug_file, depth: self.depth, go_runtime: self.go_runtime };
        examine(FileBytes::of(file)?, &request).map_err(io::Error::other)
    }

    /// Plans the probes of an allocator's library.
    ///
    /// # Errors
    /// A miss where it is unreadable.
    pub fn library(&self, opened: &OpenedBinary, kind: Allocator) -> Result<Plan, Miss> {
        self.library_file(&opened.file, kind).map_err(|error| Miss {
            reason: "library_unreadable",
            detail: format!("{}: {error}", opened.path.display()),
        })
    }

    /// Plans the probes of a library whose name is not one of an allocator's.
    ///
    /// # Errors
    /// Where it is unreadable.
    pub fn other(&self, opened: &OpenedBinary) -> io::Result<OtherLibrary> {
        let request = Request { depth: self.depth, ..Request::default() };
        let mut found = examine_other(FileBytes::of(&opened.file)?, &request).map_err(io::Error::other)?;
        let name = opened.path.file_name().unwrap_or_default().to_string_lossy();
        for miss in &mut found.plan.misses {
            miss.detail = format!("{name}: {}", miss.detail);
        }
        Ok(found)
    }

    fn library_file(&self, file: &File, kind: Allocator) -> io::Result<Plan> {
        let debug_file = |build_id: &str| self.debug_file(build_id);
        let request = Request {
            libraries: &[],
            debug_file: &debug_file,
            depth: self.depth,
            go_runtime: self.go_runtime,
        };
        examine_library(FileBytes::of(file)?, kind, &request).map_err(io::Error::other)
    }

    /// What a process runs and maps, the executable first.
    ///
    /// # Errors
    /// The outer one where the process is gone, the inner one where its executable is unreadable.
    pub fn process(&self, pid: u32) -> Result<io::Result<Vec<ExaminedFile>>, TargetError> {
        let opened = target::executable(pid)?;
        let found = match self.executable(&opened.file, &mapped_names(pid)) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let is_go = found.kind == Allocator::Go;
        let mut files = vec![examined(opened.path, found)];
        let libraries = if is_go { Vec::new() } else { allocator_libraries(pid)? };
        for (kind, mapped) in libraries {
            let opened = target::open_mapped(pid, &mapped)?;
            let plan = self.library(&opened, kind).unwrap_or_else(Plan::missed);
            let allocator = kind.to_string();
            files.push(ExaminedFile { path: opened.path, allocator, stripped: true, build_id: None, plan });
        }
        if !is_go {
            let others = self.others(pid, &files)?;
            let other = Allocator::Other.to_string();
            if let Some(first) = files.first_mut()
                && others.iter().any(|file| file.allocator == other)
            {
                first.allocator = other;
            }
            files.extend(others);
        }
        Ok(Ok(files))
    }

    /// An executable or a library that no process needs to run.
    ///
    /// # Errors
    /// Where it is unreadable.
    pub fn file(&self, path: &Path) -> io::Result<ExaminedFile> {
        let file = File::open(path)?;
        let mut examined = examined(path.to_owned(), self.executable(&file, &[])?);
        if let Some(kind) = library_kind(&path.to_string_lossy()) {
            examined.allocator = kind.to_string();
            examined.plan = self.library_file(&file, kind)?;
        }
        Ok(examined)
    }

    /// Those of the other libraries that process `pid` maps which tell of their own memory or have a malloc, but for what
    /// is `known` already.
    fn others(&self, pid: u32, known: &[ExaminedFile]) -> Result<Vec<ExaminedFile>, TargetError> {
        let mut files = Vec::new();
        for mapped in other_libraries(pid)? {
            let Ok(opened) = target::open_mapped(pid, &mapped) else { continue };
            if known.iter().any(|file| file.path == opened.path) {
                continue;
            }
            let Ok(OtherLibrary { is_allocator, plan }) = self.other(&opened) else { continue };
            if !is_allocator && plan.provider.is_empty() {
                continue;
            }
            let is_sampled = plan.provider.iter().all(|site| site.id.event.is_sample());
            let allocator = match (is_allocator, is_sampled) {
                (true, _) => Allocator::Other.to_string(),
                (false, true) => "otel_memory".to_owned(),
                (false, false) => "pool".to_owned(),
            };
            files.push(ExaminedFile { path: opened.path, allocator, stripped: true, build_id: None, plan });
        }
        Ok(files)
    }

    /// The separate debug file with this build-id, by the layout that debuggers use:
    /// `DIR/.build-id/xx/rest.debug`.
    pub(super) fn debug_file(&self, build_id: &str) -> Option<Box<dyn ByteSource>> {
        let (first, rest) = build_id.split_at_checked(2)?;
        let name = Path::new(".build-id").join(first).join(format!("{rest}.debug"));
        let file = self.debug_dirs.iter().find_map(|dir| File::open(dir.join(&name)).ok())?;
        Some(Box::new(FileBytes::of(&file).ok()?))
    }
}

/// The libraries of allocators that process `pid` maps now, without their plans.
///
/// # Errors
/// Where the process is gone.
pub fn allocator_libraries(pid: u32) -> Result<Vec<(Allocator, MappedFile)>, TargetError> {
    let files = target::mapped_files(pid)?;
    let kind_of = |file: &MappedFile| library_kind(&file.path.to_string_lossy());
    Ok(files.into_iter().filter_map(|file| Some((kind_of(&file)?, file))).collect())
}

/// The other libraries that process `pid` maps now; its executable is among them.
///
/// # Errors
/// Where the process is gone.
pub fn other_libraries(pid: u32) -> Result<Vec<MappedFile>, TargetError> {
    let files = target::mapped_files(pid)?;
    Ok(files.into_iter().filter(|file| is_other_library(&file.path.to_string_lossy())).collect())
}

/// The paths of the files that a process maps; none where it is gone.
pub fn mapped_names(pid: u32) -> Vec<String> {
    let files = target::mapped_files(pid).unwrap_or_default();
    files.iter().map(|mapped| mapped.path.display().to_string()).collect()
}

fn examined(path: PathBuf, found: Examination) -> ExaminedFile {
    let Examination { allocator, stripped, build_id, plan, .. } = found;
    ExaminedFile { path, allocator, stripped, build_id, plan }
}
