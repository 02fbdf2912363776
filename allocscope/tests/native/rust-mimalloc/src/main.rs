//! Rust's allocations by mimalloc.

#[path = "../../rounds.rs"]
mod rounds;

#[global_allocator]
static MIMALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // SAFETY: it is asked about blocks that mimalloc gave.
    rounds::main(|block| unsafe { MIMALLOC.usable_size(block) });
}
