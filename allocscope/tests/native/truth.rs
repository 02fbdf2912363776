//! What a program was given, into what a report should count: one rule for each allocator.

use serde::Deserialize;
use std::collections::BTreeMap;

/// What a program of `tests/native` says of itself.
#[derive(Debug, Deserialize)]
pub struct Truth {
    pub pid: u64,
    /// How often it caught that there is no memory.
    #[serde(default)]
    pub caught: u64,
    pub calls: Vec<Call>,
}

/// Successful calls that have all but the last two in common.
#[derive(Debug, Deserialize)]
pub struct Call {
    pub function: String,
    /// Asked for, in bytes.
    pub size: u64,
    /// Asked for, in bytes, or 0.
    #[serde(default)]
    pub align: u64,
    /// Of `realloc`: asked for before, in bytes.
    #[serde(default)]
    pub old_size: u64,
    /// Of `realloc`: whether the block is at another place now.
    #[serde(default)]
    pub moved: bool,
    /// Of `realloc`: whether glibc had made a mapping for the block.
    #[serde(default)]
    pub from_mapping: bool,
    pub count: u64,
    /// Of all these blocks, by `malloc_usable_size`.
    #[serde(default)]
    pub usable_bytes: u64,
}

/// Calls and bytes by size class: the power of two below, in bytes.
pub type Classes = BTreeMap<u64, (u64, u64)>;

/// What is counted of an allocator.
#[derive(Clone, Copy)]
pub struct Rule {
    /// As the report calls it.
    pub allocator: &'static str,
    /// The smallest size, in bytes, from which on each call is counted: the flag `--min-size`.
    pub min_size: u64,
    /// More flags.
    pub flags: &'static str,
    /// Whether a `realloc` may count with the very size that was asked for as well.
    pub realloc_may_ask_again: bool,
    /// The bytes that a call counts with; `None` where it is not the allocator's large path.
    pub bytes: fn(&Call) -> Option<u64>,
}

/// From the default smallest size on. A `realloc` that finds no room in its heap asks another one, for what the
/// program asked for and not for a whole chunk.
pub const GLIBC: Rule = Rule {
    allocator: "glibc",
    min_size: 32_760,
    flags: "",
    realloc_may_ask_again: true,
    bytes: of_int_malloc,
};
/// What the thread cache may hold is below.
pub const JEMALLOC: Rule = Rule {
    allocator: "jemalloc",
    min_size: 32_769,
    flags: "",
    realloc_may_ask_again: false,
    bytes: of_large_palloc,
};
/// Of C programs, version 2.0.9.
pub const MIMALLOC_2_0: Rule = Rule {
    allocator: "mimalloc",
    min_size: 32_760,
    flags: "--allow-small-cost",
    realloc_may_ask_again: false,
    bytes: of_generic_2_0,
};
/// The same where nothing may slow small allocations down: at least malloc is seen.
pub const MIMALLOC_LARGE: Rule = Rule {
    allocator: "mimalloc",
    min_size: 32_760,
    flags: "",
    realloc_may_ask_again: false,
    bytes: |call| (call.function == "malloc").then_some(call.size),
};
/// Of Rust programs, version 2.3.
pub const MIMALLOC_2_3: Rule = Rule {
    allocator: "mimalloc",
    min_size: 32_760,
    flags: "--allow-small-cost",
    realloc_may_ask_again: false,
    bytes: of_generic_2_3,
};
/// Of Rust programs, version 3.
pub const MIMALLOC_3: Rule = Rule {
    allocator: "mimalloc",
    min_size: 32_760,
    flags: "--allow-small-cost",
    realloc_may_ask_again: false,
    bytes: of_generic_3,
};
/// Blocks of up to 256 KiB are cut from spans that the page heap is asked for as well.
pub const TCMALLOC: Rule = Rule {
    allocator: "tcmalloc",
    min_size: 262_145,
    flags: "",
    realloc_may_ask_again: false,
    bytes: of_page_heap,
};
/// No probe: its mappings are those of the program.
pub const MUSL: Rule = Rule {
    allocator: "mmap",
    min_size: MUSL_MAPPING,
    flags: "",
    realloc_may_ask_again: false,
    bytes: of_musl_mapping,
};
/// What the program itself maps.
pub const OWN_MAPPINGS: Rule =
    Rule { allocator: "mmap", min_size: 131_072, flags: "", realloc_may_ask_again: false, bytes: of_mapping };

