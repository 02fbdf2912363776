//! ELF bytes into the allocators and runtimes in use and the functions of their large-object paths.

pub mod elf;
pub mod go;
