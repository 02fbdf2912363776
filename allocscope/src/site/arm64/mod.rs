//! AArch64 code bytes into probe sites. Pure as its neighbours are, and for reports only as long as the kernel
//! side reads the registers of x86-64.
//!
//! The kernel simulates branches, calls, returns, address computations and, since 6.13, NOP; it runs a copy of
//! most other instructions, and refuses some: see [`instruction::Instruction::step`]. So a plain return is
//! already the cheapest exit, and no instruction before it has to be proven to be as good.

pub mod entry;
pub mod function;
pub mod go;
pub mod instruction;
pub mod stack;
mod text;
