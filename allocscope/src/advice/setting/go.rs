//! Go's heap: what keeps the collector's scavenger from giving memory back that is needed again.

use super::Advice;
use crate::aggregate::Setting;

/// The buffer kept by the program, or pages that the kernel takes only when it needs them.
pub fn keep() -> Advice {
    let text = "best in the program: keep such a buffer and use it again (a field, a sync.Pool, an arena), so that \
                nothing is freed; GODEBUG=madvdontneed=0 lets freed pages stay until the machine needs them; a \
                larger GOGC frees less often, GOMEMLIMIT near the heap's size makes it worse";
    Advice {
        setting: Setting {
            environment: vec![("GODEBUG", "madvdontneed=0".to_owned())],
            text: text.to_owned(),
        },
        risk: "resident memory looks larger than it is (LazyFree in /proc/PID/smaps tells); limits that go by it \
               may strike",
    }
}

/// Go asks for none.
pub fn huge_pages() -> Setting {
    super::in_words(
        "Go 1.21.1 and later does not ask for huge pages for its heap: it gets them where \
         /sys/kernel/mm/transparent_hugepage/enabled says always; under madvise only memory from \
         syscall.Mmap with syscall.Madvise(..., MADV_HUGEPAGE) does; GOGC and GOMEMLIMIT change nothing about it",
    )
}
