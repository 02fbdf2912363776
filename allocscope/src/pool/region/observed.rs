//! What only the kernel can tell a test: signals, page faults, and a process without other tests.

use std::env;
use std::process::Command;

/// Says to a child which test it was started for.
const ALONE: &str = "ALLOCSCOPE_TEST_ALONE";

/// Runs a test, named by its path within the crate, in a process of its own: faults and pages are exact only where no
/// other test forks or allocates.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(ALONE).is_some_and(|name| name == test) {
        return body();
    }
    let mut child = Command::new(env::current_exe().unwrap());
    let output = child.args([test, "--exact"]).env(ALONE, test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Runs `act` in a forked child, which may only touch memory; the signal that ended it, 0 where none did.
pub(crate) fn signal_of(act: impl FnOnce()) -> i32 {
    // SAFETY: the child calls nothing that another thread of the parent could have locked.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        act();
        // SAFETY: leaves without what the parent wants done at exit.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for that child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }
}

/// The signal that a write to an address ends a child with.
pub(crate) fn signal_of_write(pointer: *mut u8) -> i32 {
    // SAFETY: the child's memory is a copy of its own; that the write may fault is what is asked.
    signal_of(|| unsafe { pointer.write_volatile(1) })
}

/// Page faults of the calling thread until now, of both kinds.
pub(crate) fn thread_faults() -> i64 {
    // SAFETY: all zero is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills it.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_minflt + usage.ru_majflt
}
