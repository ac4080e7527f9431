//! A disk with little room.

use std::fs;
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
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let bytes = || -> u64 {
        let files = fs::read_dir(place.dir().join("messages")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    for n in 0..80 {
        backend.commit(&Batch::fold([insert(1, 1 + n * 10, 10, 10_000)])).unwrap();
    }
    backend.commit(&Batch::fold([Op::Remove { queue: 1, first: 11, count: 790 }])).unwrap();
    backend.make_room().unwrap();
    backend.make_room().unwrap();
    assert!(bytes() < 200_000, "ten messages of 10,000 bytes take {}", bytes());
    drop(backend);
    let (backend, recovered) = place.open().unwrap();
    let left = Model::of(&recovered, &*backend).queues.values().map(|queue| queue.len()).sum::<usize>();
    assert_eq!(left, 10);
}
