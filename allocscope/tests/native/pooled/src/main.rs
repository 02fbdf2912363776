//! Regions and pools as programs use them, each in a number of rounds; what was done is printed as one line of JSON.
//!
//! `pooled ROUNDS`, as soon as a line is read.

use allocscope::pool::region::RegionOptions;
use allocscope::pool::{Pool, Region};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Written to, page by page, and read again.
fn touch(bytes: &mut [u8]) -> u64 {
    bytes.iter_mut().step_by(PAGE).enumerate().for_each(|(index, byte)| *byte = index as u8);
    bytes.iter().step_by(PAGE).map(|&byte| u64::from(byte)).sum()
}

fn region(bytes: usize) -> u64 {
    let mut region = Region::reserve(bytes, RegionOptions::default()).unwrap();
    region.commit(bytes).unwrap();
    // SAFETY: all of it is committed, and nobody else knows of it.
    touch(unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), bytes) })
}

fn main() {
    let rounds: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let checksum: u64 = (0..rounds).map(|_| region(4 * MIB) + region(16 * MIB)).sum();
    let pool = Pool::builder(|| [0u64; 16]).build();
    // All are out at the same time: none is given twice.
    let values: Vec<_> = (0..rounds).map(|_| pool.get()).collect();
    drop(values);
    let misses = pool.counters().misses;
    println!("{{\"pid\":{},\"rounds\":{rounds},\"checksum\":{checksum},\"misses\":{misses}}}", std::process::id());
}
