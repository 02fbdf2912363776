//! A family of allocations into the setting that keeps its memory, or that gives it huge pages: one file for each
//! allocator that has such settings.

mod glibc;
mod go;
mod jemalloc;
mod mimalloc;
mod tcmalloc;

use super::cycle::Cycles;
use crate::aggregate::Setting;
use allocscope_common::key::Allocator;

/// What keeps memory that is given back too early, and what that may cost.
pub struct Advice {
    /// The setting.
    pub setting: Setting,
    /// What may become worse, beside that more memory stays in use.
    pub risk: &'static str,
}

/// What keeps a family's memory.
pub fn keep(family: Allocator, cycles: &Cycles) -> Advice {
    match family {
        Allocator::Glibc => glibc::keep(cycles),
        Allocator::Jemalloc => jemalloc::keep(),
        Allocator::Mimalloc => mimalloc::keep(),
        Allocator::Tcmalloc => tcmalloc::keep(),
        Allocator::Go => go::keep(),
        Allocator::Musl => Advice {
            setting: in_words(
                "musl maps and unmaps every block of 128 KiB or more and has no setting for it: keep the buffer \
                 in the program, or link another malloc",
            ),
            risk: "another malloc changes memory use and behaviour of the whole program",
        },
        Allocator::Other => Advice {
            setting: in_words(
                "look among this allocator's settings for how long it keeps what was freed (decay, purge, trim), or keep \
                 the buffer in the program",
            ),
            risk: "memory stays in use for longer",
        },
        _ => Advice {
            setting: in_words(
                "the program maps this memory itself: keep the mapping and use it again, or take such buffers \
                 from malloc with its thresholds set",
            ),
            risk: "what is used again is not zero: a program that relies on fresh zeros must clear it",
        },
    }
}

/// What gives a family's memory huge pages.
pub fn huge_pages(family: Allocator) -> Setting {
    match family {
        Allocator::Glibc => glibc::huge_pages(),
        Allocator::Jemalloc => jemalloc::huge_pages(),
        Allocator::Mimalloc => mimalloc::huge_pages(),
        Allocator::Tcmalloc => tcmalloc::huge_pages(),
        Allocator::Go => go::huge_pages(),
        Allocator::Musl => in_words(
            "musl has no setting for it: madvise(MADV_HUGEPAGE) on the block, from its first address that is a \
             multiple of 2 MiB on",
        ),
        _ => in_words(
            "madvise(MADV_HUGEPAGE) on the mapping before its first touch, which \
             /sys/kernel/mm/transparent_hugepage/enabled must allow (madvise or always)",
        ),
    }
}

fn in_words(text: &str) -> Setting {
    Setting { environment: Vec::new(), text: text.to_owned() }
}
