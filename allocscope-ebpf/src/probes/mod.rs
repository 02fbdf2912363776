//! One file for each thing probed. Each program is a thin entry and a `try_` function.

mod cause;
mod fault;
mod free;
mod go;
mod go_mark;
mod memory_call;
mod native;
mod otel;
mod process;
mod provider;
mod seccomp;
mod system_call;
