//! A process into the plans of the files that its memory comes from: its executable and its allocators'
//! libraries.

use crate::allocator::detect::{Allocator, library_kind};
use crate::allocator::{Examination, examine, examine_library};
use crate::site::{Miss, Plan};
use crate::target::{self, MappedFile, OpenedBinary, TargetError};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Executables larger than this are not examined, in bytes.
const MAX_BINARY_BYTES: u64 = 1 << 30;

/// Examines an executable that a process runs or, where `pid` is `None`, could run.
pub fn executable(
    pid: Option<u32>,
    opened: &OpenedBinary,
    debug_dirs: &[PathBuf],
) -> std::io::Result<Examination> {
    let bytes = read_all(&opened.file)?;
    let libraries = pid.map(mapped_names).unwrap_or_default();
    examine(&bytes, &libraries, |build_id| debug_file(build_id, debug_dirs)).map_err(std::io::Error::other)
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

/// Plans the probes of an allocator's library.
///
/// # Errors
/// A miss where it is unreadable.
pub fn library(opened: &OpenedBinary, kind: Allocator, debug_dirs: &[PathBuf]) -> Result<Plan, Miss> {
    let unreadable = |why: String| Miss {
        reason: "library_unreadable",
        detail: format!("{}: {why}", opened.path.display()),
    };
    let bytes = read_all(&opened.file).map_err(|error| unreadable(error.to_string()))?;
    examine_library(&bytes, kind, |build_id| debug_file(build_id, debug_dirs))
        .map_err(|error| unreadable(error.to_string()))
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

/// What a process runs and maps, the executable first.
///
/// # Errors
/// The outer one where the process is gone, the inner one where its executable is unreadable.
pub fn process(pid: u32, debug_dirs: &[PathBuf]) -> Result<std::io::Result<Vec<ExaminedFile>>, TargetError> {
    let opened = target::executable(pid)?;
    let found = match executable(Some(pid), &opened, debug_dirs) {
        Ok(found) => found,
        Err(error) => return Ok(Err(error)),
    };
    let is_go = found.kind == Allocator::Go;
    let mut files = vec![examined(opened.path, found)];
    let libraries = if is_go { Vec::new() } else { allocator_libraries(pid)? };
    for (kind, mapped) in libraries {
        let opened = target::open_mapped(pid, &mapped)?;
        let plan = library(&opened, kind, debug_dirs).unwrap_or_else(Plan::missed);
        let allocator = kind.to_string();
        files.push(ExaminedFile { path: opened.path, allocator, stripped: true, build_id: None, plan });
    }
    Ok(Ok(files))
}

/// An executable or a library that no process needs to run.
///
/// # Errors
/// Where it is unreadable.
pub fn file(path: &Path, debug_dirs: &[PathBuf]) -> std::io::Result<ExaminedFile> {
    let file = File::open(path)?;
    let bytes = read_all(&file)?;
    let found =
        examine(&bytes, &[], |build_id| debug_file(build_id, debug_dirs)).map_err(std::io::Error::other)?;
    let mut examined = examined(path.to_owned(), found);
    if let Some(kind) = library_kind(&path.to_string_lossy()) {
        examined.allocator = kind.to_string();
        examined.plan = examine_library(&bytes, kind, |build_id| debug_file(build_id, debug_dirs))
            .map_err(std::io::Error::other)?;
    }
    Ok(examined)
}

fn examined(path: PathBuf, found: Examination) -> ExaminedFile {
    let Examination { allocator, stripped, build_id, plan, .. } = found;
    ExaminedFile { path, allocator, stripped, build_id, plan }
}

/// The whole file, through the descriptor that the probes will go through as well.
pub fn read_all(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BINARY_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BINARY_BYTES {
        return Err(std::io::Error::other("larger than 1 GiB; not examined"));
    }
    Ok(bytes)
}

/// The separate debug file with this build-id, by the layout that debuggers use:
/// `DIR/.build-id/xx/rest.debug`.
fn debug_file(build_id: &str, dirs: &[PathBuf]) -> Option<Vec<u8>> {
    let (first, rest) = build_id.split_at_checked(2)?;
    let name = Path::new(".build-id").join(first).join(format!("{rest}.debug"));
    let file = dirs.iter().find_map(|dir| File::open(dir.join(&name)).ok())?;
    read_all(&file).ok()
}

fn mapped_names(pid: u32) -> Vec<String> {
    let files = target::mapped_files(pid).unwrap_or_default();
    files.iter().map(|mapped| mapped.path.display().to_string()).collect()
}
