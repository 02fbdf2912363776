//! Damaged binaries into examinations: whatever a file claims, nothing panics, takes long, takes much
//! memory or plans a probe outside the file's code.
//!
//! Real programs of each Go version and the C library are damaged where an examination looks: headers,
//! symbols, line tables, build information, notes, code. The damage is the same in every run.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

#[path = "native/programs.rs"]
mod programs;

use allocscope::allocator::detect::Allocator;
use allocscope::allocator::elf::ImageError;
use allocscope::allocator::native::Depth;
use allocscope::allocator::source::ByteSource;
use allocscope::allocator::{Request, examine, examine_library};
use allocscope::session::FileBytes;
use allocscope::site::Plan;
use allocscope_common::config::DEFAULT_MIN_SIZE;
use object::elf::{FileHeader64, SHT_NOBITS};
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{LittleEndian, U16, U32, U64, pod};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const VERSIONS: [&str; 4] = ["1.19", "1.22.10", "1.25.5", "1.27.3"];
/// Of Go 1.17, stripped: its line table and build information are of older kinds.
const RELEASED: &str = "esbuild-0.14.20/esbuild";
/// Of Go 1.20, with debug information, which takes a while to unpack in this build.
const NOT_STRIPPED: &str = "buildifier-6.3.3/buildifier";
const MUTANTS_OF_NOT_STRIPPED: u64 = 150;
const MUTANTS_OF_EACH: u64 = 400;
/// Of the images of a few kilobytes.
const MUTANTS_OF_SMALL: u64 = 3000;
/// Of the examination of one mutant, in this unoptimised build.
const MAX_CPU: Duration = Duration::from_secs(1);
const MAX_HEAP_BYTES: usize = 256 << 20;
/// Of a section's beginning: tables have their headers and first entries there.
const SECTION_HEAD_BYTES: u64 = 4096;

#[test]
fn mutants_of_go_programs() {
    let programs = VERSIONS.map(go_program).into_iter().chain([released_program(RELEASED)]);
    programs.for_each(|path| Seed::new(&path).survive_mutations(MUTANTS_OF_EACH));
    Seed::new(&released_program(NOT_STRIPPED)).survive_mutations(MUTANTS_OF_NOT_STRIPPED);
}

#[test]
fn mutants_of_go_programs_without_sections() {
    for path in [go_program("1.19"), go_program("1.25.5"), released_program(RELEASED)] {
        let mut seed = Seed::new(&path);
        seed.bytes[40..48].fill(0);
        seed.bytes[60..64].fill(0);
        assert_eq!(examine(&seed.bytes, &Request::default()).unwrap().plan.sites.len(), seed.sites);
        seed.survive_mutations(MUTANTS_OF_EACH);
    }
}

#[test]
fn mutants_of_small_images() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() >= 10, "{seeds:?}");
    seeds.iter().for_each(|path| Seed::new(path).survive_mutations(MUTANTS_OF_SMALL));
}

