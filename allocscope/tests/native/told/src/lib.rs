//! Regions, chunks and values that are told of by the provider's probes: what the program did, as one line of JSON.

#[path = "../../../../src/pool/probe.rs"]
mod probe;

use std::fmt::Write as _;

const PAGE: usize = 4096;
/// Each thread makes one of each in a round.
const REGIONS: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Below what counts as large.
const SMALL: usize = 16 << 10;
/// Served by a mapping of the C library's own.
const VALUE: usize = 3 << 20;

/// What one probe has told.
#[derive(Clone, Copy, Default)]
struct Told {
    count: u64,
    heard: u64,
    bytes: u64,
}

/// What all of them have, in the order of their names below.
#[derive(Clone, Copy, Default)]
struct Truth {
    told: [Told; NAMES.len()],
    checksum: u64,
}

const NAMES: [&str; 7] =
    ["pool_miss", "pool_steal", "pool_evict", "arena_grow", "region_map", "region_release", "breaker"];

/// Runs `work`, which is told of by one of the probes with its size and the address that it returns.
macro_rules! told {
    ($truth:ident, $index:literal, $probe:ident, $size:expr, $work:expr) => {{
        let began = probe::$probe::begin();
        let address: usize = $work;
        probe::$probe::end(began, $size, address);
        let told = &mut $truth.told[$index];
        told.count += 1;
        told.heard += u64::from(began != 0);
        told.bytes += $size as u64;
        address
    }};
}

/// Address space with a guard page at both ends, of which what lies between can be used.
fn map(size: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, and the inner part of it.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), size + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        let inner = start.byte_add(PAGE);
        assert_eq!(libc::mprotect(inner, size, libc::PROT_READ | libc::PROT_WRITE), 0);
        libc::madvise(inner, size, libc::MADV_NOHUGEPAGE);
        inner as usize
    }
}

fn unmap(inner: usize, size: usize) -> usize {
    // SAFETY: all of a mapping that `map` made.
    assert_eq!(unsafe { libc::munmap((inner - PAGE) as *mut _, size + 2 * PAGE) }, 0);
    inner
}

/// Writes a byte into each page and reads it again.
fn touch(start: usize, size: usize) -> u64 {
    (start..start + size).step_by(PAGE).fold(0, |sum, page| {
        // SAFETY: within what the caller has got and nobody else knows.
        unsafe {
            (page as *mut u8).write_volatile((page - start >> 12) as u8);
            sum + u64::from((page as *const u8).read_volatile())
        }
    })
}

fn region(truth: &mut Truth, size: usize) {
    let inner = told!(truth, 4, region_map, size, map(size));
    // A part of the region: no other memory.
    told!(truth, 3, arena_grow, size / 2, inner + size / 2);
    truth.checksum += touch(inner, size);
    told!(truth, 5, region_release, size, unmap(inner, size));
}

/// One that the C library serves, whose own probes see it.
fn value(truth: &mut Truth) {
    // SAFETY: memory of its own, freed below.
    let value = told!(truth, 0, pool_miss, VALUE, unsafe { libc::malloc(VALUE) } as usize);
    truth.checksum += touch(value.next_multiple_of(PAGE), VALUE - PAGE);
    // SAFETY: as above.
    unsafe { libc::free(value as *mut _) };
}

fn round(truth: &mut Truth) {
    REGIONS.into_iter().for_each(|size| region(truth, size));
    region(truth, SMALL);
    value(truth);
    for size in [100, 200, 300] {
        told!(truth, 1, pool_steal, size, 0);
        told!(truth, 2, pool_evict, size, 0);
    }
    told!(truth, 6, breaker, 2, 0);
}

fn thread(rounds: u32) -> Truth {
    let mut truth = Truth::default();
    (0..rounds).for_each(|_| round(&mut truth));
    truth
}

/// Runs `threads` threads for `rounds` rounds each, and prints what they did.
#[unsafe(no_mangle)]
pub extern "C" fn told(threads: u32, rounds: u32) {
    let running: Vec<_> = (0..threads).map(|_| std::thread::spawn(move || thread(rounds))).collect();
    let mut truth = Truth::default();
    for part in running.into_iter().map(|thread| thread.join().unwrap()) {
        truth.checksum += part.checksum;
        for (sum, told) in truth.told.iter_mut().zip(part.told) {
            sum.count += told.count;
            sum.heard += told.heard;
            sum.bytes += told.bytes;
        }
    }
    println!("{}", json(&truth, threads * rounds));
}

/// The same on one thread of a child made by `fork`, which must come to its end; prints nothing.
pub fn tell_in_child(rounds: u32) {
    // SAFETY: this process has one thread by now.
    match unsafe { libc::fork() } {
        0 => {
            thread(rounds);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = -1;
            // SAFETY: waits for the process that was just made.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "the child's status");
        }
    }
}

fn json(truth: &Truth, rounds: u32) -> String {
    let mut text = format!(
        "{{\"pid\":{},\"rounds\":{rounds},\"checksum\":{},\"told\":{{",
        std::process::id(),
        truth.checksum
    );
    for (index, (name, told)) in NAMES.iter().zip(truth.told).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let Told { count, heard, bytes } = told;
        let _ = write!(text, "{comma}\"{name}\":{{\"count\":{count},\"heard\":{heard},\"bytes\":{bytes}}}");
    }
    text + "}}"
}
