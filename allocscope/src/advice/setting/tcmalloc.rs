//! tcmalloc's rate of giving memory back.

use super::Advice;
use crate::aggregate::Setting;

/// gperftools: never, by itself.
pub fn keep() -> Advice {
    let text = "for gperftools' tcmalloc, with TCMALLOC_AGGRESSIVE_DECOMMIT left at false; in Google's own, \
                MallocExtension::SetBackgroundReleaseRate(0)";
    Advice {
        setting: Setting {
            environment: vec![("TCMALLOC_RELEASE_RATE", "0".to_owned())],
            text: text.to_owned(),
        },
        risk: "no freed memory is given back any more, unless the program asks for it",
    }
}

/// By the system's setting only.
pub fn huge_pages() -> Setting {
    super::in_words(
        "gperftools' tcmalloc does not ask for huge pages: it gets them where \
         /sys/kernel/mm/transparent_hugepage/enabled says always; Google's own asks by itself",
    )
}
