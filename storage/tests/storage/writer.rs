//! The writer: what a completed token promises, what is never written, what happens when the disk fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::faulty::{Counts, Fault, Step};
use leveret_storage::{Op, StorageError, StoreOptions, open_memory};

use crate::support::{DiskPlace, PATIENCE, Watched, op, removed, synced, written};

fn remove(queue: u64, first: u64, count: u64) -> Op {
    Op::Remove { queue, first, count }
}

#[test]
fn a_synced_token_completes_after_the_sync_and_not_before() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Sync);
    watched.submit([op(insert(1, 1, 1, 10)), synced(7)]);
    watched.faults.wait_until_held(Step::Sync);
    assert_eq!(watched.tokens.try_recv(), Err(TryRecvError::Empty));
    watched.faults.release(Step::Sync);
    assert_eq!(watched.token(), 7);
    assert_eq!(watched.faults.counts(), Counts { commits: 1, syncs: 1, inserted: 1 });
}

#[test]
fn a_written_token_completes_after_the_commit_without_a_sync() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Commit);
    watched.submit([op(insert(1, 1, 1, 10)), written(7)]);
    watched.faults.wait_until_held(Step::Commit);
    assert_eq!(watched.tokens.try_recv(), Err(TryRecvError::Empty));
    watched.faults.release(Step::Commit);
    assert_eq!(watched.token(), 7);
    assert_eq!(watched.faults.counts(), Counts { commits: 1, syncs: 0, inserted: 1 });
}

#[test]
fn a_written_token_does_not_wait_for_anothers_sync() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Sync);
    watched.submit([op(insert(1, 1, 1, 10)), synced(1), op(remove(2, 1, 1)), written(2)]);
    watched.faults.wait_until_held(Step::Sync);
    assert_eq!(watched.token(), 2);
    watched.faults.release(Step::Sync);
    assert_eq!(watched.token(), 1);
}

#[test]
fn a_token_with_nothing_to_write_completes_without_touching_the_disk() {
    let watched = Watched::without_timers();
    watched.submit([synced(1), written(2)]);
    let mut tokens = [watched.token(), watched.token()];
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2]);
    watched.submit([op(insert(1, 1, 1, 10)), synced(3)]);
    watched.submit([synced(4)]);
    assert_eq!([watched.token(), watched.token()], [3, 4]);
    assert_eq!(watched.faults.counts(), Counts { commits: 1, syncs: 1, inserted: 1 });
}

#[test]
fn a_synced_token_syncs_what_was_only_written_before_it() {
    let watched = Watched::without_timers();
    watched.submit([op(insert(1, 1, 1, 10)), written(1)]);
    assert_eq!(watched.token(), 1);
    watched.submit([synced(2)]);
    assert_eq!(watched.token(), 2);
    assert_eq!(watched.faults.counts(), Counts { commits: 1, syncs: 1, inserted: 1 });
}

#[test]
fn messages_inserted_and_removed_in_one_take_are_never_written_and_still_confirmed() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Commit);
    watched.submit([op(insert(9, 1, 1, 10)), synced(1)]);
    watched.faults.wait_until_held(Step::Commit);
    // Both come while the writer is busy, so it takes them together.
    watched.submit([op(insert(1, 1, 100, 1024)), synced(2)]);
    watched.submit([op(remove(1, 1, 100))]);
    watched.submit([op(insert(2, 1, 50, 1024)), op(Op::DropQueue { queue: 3 }), synced(3)]);
    watched.submit([op(remove(2, 1, 50)), op(insert(3, 1, 1, 10)), op(remove(3, 1, 1)), written(4)]);
    watched.faults.release(Step::Commit);
    let mut tokens: Vec<u32> = (0..4).map(|_| watched.token()).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2, 3, 4]);
    assert_eq!(watched.faults.counts().inserted, 1);
}

