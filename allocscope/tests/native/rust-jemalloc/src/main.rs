//! Rust's allocations by jemalloc.

#[path = "../../rounds.rs"]
mod rounds;

#[global_allocator]
static JEMALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // SAFETY: it is asked about blocks that jemalloc gave.
    rounds::main(|block| unsafe { tikv_jemallocator::usable_size(block) });
}
