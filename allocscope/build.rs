//! Builds the kernel side for the tracer; what goes without it (`pool`) needs nothing built.

#[cfg(feature = "tracer")]
#[path = "build/kernel_side.rs"]
mod kernel_side;
#[cfg(feature = "tracer")]
#[path = "build/toolchain.rs"]
mod toolchain;

#[cfg(feature = "tracer")]
fn main() {
    if let Err(error) = kernel_side::build() {
        // cargo shows this alone; a failing exit code would add all that was printed before.
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

#[cfg(not(feature = "tracer"))]
fn main() {}