#[test]
fn a_folded_take_does_not_commit_or_sync_at_all() {
    let watched = Watched::without_timers();
    watched.submit([op(insert(1, 1, 100, 1024)), op(remove(1, 1, 100)), synced(1)]);
    assert_eq!(watched.token(), 1);
    assert_eq!(watched.faults.counts(), Counts::default());
}

#[test]
fn without_a_notification_an_insert_waits_for_its_removal() {
    let watched = Watched::without_timers();
    watched.submit([op(insert(1, 1, 100, 1024))]);
    watched.submit([op(remove(1, 1, 100))]);
    watched.store.close().unwrap();
    assert_eq!(watched.faults.counts(), Counts::default());
}

#[test]
fn four_megabytes_do_not_wait() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Commit);
    watched.submit([op(insert(1, 1, 5, 1 << 20))]);
    watched.faults.wait_until_held(Step::Commit);
    watched.faults.release(Step::Commit);
}

#[test]
fn what_nobody_waits_for_is_written_and_synced_all_the_same() {
    let watched = Watched::in_memory();
    watched.faults.hold(Step::Commit);
    watched.faults.hold(Step::Sync);
    let start = Instant::now();
    watched.submit([op(insert(1, 1, 1, 10))]);
    watched.faults.wait_until_held(Step::Commit);
    watched.faults.release(Step::Commit);
    watched.faults.wait_until_held(Step::Sync);
    let options = StoreOptions::default();
    assert!(start.elapsed() >= options.sync_within, "the timers are kept");
    watched.faults.release(Step::Sync);
}

#[test]
fn everything_that_came_during_a_sync_shares_the_next_one() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Sync);
    watched.submit([op(insert(1, 1, 1, 10)), synced(0)]);
    watched.faults.wait_until_held(Step::Sync);
    for token in 1..=50 {
        watched.submit([op(insert(1, 1 + u64::from(token), 1, 10)), synced(token)]);
    }
    watched.faults.release(Step::Sync);
    let tokens: Vec<u32> = (0..=50).map(|_| watched.token()).collect();
    assert!(tokens.is_sorted(), "tokens of one level complete in order");
    assert_eq!(watched.faults.counts(), Counts { commits: 2, syncs: 2, inserted: 51 });
}

#[test]
fn after_a_failed_sync_no_token_completes_and_nothing_is_synced_again() {
    for step in [Step::Commit, Step::Sync] {
        let fault = Fault::Io;
        let watched = Watched::without_timers();
        watched.faults.fail_next(step, fault);
        watched.submit([op(insert(1, 1, 1, 10)), synced(1)]);
        let error = watched.failure.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
        let counts = watched.faults.counts();
        let mut entries = vec![op(insert(1, 2, 1, 10)), synced(2)];
        watched.store.submit(&mut entries);
        assert!(entries.is_empty(), "what is submitted is dropped");
        assert_eq!(watched.store.close().unwrap_err().to_string(), error.to_string());
        assert!(watched.store.mark(1).is_err());
        assert_eq!(watched.tokens.recv(), Err(std::sync::mpsc::RecvError), "no token, and the writer is gone");
        assert_eq!(watched.faults.counts(), counts, "no further call");
        assert!(watched.failure.recv().is_err(), "failed is called once");
    }
}

#[test]
fn a_full_disk_is_waited_at_and_nothing_completes_before_there_is_room() {
    let watched = Watched::without_timers();
    watched.faults.fill_disk(true);
    watched.submit([op(insert(1, 1, 3, 10)), synced(1)]);
    wait_until(|| watched.store.is_full());
    assert!(watched.tokens.try_recv().is_err());
    watched.submit([op(insert(2, 1, 1, 10)), synced(2)]);
    watched.faults.fill_disk(false);
    assert_eq!([watched.token(), watched.token()], [1, 2]);
    assert!(!watched.store.is_full());
}

