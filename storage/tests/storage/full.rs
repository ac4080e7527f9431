//! A disk with little room.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Batch, Op, StorageError};

use crate::support::DiskPlace;

fn define(name: &str) -> Op {
    Op::PutDefinition { key: name.as_bytes().into(), value: Box::from(*b"value") }
}

#[test]
fn sled_is_given_nothing_to_write_without_room_and_goes_on_when_there_is_some() {
    static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
    let options = DiskOptions { free: |_| Ok(FREE.load(Ordering::Relaxed)), ..DiskOptions::default() };
    let place = DiskPlace::new();
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    FREE.store(1 << 20, Ordering::Relaxed);
    let batch = Batch::fold([define("a"), insert(1, 1, 1, 10)]);
    assert!(matches!(backend.commit(&batch), Err(StorageError::Full { .. })));
    assert!(!backend.has_room(0));
    backend.commit(&Batch::fold([insert(2, 1, 1, 10)])).expect("messages are not sled's");
    FREE.store(1 << 30, Ordering::Relaxed);
    assert!(backend.has_room(1 << 20));
    backend.commit(&batch).unwrap();
    drop(backend);
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.definitions.len(), 1);
    let mut expected = Model::default();
    [define("a"), insert(1, 1, 1, 10), insert(2, 1, 1, 10)].iter().for_each(|op| expected.apply(op));
    assert_eq!(Model::of(&recovered, &*backend), expected);
}

#[test]
fn on_a_full_disk_a_segment_goes_that_is_appended_to_and_mostly_dead() {
    static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
    let options = DiskOptions { free: |_| Ok(FREE.load(Ordering::Relaxed)), ..DiskOptions::default() };
    let place = DiskPlace::new();
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    let bytes = || -> u64 {
        let files = fs::read_dir(place.dir().join("messages")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    for n in 0..80 {
        backend.commit(&Batch::fold([insert(1, 1 + n * 10, 10, 10_000)])).unwrap();
    }
    backend.commit(&Batch::fold([Op::Remove { queue: 1, first: 11, count: 790 }])).unwrap();
    // What is left of it would not fit: a part of it would only take room.
    FREE.store((1 << 20) + 99_000, Ordering::Relaxed);
    let before = bytes();
    (0..3).for_each(|_| backend.make_room().unwrap());
    assert!((before..before + 10_000).contains(&bytes()), "{before} bytes became {}", bytes());
    FREE.store((1 << 20) + 102_000, Ordering::Relaxed);
    backend.make_room().unwrap();
    assert!(bytes() < 200_000, "ten messages of 10,000 bytes take {}", bytes());
    drop(backend);
    let (backend, recovered) = place.open().unwrap();
    let left = Model::of(&recovered, &*backend).queues.values().map(|queue| queue.len()).sum::<usize>();
    assert_eq!(left, 10);
}

#[test]
fn compacting_a_full_disk_ends_with_an_error_and_can_be_done_again() {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    for n in 0..80 {
        backend.commit(&Batch::fold([insert(1, 1 + n * 10, 10, 10_000)])).unwrap();
    }
    backend.commit(&Batch::fold([Op::Remove { queue: 1, first: 11, count: 390 }])).unwrap();
    backend.close().unwrap();
    let (mut backend, _) =
        open_disk_with(&place.dir(), &DiskOptions { compact: true, ..DiskOptions::default() }).unwrap();
    // Writing to this device finds it full; it goes with the attempt.
    symlink("/dev/full", place.dir().join("messages/0000000002.log")).unwrap();
    assert!(matches!(backend.idle(), Err(StorageError::Full { .. })));
    while backend.idle().unwrap() {}
    backend.close().unwrap();
    assert!(!place.dir().join("messages/0000000001.log").exists());
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!((recovered.messages, &recovered.notes[..]), (410, &[][..]));
}

#[test]
fn opening_a_store_on_a_full_disk_gives_up_the_reserve() {
    let place = DiskPlace::new();
    place.open().unwrap().0.close().unwrap();
    assert!(place.dir().join("reserve").exists());
    symlink("/dev/full", place.dir().join("boot.new")).unwrap();
    assert!(matches!(place.open(), Err(StorageError::Full { .. })));
    assert!(!place.dir().join("reserve").exists());
    fs::remove_file(place.dir().join("boot.new")).unwrap();
    assert!(place.open().unwrap().1.clean, "between the two it counts as closed");
}