/// A small library of each allocator whose code is followed: most of it decides.
#[test]
fn mutants_of_small_allocators() {
    let kinds = [
        ("glibc", Allocator::Glibc, 1),
        ("jemalloc", Allocator::Jemalloc, 2),
        ("mimalloc", Allocator::Mimalloc, 2),
        ("tcmalloc", Allocator::Tcmalloc, 2),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/libraries");
    for (name, kind, sites) in kinds {
        let seed = Seed::of(&folder.join(name), Subject::Library(kind, Depth::LargePath));
        assert_eq!(seed.sites, sites, "{name}");
        seed.survive_mutations(MUTANTS_OF_SMALL);
    }
}

#[test]
fn mutants_of_libraries() {
    for name in ["libc.so.6", "ld-linux-x86-64.so.2"] {
        Seed::new(&mapped_library(name)).survive_mutations(MUTANTS_OF_EACH);
    }
}

/// Here code is followed from function to function.
#[test]
fn mutants_of_allocators() {
    let seeds = [
        (mapped_library("libc.so.6"), Allocator::Glibc),
        (unpacked_library("libjemalloc.so.2"), Allocator::Jemalloc),
        (unpacked_library("libmimalloc.so.2.0"), Allocator::Mimalloc),
        (unpacked_library("libtcmalloc_minimal.so.4"), Allocator::Tcmalloc),
    ];
    for (path, kind) in seeds {
        Seed::of(&path, Subject::Library(kind, Depth::LargePath)).survive_mutations(MUTANTS_OF_EACH);
        // Few mutants of glibc lose both ways to its malloc.
        let filtered = [0, DEFAULT_MIN_SIZE]
            .map(|min_bytes| Seed::of(&path, Subject::Library(kind, Depth::Filtered { min_bytes })));
        let [all, large] = filtered.each_ref().map(|seed| seed.outcomes(MUTANTS_OF_EACH));
        filtered[0].assert_of_each_kind(std::array::from_fn(|kind| all[kind] + large[kind]));
    }
}

/// Here an allocator's code is recognised, without any name.
#[test]
fn mutants_of_stripped_programs() {
    let programs = [
        (programs::static_alloc(), Allocator::Glibc, Depth::LargePath, 1),
        (programs::rust_jemalloc(), Allocator::Jemalloc, Depth::LargePath, 2),
        (programs::rust_mimalloc_3(), Allocator::Mimalloc, Depth::Filtered { min_bytes: 32_768 }, 1),
    ];
    for (path, kind, depth, sites) in programs {
        let seed = Seed::of(&programs::stripped(&path), Subject::Library(kind, depth));
        assert_eq!(seed.sites, sites, "{}", seed.name);
        seed.survive_mutations(MUTANTS_OF_EACH);
    }
}

/// As set-up unpacked it.
fn unpacked_library(name: &str) -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tools =
        std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(|| tmp.with_file_name("tools"), PathBuf::from);
    let folder = tools.join("allocators/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    folder.join(name)
}

/// What a file is taken for.
#[derive(Clone, Copy)]
enum Subject {
    Executable,
    Library(Allocator, Depth),
}

impl Subject {
    fn plan(self, file: impl ByteSource) -> Result<Plan, ImageError> {
        match self {
            Self::Executable => examine(file, &Request::default()).map(|found| found.plan),
            Self::Library(kind, depth) => {
                examine_library(file, kind, &Request { depth, ..Request::default() })
            }
        }
    }
}

#[test]
fn a_large_file_takes_little_memory() {
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    let (found, cost) = measured(|| examine(FileBytes::of(&file).unwrap(), &Request::default()).unwrap());
    assert_eq!((found.allocator.as_str(), found.stripped), ("glibc", false));
    let size = file.metadata().unwrap().len() as usize;
    assert!(size > 32 << 20 && cost.heap_bytes < 4 << 20, "{} of {size} bytes", cost.heap_bytes);
}

/// A real file and where its examination looks.
struct Seed {
    name: String,
    bytes: Vec<u8>,
    hot: Vec<Range<u64>>,
    sites: usize,
    subject: Subject,
}

impl Seed {
    fn new(path: &Path) -> Self {
        Self::of(path, Subject::Executable)
    }

    fn of(path: &Path, subject: Subject) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let plan = subject.plan(&bytes).unwrap();
        let mut hot = hot_ranges(&bytes);
        hot.extend(plan.file_offsets().map(|site| site.saturating_sub(64)..site + 64));
        hot.retain(|range| range.start < range.end && range.end <= bytes.len() as u64);
        Self { name: path.display().to_string(), bytes, hot, sites: plan.len(), subject }
    }

    fn survive_mutations(&self, count: u64) {
        self.assert_of_each_kind(self.outcomes(count));
    }

    /// How many mutants have a plan without a site, a plan with some, and none.
    fn outcomes(&self, count: u64) -> [u64; 3] {
        let mut outcomes = [0; 3];
        for number in 0..count {
            let mutant = Mutant::new(self, number);
            let (found, cost) =
                measured(|| catch_unwind(AssertUnwindSafe(|| self.subject.plan(mutant.view()))));
            let Ok(found) = found else { panic!("{}, mutant {number} panics", self.name) };
            assert!(cost.cpu < MAX_CPU, "{}, mutant {number}: {:?}", self.name, cost.cpu);
            assert!(cost.heap_bytes < MAX_HEAP_BYTES, "{}, mutant {number}: {}", self.name, cost.heap_bytes);
            match found {
                Ok(plan) => {
                    mutant.assert_sites_are_in_code(&plan, number);
                    outcomes[usize::from(!plan.is_empty())] += 1;
                }
                Err(_) => outcomes[2] += 1,
            }
        }
        outcomes
    }

    /// Else the damage would be too mild, or too coarse to get past the header.
    fn assert_of_each_kind(&self, outcomes: [u64; 3]) {
        assert!(outcomes[0] > 0 && outcomes[2] > 0, "{}: {outcomes:?}", self.name);
        assert_eq!(outcomes[1] > 0, self.sites > 0, "{}: {outcomes:?}", self.name);
    }
}