/// `MMAP_THRESHOLD` of musl 1.2, src/malloc/mallocng/meta.h.
const MUSL_MAPPING: u64 = 131_052;

/// What the C++ runtime, which jemalloc brings along, allocates before a program starts: 72,704 bytes for
/// exceptions that are thrown when there is no memory.
pub fn reserve_of_cxx() -> Call {
    Call {
        function: "malloc".to_owned(),
        size: 72_704,
        align: 0,
        old_size: 0,
        moved: false,
        from_mapping: false,
        count: 1,
        usable_bytes: 81_920,
    }
}

/// Where every function of the family is probed: all of them, by what was asked for. What the C library allocates
/// for itself is smaller.
pub fn filtered(allocator: &'static str) -> Rule {
    let bytes = |call: &Call| (call.function != "mmap").then_some(call.size);
    Rule { allocator, min_size: 16_384, flags: "--allow-small-cost", realloc_may_ask_again: false, bytes }
}

/// What `frees.c` says of itself: the usable sizes of what it freed and of what `realloc` moved, and how often.
#[derive(Debug, Deserialize)]
pub struct Freed {
    pub pid: u64,
    pub freed: Vec<(u64, u64)>,
    pub moved: Vec<(u64, u64)>,
}

impl Freed {
    /// The line of JSON that a program printed.
    pub fn in_output(stdout: &str) -> Self {
        let line = stdout.lines().find(|line| line.starts_with("{\"pid\""));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no truth in:\n{stdout}"))).unwrap()
    }

    /// All releases, but for what was moved that has such a usable size.
    pub fn releases_but(&self, is_left_out: impl Fn(u64) -> bool) -> u64 {
        let moved = self.moved.iter().filter(|(usable, _)| !is_left_out(*usable));
        self.freed.iter().chain(moved).map(|(_, count)| count).sum()
    }

    /// Releases and bytes by class, of what is larger than `cached_bytes`.
    pub fn larger_than(&self, cached_bytes: u64) -> Classes {
        let mut classes = Classes::new();
        let released = self.freed.iter().chain(&self.moved);
        for &(usable, count) in released.filter(|(usable, _)| *usable > cached_bytes) {
            let (calls, bytes) = classes.entry(1 << usable.ilog2()).or_default();
            *calls += count;
            *bytes += count * usable;
        }
        classes
    }
}

impl Truth {
    /// The line of JSON that a program printed.
    pub fn in_output(stdout: &str) -> Self {
        let line = stdout.lines().find(|line| line.starts_with("{\"pid\""));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no truth in:\n{stdout}"))).unwrap()
    }

    /// Of a size class, the calls and bytes that may be counted in it or not: those of a `realloc` that may have
    /// asked for one size or another.
    pub fn open(&self, rule: Rule, class: u64) -> (u64, u64) {
        let may_differ = |call: &&Call| rule.realloc_may_ask_again && call.function == "realloc";
        let sizes = |call: &Call| (rule.bytes)(call).map(|bytes| [bytes, call.size]);
        let of_class = |bytes: &u64| 1 << bytes.ilog2() == class;
        let differing =
            self.calls.iter().filter(may_differ).filter_map(|call| Some((sizes(call)?, call.count)));
        let here = differing.filter(|(sizes, _)| sizes.iter().any(of_class));
        here.fold((0, 0), |(calls, bytes), (sizes, count)| {
            let moves = !sizes.iter().all(of_class);
            let off = if moves { sizes[0].max(sizes[1]) } else { sizes[0].abs_diff(sizes[1]) };
            (calls + if moves { count } else { 0 }, bytes + count * off)
        })
    }

