//! Damage to definitions, and to the directory as a whole: what is intact is kept, what is not is put aside and named.

use std::fs;
use std::path::Path;

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::definitions::RawStore;
use leveret_storage::{Batch, Note, Op, Quarantined, StorageError};

use crate::support::{DiskPlace, open};

/// Changes what lies beneath a store that is not open.
fn tamper(dir: &Path, change: impl FnOnce(&RawStore)) {
    change(&RawStore::open(dir).unwrap());
}

fn get(raw: &RawStore, key: &[u8]) -> Option<Vec<u8>> {
    let mut entries = raw.entries().map(Result::unwrap);
    entries.find(|entry| entry.0 == key).map(|entry| entry.1)
}

fn flip(raw: &RawStore, key: &[u8]) {
    let mut value = get(raw, key).expect("the key is there");
    let at = value.len() / 2;
    value[at] ^= 1;
    raw.set(key, Some(&value)).unwrap();
}

/// Queue 1: one record per batch, at 1, 11 and 21, the last with a removal; a definition; a large message at 1 in
/// queue 2.
fn filled() -> DiskPlace {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let put = Op::PutDefinition { key: Box::from(*b"d"), value: Box::from(*b"value") };
    for ops in [
        vec![put, insert(1, 1, 10, 100)],
        vec![insert(1, 11, 10, 100)],
        vec![insert(1, 21, 10, 100), insert(2, 1, 1, 200_000)],
        vec![Op::Remove { queue: 1, first: 25, count: 1 }],
    ] {
        backend.commit(&Batch::fold(ops)).unwrap();
    }
    place
}

#[test]
fn a_damaged_definition_and_an_unknown_key_are_named() {
    let place = filled();
    tamper(&place.dir(), |raw| {
        flip(raw, b"\x01\0\0\0\x01d\0\0\0\0");
        raw.set(b"\x09what", Some(b"?")).unwrap();
    });
    let (_backend, recovered) = place.open().unwrap();
    let unknown = Quarantined::Unknown { key: Box::from(*b"\x09what") };
    assert_eq!(recovered.quarantined, [Quarantined::Definition { key: Box::from(*b"d") }, unknown]);
    assert_eq!(recovered.definitions, []);
    assert_eq!(recovered.messages, 30);
}

#[test]
fn an_unreadable_index_snapshot_is_moved_aside_and_nothing_lost() {
    let place = filled();
    let (backend, recovered) = place.open().unwrap();
    let before = Model::of(&recovered, &*backend);
    drop(backend);
    let snapshot = fs::read_dir(place.dir().join("definitions")).unwrap().map(|e| e.unwrap().path());
    let snapshot = snapshot.filter(|p| p.to_string_lossy().contains("/snap.")).max().expect("sled writes snapshots");
    fs::write(&snapshot, "torn").unwrap();
    let (backend, recovered) = place.open().unwrap();
    let [Note::SnapshotMovedAside { moved_to }] = &recovered.notes[..] else {
        panic!("{:?}", recovered.notes);
    };
    assert_eq!(fs::read(moved_to).unwrap(), b"torn");
    assert_eq!(Model::of(&recovered, &*backend), before);
}

#[test]
fn a_database_whose_settings_are_lost_opens_as_it_was() {
    let place = filled();
    let (backend, recovered) = place.open().unwrap();
    let before = Model::of(&recovered, &*backend);
    drop(backend);
    fs::remove_file(place.dir().join("definitions/conf")).unwrap();
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(Model::of(&recovered, &*backend), before);
}

#[test]
fn a_missing_database_is_not_taken_for_a_new_one() {
    let place = filled();
    fs::remove_dir_all(place.dir().join("definitions")).unwrap();
    match open(&place.dir()) {
        Ok(_) => panic!("the loss goes unnoticed"),
        Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
    }
}

#[test]
fn a_missing_log_is_not_taken_for_a_new_one() {
    let place = filled();
    fs::remove_dir_all(place.dir().join("messages")).unwrap();
    match open(&place.dir()) {
        Ok(_) => panic!("the loss goes unnoticed"),
        Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
    }
}
