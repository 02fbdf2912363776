//! The pool where a sandbox refuses `membarrier`: from the beginning, and from some time on. The sandbox is real, of the
//! kernel's seccomp, in a process of its own.

use super::super::fence::Fences;
use super::*;
use crate::pool::region::observed::alone;
use std::mem::offset_of;

/// What a filter answers to a call of `membarrier` with any command but the one to register.
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

const fn error(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
}

/// Runs a test of this module alone.
fn exactly(test: &str, body: impl FnOnce()) {
    alone(&format!("pool::object::tests::refused::{test}"), body);
}

/// Has the kernel answer so to `membarrier`, for this thread and those that it begins.
fn refuse(register: u32, others: u32) {
    let load = |at: usize| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at as u32);
    let answer = |action: u32| statement(libc::BPF_RET | libc::BPF_K, action);
    // The lower half of the first argument, which is a number of 32 bits.
    let command = offset_of!(libc::seccomp_data, args) + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut filter = [
        load(offset_of!(libc::seccomp_data, nr)),
        unless_equal(libc::SYS_membarrier as u32, 4),
        load(command),
        unless_equal(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED.cast_unsigned(), 1),
        answer(register),
        answer(others),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (yes, no): (libc::c_ulong, libc::c_ulong) = (1, 0);
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the kernel reads the program and copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, no, no, no), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Skips so many instructions unless what was loaded is this number.
fn unless_equal(k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { jf: skip, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) }
}

/// What the kernel says to this process's wish to use `membarrier`.
fn asked() -> Result<(), Option<i32>> {
    let command = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    // SAFETY: the system call takes three numbers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error()) }
}

/// Two threads get, two others put what they are sent, and this one ticks and releases: each item is with one at a
/// time, and all are counted. Says how many were stolen.
fn pass_around((ledger, pool): (Ledger, Pool<Item>)) -> u64 {
    const ROUNDS: usize = 20_000;
    let held: Vec<AtomicBool> = (0..2 * ROUNDS).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (sender, receiver) = mpsc::sync_channel::<Pooled<'_, Item>>(8);
            let (pool, held) = (&pool, &held);
            let gets = move || {
                for _ in 0..ROUNDS {
                    let item = pool.get();
                    assert!(!held[item.number].swap(true, SeqCst), "an item is with two at once");
                    sender.send(item).expect("it is listened to");
                }
            };
            let puts = move || {
                for item in receiver {
                    assert!(held[item.number].swap(false, SeqCst), "an item came twice");
                    drop(item);
                }
            };
            scope.spawn(gets);
            scope.spawn(puts);
        }
        for _ in 0..ROUNDS / 20 {
            pool.tick();
            pool.release(1);
        }
    });
    let counters = pool.counters();
    assert_eq!((counters.gets, counters.returns, counters.ticks), (40_000, 40_000, 1000));
    check(&pool, &ledger, 0);
    assert!(pool.limits.max_idle.is_none_or(|most| counters.idle <= most as u64));
    drop(pool);
    assert_eq!(ledger.made(), ledger.dropped());
    counters.hits.stolen
}

fn wide() -> (Ledger, Pool<Item>) {
    let ledger = Ledger::default();
    let pool = ledger.pool().build();
    (ledger, pool)
}

fn narrow() -> (Ledger, Pool<Item>) {
    let ledger = Ledger::default();
    let pool = ledger.pool().max_idle(9).max_total(12).max_wait(Duration::from_millis(1)).build();
    (ledger, pool)
}

/// The first pool of the process finds `membarrier` refused with this error. Nobody asks for it again, or the process
/// is killed.
fn lives_with_full_fences(errno: i32) {
    refuse(error(errno), KILL);
    assert_eq!(asked(), Err(Some(errno)));
    let ledger = Ledger::default();
    let pool = ledger.pool().threads(MANY_SLOTS).build();
    assert_eq!(Fences::now(), Fences::Full);
    drop(pool.get());
    let slot = pool.slot().expect("this thread has one by now");
    assert!(slot.enter().is_none(), "the way without a fence is closed");
    assert!(pool.own_item(0).is_none());
    let item = pool.own_item_fenced(0).expect("it was just put there");
    drop(Guard::new(&pool, item));
    while_another_keeps(&pool, 3, || {
        pool.tick();
        pool.tick();
        assert_eq!((pool.counters().idle, ledger.dropped()), (0, 4), "a sleeping thread is visited");
    });
    drop(pool);
    assert!(pass_around(wide()) > 0);
    assert!(pass_around(narrow()) > 0);
    at_the_limit_an_item_that_another_thread_keeps_is_had();
    who_waits_gets_what_comes_back_or_runs_out_of_time();
}

#[test]
fn where_it_is_forbidden_both_sides_execute_a_fence() {
    exactly("where_it_is_forbidden_both_sides_execute_a_fence", || lives_with_full_fences(libc::EPERM));
}

#[test]
fn where_it_is_unknown_both_sides_execute_a_fence() {
    exactly("where_it_is_unknown_both_sides_execute_a_fence", || lives_with_full_fences(libc::ENOSYS));
}

/// Slots without fences are there when the sandbox closes: nobody visits them any more, and nothing is lost. Pools that
/// are built from now on have fences.
#[test]
fn where_it_is_forbidden_later_nobody_is_visited() {
    exactly("where_it_is_forbidden_later_nobody_is_visited", || {
        assert_eq!(Fences::now(), Fences::Asymmetric);
        let (earlier, narrow_and_earlier) = (wide(), narrow());
        let ledger = Ledger::default();
        let pool = ledger.pool().threads(MANY_SLOTS).build();
        while_another_keeps(&pool, 3, || {
            refuse(error(libc::EPERM), error(libc::EPERM));
            assert_eq!(asked(), Err(Some(libc::EPERM)));
            pool.tick();
            pool.tick();
            assert_eq!((pool.counters().idle, ledger.dropped()), (3, 0), "what it keeps does not age");
        });
        check(&pool, &ledger, 0);
        drop(pool);
        assert_eq!(ledger.dropped(), 3);
        assert!(pass_around(earlier) > 0);
        // Those who put may keep all rights to hold an item: then there is nothing to steal.
        pass_around(narrow_and_earlier);
        assert_eq!(Fences::now(), Fences::Full);
        assert!(pass_around(narrow()) > 0);
    });
}
