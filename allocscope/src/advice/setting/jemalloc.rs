//! jemalloc's decay: how long freed pages stay.
//!
//! Dirty pages are purged over `dirty_decay_ms` (10 s unless set), muzzy ones over `muzzy_decay_ms` (at once).
//! However long the decay, an extent is purged whole as soon as a part of it is due: of 16 MiB and 64 MiB blocks on
//! 5.3, each was gone within one allocation at 30 s and at 600 s, and none at -1 (never). Then requests above
//! `oversize_threshold` (8 MiB), whose arena purges at once, keep their pages as well: `arena_init_huge` takes the
//! decay away only where there is one.

use super::Advice;
use crate::aggregate::Setting;

/// No decay at all.
pub fn keep() -> Advice {
    let text = "a positive decay keeps small blocks only: of a large one the first due page takes the rest along; a \
                jemalloc that was built into the program with a prefix reads the variable with it, such as \
                _RJEM_MALLOC_CONF for Rust's; mallctl(\"arena.N.dirty_decay_ms\") sets it for one arena of a running \
                program";
    let conf = "dirty_decay_ms:-1,muzzy_decay_ms:-1".to_owned();
    let setting = Setting { environment: vec![("MALLOC_CONF", conf)], text: text.to_owned() };
    Advice {
        setting,
        risk: "no freed memory of any size is given back any more, unless the program purges it",
    }
}

/// `thp:always` (5.1).
pub fn huge_pages() -> Setting {
    Setting {
        environment: vec![("MALLOC_CONF", "thp:always".to_owned())],
        text: "jemalloc 5.1 or later; built with a prefix it reads the variable with it (_RJEM_MALLOC_CONF)"
            .to_owned(),
    }
}