/// Three messages of queue 1 are stored, then the disk is full: what `waits` does, with token 2, waits for room.
fn on_a_full_disk(waits: Op) -> Watched {
    let watched = Watched::without_timers();
    watched.submit([op(insert(1, 1, 3, 10)), synced(1)]);
    assert_eq!(watched.token(), 1);
    watched.faults.fill_disk(true);
    watched.submit([op(waits), synced(2)]);
    wait_until(|| watched.store.is_full());
    watched
}

#[test]
fn on_a_full_disk_removals_are_written_and_what_is_removed_need_not_be() {
    let watched = on_a_full_disk(insert(1, 4, 2, 10));
    // With these, all that waits for room is done.
    watched.submit([op(remove(1, 1, 5)), written(3)]);
    let mut tokens = [watched.token(), watched.token()];
    tokens.sort_unstable();
    assert_eq!(tokens, [2, 3]);
    assert!(watched.store.is_full(), "who asks for room finds none");
    watched.faults.fill_disk(false);
    wait_until(|| !watched.store.is_full());
}

#[test]
fn on_a_full_disk_who_waits_for_removals_does_not_wait_for_inserts() {
    let watched = on_a_full_disk(insert(2, 1, 1, 10));
    watched.submit([op(remove(1, 1, 3)), removed(3)]);
    assert_eq!(watched.token(), 3);
    watched.faults.fill_disk(false);
    assert_eq!(watched.token(), 2);
}

#[test]
fn closing_on_a_full_disk_is_an_error_only_if_something_waits_for_room() {
    for waits in [false, true] {
        let watched = on_a_full_disk(insert(1, 4, 2, 10));
        if !waits {
            watched.submit([op(remove(1, 1, 5))]);
        }
        let closed = watched.store.close();
        assert_eq!(matches!(closed, Err(StorageError::Full { .. })), waits, "{closed:?}");
        assert_eq!(closed.is_ok(), !waits, "{closed:?}");
        assert_eq!(watched.tokens.recv().is_ok(), !waits);
    }
}

#[test]
fn on_a_full_disk_removals_do_not_wait_for_definitions_to_be_deleted() {
    static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
    let options = DiskOptions { free: |_| Ok(FREE.load(Ordering::Relaxed)), ..DiskOptions::default() };
    let place = DiskPlace::new();
    let (backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    let reader = backend.reader().unwrap();
    let watched = Watched::on(backend, StoreOptions::default());
    let key = || Box::from(*b"d");
    let put = Op::PutDefinition { key: key(), value: Box::from(*b"value") };
    watched.submit([op(put), op(insert(1, 1, 3, 10)), op(insert(2, 1, 3, 10)), synced(1)]);
    assert_eq!(watched.token(), 1);
    // Enough for the log, not for the database.
    FREE.store(1 << 20, Ordering::Relaxed);
    let delete = Op::DeleteDefinition { key: key() };
    watched.submit([op(delete), op(remove(1, 1, 2)), op(Op::DropQueue { queue: 2 }), removed(2), written(3)]);
    assert_eq!(watched.token(), 3);
    assert!(!reader.holds(1, 1, 1) && reader.holds(1, 3, 1) && !reader.holds(2, 1, 1));
    assert_eq!(watched.tokens.recv_timeout(Duration::from_millis(500)), Err(RecvTimeoutError::Timeout));
    FREE.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(watched.token(), 2);
    watched.store.close().unwrap();
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!((recovered.definitions.len(), recovered.messages), (0, 1));
}

#[test]
fn without_a_full_disk_who_waits_for_removals_waits_for_the_device() {
    let watched = Watched::without_timers();
    watched.submit([op(insert(1, 1, 3, 10)), removed(1)]);
    assert_eq!(watched.token(), 1);
    assert_eq!(watched.faults.counts().syncs, 1);
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "nothing happens");
        std::thread::yield_now();
    }
}