/// The file's headers, and the beginnings of its sections.
fn hot_ranges(bytes: &[u8]) -> Vec<Range<u64>> {
    let le = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(bytes).unwrap();
    let segments = header.e_phoff(le)..header.e_phoff(le) + u64::from(header.e_phnum(le)) * 56;
    let table = header.e_shoff(le)..header.e_shoff(le) + u64::from(header.e_shnum(le)) * 64;
    let sections = header.section_headers(le, bytes).unwrap();
    let heads = sections.iter().filter(|s| s.sh_type(le) != SHT_NOBITS).map(|section| {
        let start = section.sh_offset(le);
        start..start + section.sh_size(le).min(SECTION_HEAD_BYTES)
    });
    // Twice those that decide most.
    [0..64, 0..64, segments.clone(), segments, table.clone(), table].into_iter().chain(heads).collect()
}

/// A seed with a few changes.
struct Mutant {
    bytes: Vec<u8>,
    size: usize,
}

impl Mutant {
    fn new(seed: &Seed, number: u64) -> Self {
        let mut bytes = seed.bytes.clone();
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xd134_2543_de82_ef95));
        for _ in 0..=random.below(4) {
            let range = &seed.hot[random.below(seed.hot.len() as u64) as usize];
            damage(&mut bytes, range, &mut random);
        }
        let size = bytes.len() as u64;
        let size = match random.below(8) {
            0 => random.below(size + 1),
            1 => size - random.below(size.min(4096)),
            _ => size,
        };
        Self { bytes, size: size as usize }
    }

    fn view(&self) -> &[u8] {
        &self.bytes[..self.size]
    }

    /// By a reader of its own.
    fn assert_sites_are_in_code(&self, plan: &Plan, number: u64) {
        let file = self.view();
        let (table, count) = (number_at::<8>(file, 32), number_at::<2>(file, 56));
        for site in plan.file_offsets() {
            let is_in_code = (0..count).map(|index| (table + index * 56) as usize).any(|at| {
                let (offset, len) = (number_at::<8>(file, at + 8), number_at::<8>(file, at + 32));
                let is_code = number_at::<4>(file, at) == 1 && number_at::<4>(file, at + 4) & 1 != 0;
                is_code && (offset..offset + len).contains(&site)
            });
            assert!(is_in_code && site < file.len() as u64, "mutant {number}: {site:#x}");
        }
    }
}

fn number_at<const N: usize>(file: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&file[at..at + N]);
    u64::from_le_bytes(bytes)
}

