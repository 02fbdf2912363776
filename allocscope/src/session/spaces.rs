//! Traced processes into the files that their code comes from, held open so that names can be had when the process
//! is gone.

use super::examine::Examiner;
use super::file_bytes::FileBytes;
use crate::allocator::elf::Image;
use crate::intake::Stack;
use crate::symbol::{
    Mapped, Module, ModuleId, NO_MODULE, Names, Place, PlaceNames, UnwindTables, Unwinder, places,
};
use crate::target::{self, MappedFile};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Files that are held open.
const MAX_MODULES: usize = 1024;
/// Processes whose code is known.
const MAX_SPACES: usize = 1024;
/// A process that runs code of which nothing is known is looked at again, but not more often.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Looking up names takes no longer.
const NAMING: Duration = Duration::from_secs(20);

/// What traced processes have mapped.
#[derive(Default)]
pub struct Spaces {
    spaces: BTreeMap<u32, Space>,
    modules: Vec<ModuleFile>,
    numbers: HashMap<(u64, u64, PathBuf), ModuleId>,
}

struct Space {
    mapped: Vec<Mapped>,
    unwinder: Unwinder,
    looked: Instant,
}

/// A file with code.
struct ModuleFile {
    path: PathBuf,
    file: File,
    tables: UnwindTables,
    /// Where code lies: (offset in the file, address).
    segments: Vec<(u64, u64)>,
}

impl Spaces {
    /// Looks at what a process maps; what was known of it is replaced, unless it is gone.
    pub fn look(&mut self, pid: u32) {
        // One that has just ended maps nothing.
        let Some(files) = target::mapped_files(pid).ok().filter(|files| !files.is_empty()) else { return };
        let mut space = Space { mapped: Vec::new(), unwinder: Unwinder::default(), looked: Instant::now() };
        for file in &files {
            self.map(pid, file, &mut space);
        }
        space.mapped.sort_by_key(|mapped| mapped.range.start);
        if self.spaces.len() >= MAX_SPACES && !self.spaces.contains_key(&pid) {
            self.spaces.pop_first();
        }
        self.spaces.insert(pid, space);
    }

    fn map(&mut self, pid: u32, file: &MappedFile, space: &mut Space) {
        let Some(module) = self.module(pid, file) else { return };
        let Some(known) = self.modules.get(module as usize) else { return };
        for range in &file.executable {
            let Some(address) = known.address_of(range.file_offset) else { continue };
            let bias = range.start.wrapping_sub(address);
            space.unwinder.add(range.start..range.end, bias, &known.tables);
            space.mapped.push(Mapped { range: range.start..range.end, module, bias });
        }
    }

    fn module(&mut self, pid: u32, file: &MappedFile) -> Option<ModuleId> {
        let key = (file.dev, file.ino, file.path.clone());
        if let Some(&number) = self.numbers.get(&key) {
            return Some(number);
        }
        if self.modules.len() >= MAX_MODULES {
            return None;
        }
        let opened = target::open_mapped(pid, file).ok()?;
        let module = ModuleFile::read(opened.file, file)?;
        let number = ModuleId::try_from(self.modules.len()).ok()?;
        self.modules.push(module);
        self.numbers.insert(key, number);
        Some(number)
    }

    /// The places on a stack of a process, the innermost first.
    pub fn places(&mut self, pid: u32, stack: &Stack) -> Vec<Place> {
        let found = self.places_now(pid, stack);
        let is_known = found.first().is_none_or(|place| place.module != NO_MODULE) && found.len() > 1;
        let is_recent = self.spaces.get(&pid).is_some_and(|space| space.looked.elapsed() < LOOK_AGAIN);
        if is_known || is_recent {
            return found;
        }
        // A library that was mapped since.
        self.look(pid);
        self.places_now(pid, stack)
    }

    fn places_now(&mut self, pid: u32, stack: &Stack) -> Vec<Place> {
        let Some(space) = self.spaces.get_mut(&pid) else { return places(&[], counters(stack)) };
        match stack {
            Stack::Frames(frames) => places(&space.mapped, frames),
            Stack::Copy(copy) => places(&space.mapped, &space.unwinder.frames(copy)),
        }
    }

    /// The names of functions at places, the innermost first. What has none is told as `module+0xoffset`. The
    /// second value is false where there was no time for all.
    pub fn names(&self, wanted: &BTreeSet<Place>, examiner: &Examiner) -> (PlaceNames, bool) {
        let deadline = Instant::now() + NAMING;
        let mut named = PlaceNames::new();
        let mut by_module: BTreeMap<ModuleId, Vec<u64>> = BTreeMap::new();
        for place in wanted {
            by_module.entry(place.module).or_default().push(place.address);
        }
        for (&module, addresses) in &by_module {
            let known = self.modules.get(module as usize);
            let mut names = known.map(|known| known.names(addresses, examiner, deadline)).unwrap_or_default();
            for &address in addresses {
                let place = Place { module, address };
                let names = names.remove(&address).unwrap_or_else(|| vec![unnamed(known, address)]);
                named.insert(place, names);
            }
        }
        (named, Instant::now() < deadline)
    }

    /// The path of a module.
    pub fn path(&self, module: ModuleId) -> Option<&PathBuf> {
        self.modules.get(module as usize).map(|module| &module.path)
    }
}

/// What of a stack is known without its process.
fn counters(stack: &Stack) -> &[u64] {
    match stack {
        Stack::Frames(frames) => frames,
        Stack::Copy(copy) => std::slice::from_ref(&copy.ip),
    }
}

fn unnamed(module: Option<&ModuleFile>, address: u64) -> String {
    let Some(module) = module else { return format!("0x{address:x}") };
    let name = module.path.file_name().unwrap_or_default().to_string_lossy().replace(';', "?");
    format!("{name}+0x{address:x}")
}

impl ModuleFile {
    fn read(file: File, mapped: &MappedFile) -> Option<Self> {
        let bytes = FileBytes::of(&file).ok()?;
        let image = Image::parse(bytes).ok()?;
        let tables = UnwindTables::of(&image);
        let segments = mapped.executable.iter().filter_map(|range| {
            let address = image.address_of(range.file_offset)?;
            Some((range.file_offset, address))
        });
        Some(Self { path: mapped.path.clone(), tables, segments: segments.collect(), file })
    }

    /// The address of what lies at an offset that is mapped.
    fn address_of(&self, offset: u64) -> Option<u64> {
        let exact = self.segments.iter().find(|segment| segment.0 == offset).map(|segment| segment.1);
        exact.or_else(|| Image::parse(FileBytes::of(&self.file).ok()?).ok()?.address_of(offset))
    }

    fn names(&self, addresses: &[u64], examiner: &Examiner, deadline: Instant) -> Names {
        let Some(image) = FileBytes::of(&self.file).ok().and_then(|bytes| Image::parse(bytes).ok()) else {
            return Names::new();
        };
        let debug = image.build_id().and_then(|id| {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            Image::parse(examiner.debug_file(&hex)?).ok()
        });
        Module::new(&image, debug.as_ref()).names(addresses, || Instant::now() < deadline)
    }
}