#[test]
fn a_panic_in_the_writer_is_a_failure_like_any_other() {
    let (send, failure) = std::sync::mpsc::channel();
    let store = leveret_storage::Store::start(
        open_memory().unwrap().0,
        StoreOptions::default(),
        |_: &mut Vec<u32>| panic!("a bug in the broker"),
        move |error| send.send(error).unwrap_or_default(),
    )
    .unwrap();
    store.submit(&mut vec![synced(1)]);
    let error = failure.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(error, StorageError::Panicked { .. }), "{error}");
    assert!(store.close().is_err());
}

#[test]
fn pending_bytes_grow_with_what_waits_and_return_to_nothing() {
    let watched = Watched::without_timers();
    watched.faults.hold(Step::Sync);
    watched.submit([op(insert(1, 1, 10, 1000)), synced(1)]);
    watched.faults.wait_until_held(Step::Sync);
    assert!(watched.store.pending_bytes() >= 10_000);
    watched.submit([op(insert(1, 11, 10, 1000))]);
    assert!(watched.store.pending_bytes() >= 20_000);
    watched.faults.release(Step::Sync);
    watched.store.close().unwrap();
    assert_eq!(watched.store.pending_bytes(), 0);
}

#[test]
fn closing_writes_syncs_and_completes_everything_and_can_be_repeated() {
    let place = DiskPlace::new();
    let (backend, _) = place.open().unwrap();
    let watched = Watched::on(backend, StoreOptions::default());
    watched.submit([op(insert(1, 1, 10, 100)), op(insert(2, 1, 3, 10)), synced(1), op(remove(2, 1, 1))]);
    let other = watched.store.clone();
    other.close().unwrap();
    watched.store.close().unwrap();
    assert_eq!(watched.tokens.try_recv(), Ok(1));
    assert!(watched.failure.try_recv().is_err());
    watched.submit([op(insert(1, 11, 1, 100)), synced(2)]);
    assert!(watched.tokens.recv().is_err(), "a closed store accepts nothing");

    let (backend, recovered) = place.open().unwrap();
    let mut model = Model::default();
    [insert(1, 1, 10, 100), insert(2, 1, 3, 10), remove(2, 1, 1)].iter().for_each(|op| model.apply(op));
    assert_eq!(Model::of(&recovered, &*backend), model);
    assert!(recovered.clean);
}

#[test]
fn a_store_that_is_let_go_is_closed() {
    let place = DiskPlace::new();
    let (backend, _) = place.open().unwrap();
    let watched = Watched::on(backend, StoreOptions::default());
    watched.submit([op(insert(1, 1, 10, 100))]);
    drop(watched);
    let (_backend, recovered) = place.open().unwrap();
    assert!(recovered.clean);
    assert_eq!(recovered.messages, 10);
}

#[test]
fn a_dropped_queues_mark_goes_with_the_commit_of_its_drop() {
    let watched = Watched::without_timers();
    let mark = watched.store.mark(1).unwrap();
    watched.submit([op(insert(1, 1, 10, 10)), written(1)]);
    mark.delivered_through(5).unwrap();
    assert_eq!(watched.token(), 1);
    watched.faults.hold(Step::Commit);
    watched.submit([op(Op::DropQueue { queue: 1 }), written(2)]);
    watched.faults.wait_until_held(Step::Commit);
    assert_eq!(watched.store.mark(1).unwrap().through(), 5);
    watched.faults.release(Step::Commit);
    assert_eq!(watched.token(), 2);
    assert_eq!(watched.store.mark(1).unwrap().through(), 0);
}

#[test]
fn a_slow_disk_does_not_slow_those_who_submit() {
    let watched = Watched::in_memory();
    watched.faults.delay(Step::Sync, Duration::from_millis(300));
    let start = Instant::now();
    for n in 0..1000 {
        watched.submit([op(insert(1, 1 + n, 1, 10)), synced(n as u32)]);
    }
    let submitted = start.elapsed();
    (0..1000).for_each(|n| assert_eq!(watched.token(), n));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(submitted < start.elapsed() / 2, "submitting took {submitted:?}");
}
