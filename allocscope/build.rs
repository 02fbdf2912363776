//! Builds the kernel side from source, for its own target.
fn main() {}
