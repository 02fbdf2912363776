//! The pools of this process into what the end of a thread and a fork must tell them.

use super::lock::Lock;

/// What a pool is told. No user code may run in it.
pub(super) trait Told {
    /// The thread of this number ends; called by it.
    fn leave(&self, number: usize);
    /// A fork is about to happen: nobody may be at work under the pool's lock.
    fn before_fork(&self);
    /// The fork has happened.
    fn after_fork(&self, child: bool);
}

/// A pool's store, for as long as it is entered here.
#[derive(Clone, Copy)]
struct Entry {
    store: *const (),
    leave: unsafe fn(*const (), usize),
    before_fork: unsafe fn(*const ()),
    after_fork: unsafe fn(*const (), bool),
}

// SAFETY: what is behind the pointer is Sync, as `enter` wants it.
unsafe impl Send for Entry {}

static ROSTER: Lock<Vec<Entry>> = Lock::new(Vec::new());

/// Enters a store.
///
/// # Safety
///
/// It stays where it is and alive until [`strike`].
pub(super) unsafe fn enter<S: Told + Sync>(store: &S) {
    fork::watch();
    ROSTER.lock().push(Entry {
        store: std::ptr::from_ref(store).cast(),
        // SAFETY: the pointer is that of an S, alive while its entry is there.
        leave: |store, number| unsafe { (*store.cast::<S>()).leave(number) },
        // SAFETY: as above.
        before_fork: |store| unsafe { (*store.cast::<S>()).before_fork() },
        // SAFETY: as above.
        after_fork: |store, child| unsafe { (*store.cast::<S>()).after_fork(child) },
    });
}

/// Strikes a store; nobody uses it by its entry after this.
pub(super) fn strike<S>(store: &S) {
    let store = std::ptr::from_ref(store).cast();
    ROSTER.lock().retain(|entry| entry.store != store);
}

/// Tells all pools that the thread of this number, which is this one, ends.
pub(super) fn leave(number: usize) {
    for entry in ROSTER.lock().iter() {
        // SAFETY: the store is alive, as it is entered.
        unsafe { (entry.leave)(entry.store, number) };
    }
}

/// A fork copies locks as they are: all are taken before it, so that the child finds none taken by a thread that it
/// does not have.
#[cfg(not(any(miri, loom)))]
mod fork {
    use super::super::thread;
    use super::ROSTER;
    use std::sync::Once;

    static WATCH: Once = Once::new();

    pub(super) fn watch() {
        WATCH.call_once(|| {
            // SAFETY: three functions that stay; failure means that there was no memory, and then a fork while
            // another thread holds a lock leaves it taken in the child.
            unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
        });
    }

    unsafe extern "C" fn before() {
        ROSTER.take();
        // SAFETY: the lock was just taken; the stores are alive, as they are entered.
        unsafe { (*ROSTER.value()).iter().for_each(|entry| (entry.before_fork)(entry.store)) };
        thread::before_fork();
    }

    unsafe extern "C" fn parent() {
        // SAFETY: `before` ran in this thread.
        unsafe { after(false) };
    }

    unsafe extern "C" fn child() {
        // SAFETY: `before` ran in the thread that this one is a copy of.
        unsafe { after(true) };
    }

    unsafe fn after(child: bool) {
        // SAFETY: `before` took the locks; the stores are alive, as they are entered.
        unsafe {
            thread::after_fork(child);
            (*ROSTER.value()).iter().for_each(|entry| (entry.after_fork)(entry.store, child));
            ROSTER.release();
        }
    }
}

/// Miri and loom know no fork.
#[cfg(any(miri, loom))]
mod fork {
    pub(super) fn watch() {}
}
