//! mimalloc's purging of freed memory.

use super::Advice;
use crate::aggregate::Setting;

/// Purging switched off: unlike a longer delay it also keeps the largest blocks.
pub fn keep() -> Advice {
    let text = "mimalloc 2.1 or later; MIMALLOC_PURGE_DELAY in milliseconds (10 unless set, 1000 from 3.0 on), -1 \
                for never; a delay of some seconds is the milder form";
    Advice {
        setting: Setting {
            environment: vec![("MIMALLOC_PURGE_DELAY", "-1".to_owned())],
            text: text.to_owned(),
        },
        risk: "no freed memory of any size is given back any more",
    }
}

/// Pages of 2 MiB from the system, huge by right or by advice.
pub fn huge_pages() -> Setting {
    Setting {
        environment: vec![("MIMALLOC_ALLOW_LARGE_OS_PAGES", "1".to_owned())],
        text: "mimalloc 2 or later (before: MIMALLOC_LARGE_OS_PAGES)".to_owned(),
    }
}
