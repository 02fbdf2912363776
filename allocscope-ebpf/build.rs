//! How the kernel side is linked.

fn main() {
    // Memory is set and copied by single stores. In the order that bpf-linker asks for, LLVM would call functions that
    // do it byte by byte: 50 ns for what a window counts.
    println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
    println!("cargo:rerun-if-changed=build.rs");
}