/// One change in `range`: a field of some width takes a telling value, an entry takes that of another, or
/// a byte is flipped.
fn damage(bytes: &mut [u8], range: &Range<u64>, random: &mut Random) {
    let size = bytes.len() as u64;
    let len = range.end - range.start;
    let at = (range.start + random.below(len)) as usize;
    let field = (at & !7).min(bytes.len() - 8);
    match random.below(8) {
        0..4 => {
            let width = [8, 8, 4, 2][random.below(4) as usize];
            let value = random.telling_value(size).to_le_bytes();
            bytes[field..field + width].copy_from_slice(&value[..width]);
        }
        4 => {
            let value = random.telling_value(size).to_le_bytes();
            bytes[field + 4..field + 8].copy_from_slice(&value[..4]);
        }
        5 => {
            let entry = [8, 24, 56, 64][random.below(4) as usize].min(len) as usize;
            let from = (range.start + random.below(len - entry as u64 + 1)) as usize;
            let to = (range.start + random.below(len - entry as u64 + 1)) as usize;
            bytes.copy_within(from..from + entry, to);
        }
        _ => bytes[at] ^= 1 << random.below(8),
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// Bounds of types and of the file, and what lies near them.
    fn telling_value(&mut self, size: u64) -> u64 {
        let values = [
            0,
            1,
            7,
            64,
            0xffff,
            u32::MAX.into(),
            1 << 31,
            1 << 40,
            1 << 63,
            u64::MAX,
            u64::MAX - 4095,
            size,
        ];
        match self.below(4) {
            0 => self.below(size),
            1 => self.next(),
            _ => values[self.below(values.len() as u64) as usize].wrapping_add(self.below(3)).wrapping_sub(1),
        }
    }
}

/// As large as a file may be to be examined.
const CLAIMED_BYTES: u64 = 1 << 30;

/// A file that is what its few real bytes claim it to be; the rest is one pattern.
struct Claims {
    head: Vec<u8>,
    /// Many times the pattern, and the length of one.
    pattern: Vec<u8>,
    period: usize,
}

impl ByteSource for Claims {
    fn size(&self) -> u64 {
        CLAIMED_BYTES
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        if offset + buffer.len() as u64 > self.size() {
            return false;
        }
        let head = usize::try_from(offset).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        let len = head.len().min(buffer.len());
        buffer[..len].copy_from_slice(&head[..len]);
        let phase = (offset as usize + len) % self.period;
        let mut rest = &mut buffer[len..];
        while !rest.is_empty() {
            let step = rest.len().min(self.pattern.len() - phase) / self.period * self.period;
            let (now, later) = rest.split_at_mut(if step == 0 { rest.len() } else { step });
            now.copy_from_slice(&self.pattern[phase..phase + now.len()]);
            rest = later;
        }
        true
    }
}

/// An image whose only segment, data or code, and whose symbol tables and strings are all of the file.
fn all_of_it(segment_flags: u32, section_types: &[u32]) -> Vec<u8> {
    let le = LittleEndian;
    let sections_at = if section_types.is_empty() { 0 } else { 4096u64 };
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    head.extend(pod::bytes_of_slice(&[2, 62].map(|v| U16::new(le, v))));
    head.extend(pod::bytes_of(&U32::new(le, 1)));
    head.extend(pod::bytes_of_slice(&[0, 64, sections_at].map(|v| U64::new(le, v))));
    head.extend(pod::bytes_of(&U32::new(le, 0)));
    let counts = [64, 56, 1, 64, section_types.len() as u16, 0];
    head.extend(pod::bytes_of_slice(&counts.map(|v| U16::new(le, v))));
    head.extend(pod::bytes_of_slice(&[1, segment_flags].map(|v| U32::new(le, v))));
    head.extend(pod::bytes_of_slice(&[0, 0, 0, CLAIMED_BYTES, CLAIMED_BYTES, 4096].map(|v| U64::new(le, v))));
    head.resize(sections_at.max(128) as usize, 0);
    for &kind in section_types {
        head.extend(pod::bytes_of_slice(&[0, kind].map(|v| U32::new(le, v))));
        head.extend(pod::bytes_of_slice(&[0, 0, 0, CLAIMED_BYTES].map(|v| U64::new(le, v))));
        head.extend(pod::bytes_of_slice(&[0, 0].map(|v| U32::new(le, v))));
        head.extend(pod::bytes_of_slice(&[1, 0].map(|v| U64::new(le, v))));
    }
    head
}

const DATA: u32 = 6;
const CODE: u32 = 5;
const SYMTAB: u32 = 2;
const DYNSYM: u32 = 11;

#[test]
fn large_claims_are_bounded() {
    let line_table = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    let symbol = [&[0; 6][..], &[1, 0], &[0; 16]].concat();
    let build_information = b"\xff Go buildinf:\x08\x02";
    for (what, flags, sections, pattern) in [
        ("line tables everywhere", DATA, &[][..], &line_table[..]),
        ("build information everywhere", DATA, &[], build_information),
        ("names everywhere", CODE, &[SYMTAB, DYNSYM], b"mi_malloc\0"),
        ("symbols without names everywhere", CODE, &[SYMTAB, DYNSYM], &symbol),
    ] {
        let head = all_of_it(flags, sections);
        let claims = Claims { head, pattern: pattern.repeat(65_536), period: pattern.len() };
        let (found, cost) = measured(|| examine(claims, &Request::default()));
        println!("{what}: {:?} of CPU time, {} bytes", cost.cpu, cost.heap_bytes);
        assert!(found.unwrap().plan.sites.is_empty(), "{what}");
        assert!(cost.heap_bytes < 64 << 20, "{what}: {} bytes", cost.heap_bytes);
        // Not optimised, and most of it is the pattern: far from what it would take without bounds.
        assert!(cost.cpu < Duration::from_secs(20), "{what}: {:?}", cost.cpu);
    }
}

/// What an examination took of this thread.
struct Cost {
    cpu: Duration,
    heap_bytes: usize,
}

fn measured<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let held = HELD.get();
    PEAK.set(held);
    let start = cpu_time();
    let done = work();
    let cpu = cpu_time() - start;
    (done, Cost { cpu, heap_bytes: (PEAK.get() - held) as usize })
}

fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread holds, in bytes.
struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

fn count(change: isize) {
    HELD.set(HELD.get() + change);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn go_program(version: &str) -> PathBuf {
    set_up(&format!("go/{version}/bin/gofmt"))
}

fn released_program(path: &str) -> PathBuf {
    set_up(&format!("go-programs/{path}"))
}

/// What set-up fetched.
fn set_up(path: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let tools = std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(default, PathBuf::from);
    let program = tools.join(path);
    assert!(program.is_file(), "{} is missing: run `cargo xtask setup`", program.display());
    program
}

/// A library that this process runs on.
fn mapped_library(name: &str) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    paths.map(PathBuf::from).find(|path| path.ends_with(name)).unwrap()
}
