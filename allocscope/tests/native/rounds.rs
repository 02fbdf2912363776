//! Allocations in every way of Rust, from several threads, into one line of JSON that says what was given.
//!
//! Usage: PROGRAM THREADS ROUNDS FROM [wait], as of `alloc.c`.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Mutex;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SIZES: [usize; 20] = [
    32_759,
    32_760,
    32 * KIB - 1,
    32 * KIB,
    32 * KIB + 1,
    40 * KIB,
    60 * KIB,
    128 * KIB - 1,
    128 * KIB,
    128 * KIB + 1,
    196 * KIB,
    256 * KIB,
    256 * KIB + 1,
    520 * KIB,
    MIB - 1,
    MIB,
    MIB + 1,
    3 * MIB,
    4 * MIB,
    4 * MIB + 1,
];
const SMALL_SIZES: [usize; 5] = [16, 200, 1000, 4000, 9000];
const SEED: usize = 600;
/// Blocks on their way from one thread to another.
const PASSED: usize = 64;

static PASSING: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// How much of an allocation can be used, as the allocator says.
pub type UsableSize = fn(*const u8) -> usize;

/// What calls have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    function: &'static str,
    size: usize,
    align: usize,
    old_size: usize,
    moved: bool,
}

/// Number of calls of each kind, and what their blocks hold.
type Table = BTreeMap<Kind, [usize; 2]>;

/// A block, given back when it is dropped.
struct Block {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: a block is nobody else's, and any thread may give it back.
unsafe impl Send for Block {}

impl Block {
    fn new(start: *mut u8, layout: Layout) -> Self {
        assert!(!start.is_null(), "no memory");
        // SAFETY: the block has at least one byte.
        unsafe { start.write_volatile(1) };
        Self { start: black_box(start), layout }
    }

    fn resize(&mut self, size: usize) -> bool {
        // SAFETY: the block was allocated with its layout, and the size is not 0.
        let start = unsafe { realloc(self.start, self.layout, size) };
        assert!(!start.is_null(), "no memory");
        let moved = start != self.start;
        self.start = black_box(start);
        self.layout = layout(size, self.layout.align());
        moved
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with its layout, and nobody has it any more.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A thread's counts, and its blocks of a round.
struct Worker {
    usable_size: UsableSize,
    table: Table,
    blocks: Vec<Block>,
}

impl Worker {
    fn rounds(usable_size: UsableSize, rounds: usize, from: usize) -> Table {
        let mut worker = Self { usable_size, table: Table::new(), blocks: Vec::new() };
        for _ in 0..rounds {
            for (n, size) in SIZES.into_iter().enumerate() {
                if size >= from {
                    worker.of_size(size);
                }
                worker.plain(SMALL_SIZES[n % SMALL_SIZES.len()], 1);
            }
            worker.grow(520 * KIB, MIB + 20 * KIB);
            worker.grow(3 * MIB, 6 * MIB);
            worker.release();
        }
        worker.table
    }

    fn of_size(&mut self, size: usize) {
        self.plain(size, 1);
        self.plain(size, 4096);
        self.zeroed(size);
        self.vector(size);
        self.grow(SEED, size);
        self.grow(size, size - 16);
    }

    fn plain(&mut self, size: usize, align: usize) {
        // SAFETY: the size is not 0.
        let block = Block::new(unsafe { alloc(layout(size, align)) }, layout(size, align));
        self.keep(Kind { function: "alloc", size, align, old_size: 0, moved: false }, block);
    }

    fn zeroed(&mut self, size: usize) {
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout(size, 8)) };
        let block = Block::new(start, layout(size, 8));
        self.keep(Kind { function: "alloc_zeroed", size, align: 8, old_size: 0, moved: false }, block);
    }

    /// What a vector allocates is the same as any block.
    fn vector(&mut self, size: usize) {
        let mut vector = std::mem::ManuallyDrop::new(Vec::<u8>::with_capacity(size));
        let block = Block::new(vector.as_mut_ptr(), layout(size, 1));
        self.keep(Kind { function: "alloc", size, align: 1, old_size: 0, moved: false }, block);
    }

    fn grow(&mut self, old_size: usize, size: usize) {
        self.plain(old_size, 8);
        let mut block = self.blocks.pop().expect("just kept");
        let moved = block.resize(size);
        self.keep(Kind { function: "realloc", size, align: 8, old_size, moved }, block);
    }

    fn keep(&mut self, kind: Kind, block: Block) {
        let counts = self.table.entry(kind).or_default();
        counts[0] += 1;
        counts[1] += (self.usable_size)(block.start);
        self.blocks.push(block);
    }

    /// Every other block goes through the hands of other threads.
    fn release(&mut self) {
        for (n, block) in self.blocks.drain(..).rev().enumerate() {
            if n % 2 == 0 {
                pass(block);
            }
        }
    }
}

fn pass(block: Block) {
    let mut passing = PASSING.lock().expect("no thread panics");
    passing.push(block);
    if passing.len() > PASSED {
        passing.swap_remove(0);
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a size and an alignment")
}

fn json(kind: &Kind, [count, usable_bytes]: [usize; 2]) -> String {
    let Kind { function, size, align, old_size, moved } = kind;
    format!(
        "{{\"function\":\"{function}\",\"size\":{size},\"align\":{align},\"old_size\":{old_size},\
         \"moved\":{moved},\"count\":{count},\"usable_bytes\":{usable_bytes}}}"
    )
}

/// Runs what the arguments say.
pub fn main(usable_size: UsableSize) {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |n: usize| arguments[n].parse::<usize>().expect("a number");
    let (threads, rounds, from) = (number(1), number(2), number(3));
    if arguments.len() > 4 {
        std::io::stdin().read_line(&mut String::new()).expect("a line");
    }
    let start = |_| std::thread::spawn(move || Worker::rounds(usable_size, rounds, from));
    let mut total = Table::new();
    for worker in (0..threads).map(start).collect::<Vec<_>>() {
        for (kind, [count, usable_bytes]) in worker.join().expect("no thread panics") {
            let counts = total.entry(kind).or_default();
            counts[0] += count;
            counts[1] += usable_bytes;
        }
    }
    // Row by row: all of it in one string would be a large allocation itself.
    print!("{{\"pid\":{},\"calls\":[", std::process::id());
    for (n, (kind, counts)) in total.iter().enumerate() {
        print!("{}{}", if n == 0 { "" } else { "," }, json(kind, *counts));
    }
    println!("]}}");
}
