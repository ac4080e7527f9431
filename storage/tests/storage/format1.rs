//! A directory of format 1, as the last version that wrote it left it (`data/format1.hex`: every key and value of its
//! database), is opened, and whatever cuts the move short, nothing is lost.

use std::fs;

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::definitions::RawStore;
use leveret_storage::{Batch, Note, Op, Quarantined};

use crate::support::DiskPlace;

fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = include_str!("../data/format1.hex").lines().filter_map(|line| line.split_once(' '));
    lines.map(|(key, value)| (bytes(key), bytes(value))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[n * 2..n * 2 + 2], 16).unwrap()).collect()
}

/// A directory with these keys that says it is of format 1.
fn directory(change: impl Fn(&mut Vec<(Vec<u8>, Vec<u8>)>)) -> DiskPlace {
    let place = DiskPlace::new();
    place.open().unwrap().0.close().unwrap();
    let mut entries = entries();
    change(&mut entries);
    put(&place, &entries);
    fs::write(place.dir().join("FORMAT"), "leveret store 1\n").unwrap();
    fs::remove_dir_all(place.dir().join("messages")).unwrap();
    // Counts of an empty store.
    fs::remove_file(place.dir().join("clean")).unwrap();
    place
}

fn put(place: &DiskPlace, entries: &[(Vec<u8>, Vec<u8>)]) {
    let raw = RawStore::open(&place.dir()).unwrap();
    entries.iter().for_each(|(key, value)| raw.set(key, Some(value)).unwrap());
}

/// What was in it, by the operations that were committed.
fn expected() -> Model {
    let remove = |queue, first, count| Op::Remove { queue, first, count };
    let put = |key: &[u8], value: Vec<u8>| Op::PutDefinition { key: key.into(), value: value.into() };
    let mut ops = vec![put(b"d", b"value".to_vec()), put(b"long", vec![7; 17_000])];
    ops.extend([insert(1, 1, 10, 100), insert(1, 11, 4, 10), insert(1, 20, 300, 8)]);
    ops.extend([insert(2, 1, 1, 17_000), insert(2, 2, 3, 0), insert(3, 1, 140, 20), insert(4, 7, 2, 5)]);
    ops.extend([remove(1, 5, 1), remove(1, 21, 1), remove(1, 23, 1), remove(2, 3, 1), remove(3, 1, 138)]);
    ops.extend((0..20).map(|n| remove(1, 40 + n * 2, 1)));
    let mut model = Model::default();
    ops.iter().for_each(|op| model.apply(op));
    model
}

fn opens_as_expected(place: &DiskPlace, notes: &[Note]) {
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(Model::of(&recovered, &*backend), expected());
    assert_eq!((&recovered.notes[..], recovered.quarantined), (notes, vec![]));
    drop(backend);
    let raw = RawStore::open(&place.dir()).unwrap();
    let kinds: Vec<u8> = raw.entries().map(|entry| entry.unwrap().0[0]).collect();
    assert!(kinds.iter().all(|kind| *kind <= 1), "definitions are left: {kinds:?}");
    assert_eq!(fs::read(place.dir().join("FORMAT")).unwrap(), b"leveret store 2\n");
}

fn migrated() -> Note {
    let messages = expected().queues.values().map(|messages| messages.len() as u64).sum();
    Note::Migrated { messages }
}

#[test]
fn a_directory_of_format_1_is_brought_into_the_log() {
    let place = directory(|_| {});
    opens_as_expected(&place, &[migrated()]);
    opens_as_expected(&place, &[]);
}

#[test]
fn a_move_cut_short_before_the_format_changed_is_done_again() {
    let place = directory(|_| {});
    // Half a log, and one that says something else.
    let other = DiskPlace::new();
    let (mut backend, _) = other.open().unwrap();
    backend.commit(&Batch::fold([insert(1, 1, 10, 7), insert(77, 1, 10, 7)])).unwrap();
    drop(backend);
    fs::rename(other.dir().join("messages"), place.dir().join("messages")).unwrap();
    opens_as_expected(&place, &[migrated()]);
}

#[test]
fn a_move_cut_short_after_the_format_changed_is_completed() {
    let place = directory(|_| {});
    opens_as_expected(&place, &[migrated()]);
    put(&place, &entries()[60..]);
    opens_as_expected(&place, &[]);
}

#[test]
fn what_is_damaged_in_a_directory_of_format_1_is_named_and_the_rest_is_moved() {
    let place = directory(|entries| {
        let record = entries.iter_mut().find(|(key, _)| key[0] == 4 && key[8] == 4).unwrap();
        record.1[6] ^= 1;
    });
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 4, first: 7 }]);
    let mut model = expected();
    model.queues.remove(&4);
    assert_eq!(Model::of(&recovered, &*backend), model);
    drop(backend);
    let raw = RawStore::open(&place.dir()).unwrap();
    assert!(raw.entries().any(|entry| entry.unwrap().0.starts_with(&[0x7f, 4])), "it is kept");
}
