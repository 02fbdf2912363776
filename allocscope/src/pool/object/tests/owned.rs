//! Guards that share their pool: where they may go, what keeps what alive, and what is counted on the way.

use super::*;
use crate::pool::{BufferPool, Fallback, OwnedPooledBuffer};

/// What may go into a task, a channel and a static.
fn goes_anywhere<T: Send + Sync + 'static>() {}

#[test]
fn owned_guards_go_anywhere() {
    goes_anywhere::<OwnedPooled<Item>>();
    goes_anywhere::<Pooled<'static, Item>>();
    goes_anywhere::<OwnedPooledBuffer>();
    goes_anywhere::<Fallback<Arc<Pool<Item>>, fn(()) -> Result<Item, ()>>>();
}

/// What owned guards write to is on no line that each get reads.
#[test]
fn the_count_of_guards_is_apart_from_the_pool() {
    assert_eq!((align_of::<Pool<Item>>(), align_of::<BufferPool>()), (128, 128));
}

#[test]
fn a_guard_keeps_its_pool() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().build());
    let mut guards = vec![pool.get_owned(), pool.get_owned()];
    drop(pool.get());
    assert_eq!(Arc::strong_count(&pool), 3);
    let weak = Arc::downgrade(&pool);
    drop(pool);
    guards.truncate(1);
    assert_eq!((weak.strong_count(), ledger.dropped()), (1, 0));
    drop(guards);
    assert_eq!((weak.strong_count(), ledger.made(), ledger.dropped()), (0, 3, 3));
}

#[test]
fn an_item_that_is_taken_outlives_its_pool() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().max_total(1).build());
    let taken = pool.get_owned().take();
    assert_eq!((pool.counters().takes, Arc::strong_count(&pool)), (1, 1));
    let last = pool.try_get_owned().expect("the taken one makes room");
    drop(pool);
    let last = last.take();
    assert_eq!((taken.number, last.number, ledger.dropped()), (0, 1, 0));
    drop([taken, last]);
    assert_eq!(ledger.dropped(), 2);
}

#[test]
fn who_gets_nothing_shares_nothing() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().max_total(1).build());
    let held = pool.get_owned();
    assert_eq!(pool.try_get_owned().err(), Some(PoolError::Exhausted));
    assert_eq!(Arc::strong_count(&pool), 2);
    drop(held);
    let pool = Arc::new(Pool::<Item>::builder(|| panic!("no memory")).build());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.get_owned()))).is_err());
    assert_eq!((Arc::strong_count(&pool), pool.counters().failures), (1, 1));
}

/// Items go from thread to thread, and come back where they are dropped.
#[test]
fn owned_items_come_back_from_other_threads() {
    let rounds = if cfg!(miri) { 20 } else { 5000 };
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().max_idle(40).reset(|item| item.bytes == 11).build());
    let (sender, receiver) = mpsc::sync_channel::<OwnedPooled<Item>>(30);
    let takes = thread::spawn(move || receiver.into_iter().map(|item| item.bytes).sum::<usize>());
    let gives = [Arc::clone(&pool), Arc::clone(&pool)].map(|pool| {
        let sender = sender.clone();
        thread::spawn(move || {
            for _ in 0..rounds {
                let mut item = pool.get_owned();
                item.bytes = 11;
                sender.send(item).unwrap();
            }
        })
    });
    drop(sender);
    gives.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(takes.join().unwrap(), 2 * rounds * 11);
    let counters = pool.counters();
    assert_eq!((counters.gets, counters.returns), (2 * rounds as u64, 2 * rounds as u64));
    assert_eq!((counters.drops.rejected, Arc::strong_count(&pool)), (0, 1));
    check(&pool, &ledger, 0);
    drop(pool);
    assert_eq!(ledger.made(), ledger.dropped());
}

#[test]
fn what_waits_in_a_channel_comes_back_with_it() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().build());
    let (sender, receiver) = mpsc::channel();
    (0..5).for_each(|_| sender.send(pool.get_owned()).unwrap());
    check(&pool, &ledger, 5);
    drop(receiver);
    check(&pool, &ledger, 0);
    assert_eq!((pool.counters().idle, Arc::strong_count(&pool)), (5, 1));
}

#[test]
fn a_panic_poisons_what_its_thread_owns() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().build());
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::clone(&pool);
    let panics = thread::spawn(move || {
        sender.send(shared.get_owned()).unwrap();
        let _held = shared.get_owned();
        panic!("while it is held");
    });
    assert!(panics.join().is_err());
    assert_eq!((pool.counters().drops.poisoned, ledger.dropped()), (1, 1));
    drop(receiver);
    assert_eq!((pool.counters().drops.all(), pool.counters().idle), (1, 1), "what was sent away is fine");
    assert_eq!(Arc::strong_count(&pool), 1);
}

#[test]
fn a_reset_that_panics_poisons_and_shares_no_more() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().reset(|_| panic!("cannot")).build());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool.get_owned()))).is_err());
    assert_eq!((pool.counters().drops.poisoned, ledger.dropped()), (1, 1));
    assert_eq!(Arc::strong_count(&pool), 1);
}

/// The last share of a pool goes when its thread has no number any more.
#[test]
fn the_end_of_a_thread_may_end_the_pool() {
    thread_local!(static KEPT: Cell<Option<OwnedPooled<Item>>> = const { Cell::new(None) });
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().build());
    let keeps = move || {
        KEPT.set(Some(pool.get_owned()));
        drop([pool.get(), pool.get()]);
    };
    thread::spawn(keeps).join().unwrap();
    assert_eq!((ledger.made(), ledger.dropped()), (3, 3));
}

/// Tasks that end, are aborted and panic.
#[test]
fn tasks_own_items_and_buffers() {
    let ledger = Ledger::default();
    let pool = Arc::new(ledger.pool().max_total(3).build());
    let buffers = Arc::new(BufferPool::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let (shared, mut buffer) = (Arc::clone(&pool), buffers.get_owned(2000));
        let ends = tokio::spawn(async move {
            let item = shared.get_owned();
            tokio::task::yield_now().await;
            buffer.extend_from_slice(b"told");
            sender.send((item, buffer)).await.map_err(|_| "nobody listens")
        });
        let (item, buffer) = receiver.recv().await.unwrap();
        assert_eq!((item.number, buffer.as_slice(), ends.await.unwrap()), (0, b"told".as_slice(), Ok(())));

        let (held, also_held) = (pool.try_get_owned().unwrap(), pool.try_get_owned().unwrap());
        assert_eq!(pool.try_get_owned().err(), Some(PoolError::Exhausted));
        let aborted = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(held)
        });
        tokio::task::yield_now().await;
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert_eq!((pool.counters().idle, pool.counters().drops.all()), (1, 0));

        let panics = tokio::spawn(async move {
            tokio::task::yield_now().await;
            panic!("with {}", also_held.number);
        });
        assert!(panics.await.unwrap_err().is_panic());
    });
    assert_eq!((pool.counters().drops.poisoned, pool.counters().drops.all()), (1, 1));
    check(&pool, &ledger, 0);
    let class = buffers.counters().classes[0].pool;
    assert_eq!((class.gets, class.in_use, class.idle), (1, 0, 1));
    assert_eq!((Arc::strong_count(&pool), Arc::strong_count(&buffers)), (1, 1));
}
