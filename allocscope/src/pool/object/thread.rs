//! Threads into small numbers, given back when a thread ends.

use super::lock::Lock;
use super::roster;
use std::cell::Cell;

/// This thread has no number yet.
const NONE: usize = usize::MAX;
/// This thread's number was given back: it is about to end.
const GONE: usize = usize::MAX - 1;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    static LEAVES: Leaves = const { Leaves };
}

/// Bit `n` of word `w`: number `64 * w + n` is in use.
static NUMBERS: Lock<Vec<u64>> = Lock::new(Vec::new());

/// Gives the number back when its thread's other destructors run.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        let number = NUMBER.replace(GONE);
        if number < GONE {
            roster::leave(number);
            give_back(&mut NUMBERS.lock(), number);
        }
    }
}

/// This thread's number; a huge one where it has none.
#[inline(always)]
pub(super) fn number() -> usize {
    NUMBER.get()
}

/// This thread's number, of now on; a huge one where the thread is about to end.
pub(super) fn enrol() -> usize {
    if NUMBER.get() == NONE {
        NUMBER.set(GONE);
        if LEAVES.try_with(|_| ()).is_ok() {
            NUMBER.set(lowest(&mut NUMBERS.lock()));
        }
    }
    NUMBER.get()
}

fn lowest(words: &mut Vec<u64>) -> usize {
    let at = words.iter().position(|word| *word != u64::MAX).unwrap_or_else(|| {
        words.push(0);
        words.len() - 1
    });
    let bit = words[at].trailing_ones();
    words[at] |= 1 << bit;
    at * 64 + bit as usize
}

fn give_back(words: &mut [u64], number: usize) {
    if let Some(word) = words.get_mut(number / 64) {
        *word &= !(1 << (number % 64));
    }
}

/// No number is given or taken until [`after_fork`].
pub(super) fn before_fork() {
    NUMBERS.take();
}

/// In a child only this thread is left: the numbers of all others are free.
///
/// # Safety
///
/// [`before_fork`] was called by this thread, or by the one it is a copy of.
pub(super) unsafe fn after_fork(child: bool) {
    // SAFETY: the lock is held by this thread, by the caller's word.
    unsafe {
        let words = &mut *NUMBERS.value();
        if child {
            words.fill(0);
            let mine = NUMBER.get();
            if let Some(word) = words.get_mut(mine / 64) {
                *word |= 1 << (mine % 64);
            }
        }
        NUMBERS.release();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_lowest_that_are_free() {
        let mut words = Vec::new();
        assert_eq!((0..130).map(|_| lowest(&mut words)).collect::<Vec<_>>(), (0..130).collect::<Vec<_>>());
        give_back(&mut words, 65);
        give_back(&mut words, 3);
        assert_eq!([lowest(&mut words), lowest(&mut words), lowest(&mut words)], [3, 65, 130]);
    }

    #[test]
    fn a_number_is_used_again_by_the_next_thread() {
        let first = std::thread::spawn(enrol).join().unwrap();
        assert!(first < GONE);
        assert_eq!(number(), number(), "asking gives none");
    }
}