    /// What a report should count by a rule.
    pub fn expected(&self, rule: Rule) -> Classes {
        let mut classes = Classes::new();
        for call in &self.calls {
            if let Some(bytes) = (rule.bytes)(call).filter(|bytes| *bytes >= rule.min_size) {
                let (calls, sum) = classes.entry(1 << bytes.ilog2()).or_default();
                *calls += call.count;
                *sum += call.count * bytes;
            }
        }
        classes
    }
}

/// Neither the program's own mapping nor a block that could stay where it is.
fn is_new_block(call: &Call) -> bool {
    call.function != "mmap" && (call.function != "realloc" || call.moved)
}

/// What `_int_malloc` is asked for, glibc malloc/malloc.c: the size, but `_int_realloc` asks for the most that
/// fits into a chunk of 16 bytes' multiple, and `_int_memalign` for a chunk that has an aligned one in it and
/// the smallest chunk before. A mapping is enlarged by `mremap`. A thread's heap may have no room: then it
/// gives nothing and is asked again for the main heap, and only what succeeds is the program's call.
fn of_int_malloc(call: &Call) -> Option<u64> {
    let chunk = (call.size + 8).next_multiple_of(16);
    if !is_new_block(call) || call.from_mapping {
        return None;
    }
    Some(match call.function.as_str() {
        "realloc" => chunk - 15,
        _ if call.align > 16 => chunk + call.align + 32,
        _ => call.size,
    })
}

/// What `large_palloc` makes: jemalloc rounds up before, to four classes for each power of two.
fn of_large_palloc(call: &Call) -> Option<u64> {
    let usable = call.usable_bytes / call.count;
    assert_eq!(usable * call.count, call.usable_bytes, "{call:?}");
    is_new_block(call).then_some(usable)
}

/// What `_mi_malloc_generic` is asked for, src/alloc-aligned.c: with room to align the block in it.
fn of_generic_2_0(call: &Call) -> Option<u64> {
    let room = if call.align > 16 { call.align - 1 } else { 0 };
    is_new_block(call).then_some(call.size + room)
}

/// Blocks of up to 64 KiB lie at multiples of their size, which it rounds as jemalloc does.
fn of_generic_2_3(call: &Call) -> Option<u64> {
    if call.size <= 65_536 { is_new_block(call).then_some(call.size) } else { of_generic_2_0(call) }
}

/// Large blocks lie at multiples of 4,096 and nothing else, and a Rust program aligns all of them. `realloc`
/// asks for no alignment of up to 8.
fn of_generic_3(call: &Call) -> Option<u64> {
    let room = if call.align == 4096 || call.function == "realloc" { 0 } else { call.align.max(1) - 1 };
    is_new_block(call).then_some(call.size + room)
}

/// Whole pages of 8 KiB, for all that is larger than its classes, src/common.h of gperftools.
fn of_page_heap(call: &Call) -> Option<u64> {
    (is_new_block(call) && call.size > 262_144).then(|| call.size.next_multiple_of(8192))
}

/// A block with its header of 4 bytes and the group's of 16, src/malloc/mallocng/malloc.c, and room to align it.
/// A block that is a mapping is enlarged by `mremap`.
fn of_musl_mapping(call: &Call) -> Option<u64> {
    if call.function == "mmap" {
        return Some(call.size);
    }
    let wanted = call.size + call.align.saturating_sub(16);
    (wanted >= MUSL_MAPPING && call.old_size < MUSL_MAPPING).then_some(wanted + 20)
}

fn of_mapping(call: &Call) -> Option<u64> {
    (call.function == "mmap").then_some(call.size)
}
