//! Damage to definitions, and to the directory as a whole: what is intact is kept, what is not is put aside and named.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::definitions::RawStore;
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Batch, Gauge, Note, Op, Quarantined};

use crate::support::DiskPlace;

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

/// What a directory of an earlier leveret has not.
fn without_copy(place: &DiskPlace) {
    fs::remove_file(place.dir().join("definitions.log")).unwrap();
    let boot = fs::read_to_string(place.dir().join("boot")).unwrap();
    fs::write(place.dir().join("boot"), boot.lines().next().unwrap().to_owned() + "\n").unwrap();
}

#[test]
fn a_damaged_definition_comes_from_the_copy_and_an_unknown_key_is_named() {
    let place = filled();
    tamper(&place.dir(), |raw| {
        flip(raw, b"\x01\0\0\0\x01d\0\0\0\0");
        raw.set(b"\x09what", Some(b"?")).unwrap();
    });
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Unknown { key: Box::from(*b"\x09what") }]);
    assert_eq!(recovered.definitions, [(Box::from(*b"d"), Box::from(*b"value"))]);
    let moved_to = Some(place.dir().join("quarantine/definitions.0"));
    assert_eq!(recovered.notes, [Note::DatabaseReplaced { restored: 1, lost: 0, moved_to }]);
    assert_eq!(recovered.messages, 30);
}

#[test]
fn without_a_copy_a_damaged_definition_is_named_and_messages_are_kept_as_they_were() {
    let place = filled();
    without_copy(&place);
    let mut before = Model::default();
    {
        let (backend, recovered) = place.open().unwrap();
        before.queues = Model::of(&recovered, &*backend).queues;
    }
    without_copy(&place);
    tamper(&place.dir(), |raw| flip(raw, b"\x01\0\0\0\x01d\0\0\0\0"));
    let (mut backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Definition { key: Box::from(*b"d") }]);
    let kept = place.dir().join("quarantine/messages.0");
    let moved_to = Some(place.dir().join("quarantine/definitions.0"));
    let replaced = Note::DatabaseReplaced { restored: 0, lost: 1, moved_to };
    assert_eq!(recovered.notes, [Note::DefinitionsLost { kept: kept.clone() }, replaced]);
    assert_eq!((recovered.definitions, recovered.messages), (vec![], 30));
    // The broker knows no queue of this id now.
    backend.commit(&Batch::fold([Op::DropQueue { queue: 1 }, Op::DropQueue { queue: 2 }])).unwrap();
    backend.close().unwrap();
    // What was kept knows nothing of that.
    fs::remove_dir_all(place.dir().join("messages")).unwrap();
    fs::rename(kept, place.dir().join("messages")).unwrap();
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(Model::of(&recovered, &*backend), before);
}

/// A store of a hundred messages in small segments, and its options.
fn several_segments(place: &DiskPlace) -> (Box<dyn Backend>, DiskOptions) {
    let options = DiskOptions { segment_bytes: 32 << 10, ..DiskOptions::default() };
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    (0..10).for_each(|n| backend.commit(&Batch::fold([insert(1, 1 + n * 10, 10, 1000)])).unwrap());
    (backend, options)
}

#[test]
fn of_messages_that_are_kept_full_segments_take_no_space_twice_and_the_last_stays_as_it_is() {
    let place = DiskPlace::new();
    let (backend, options) = several_segments(&place);
    drop(backend);
    without_copy(&place);
    fs::remove_dir_all(place.dir().join("definitions")).unwrap();
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    let (kept, used) = (place.dir().join("quarantine/messages.0"), place.dir().join("messages"));
    let content = |name: &str| fs::read(kept.join(name)).unwrap();
    let names = ["0000000001.log", "0000000004.log", "0000000004.heads"];
    let before = names.map(content);
    backend.commit(&Batch::fold([Op::Remove { queue: 1, first: 1, count: 1 }])).unwrap();
    (0..10).for_each(|n| backend.commit(&Batch::fold([insert(1, 201 + n * 10, 10, 1000)])).unwrap());
    backend.close().unwrap();
    assert_eq!(names.map(content), before);
    let inode = |file: &Path| fs::metadata(file).unwrap().ino();
    assert_eq!(inode(&kept.join(names[0])), inode(&used.join(names[0])));
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
fn a_missing_database_is_made_anew_from_the_copy() {
    let place = filled();
    let (backend, recovered) = place.open().unwrap();
    let before = Model::of(&recovered, &*backend);
    drop(backend);
    fs::remove_dir_all(place.dir().join("definitions")).unwrap();
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.notes, [Note::DatabaseReplaced { restored: 1, lost: 0, moved_to: None }]);
    assert_eq!(Model::of(&recovered, &*backend), before);
}

#[test]
fn where_database_and_copy_are_missing_the_messages_are_kept_and_the_loss_is_named() {
    let place = filled();
    fs::remove_dir_all(place.dir().join("definitions")).unwrap();
    fs::remove_file(place.dir().join("definitions.log")).unwrap();
    let (backend, recovered) = place.open().unwrap();
    let kept = place.dir().join("quarantine/messages.0");
    let expected = [
        Note::DefinitionsLost { kept: kept.clone() },
        Note::DatabaseReplaced { restored: 0, lost: 0, moved_to: None },
        Note::CopyRenewed { moved_to: None },
    ];
    assert_eq!(recovered.notes, expected);
    assert_eq!((recovered.definitions.len(), recovered.messages), (0, 30));
    assert!(kept.join("0000000001.log").exists());
    drop(backend);
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.notes, [], "it is said once");
}

#[test]
fn a_missing_log_is_said_and_the_store_goes_on_with_an_empty_one() {
    let place = filled();
    fs::remove_dir_all(place.dir().join("messages")).unwrap();
    let (mut backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.notes, [Note::MessagesMissing { directory: place.dir().join("messages") }]);
    assert_eq!((recovered.definitions.len(), recovered.messages), (1, 0));
    backend.commit(&Batch::fold([insert(1, 40, 2, 10)])).unwrap();
    drop(backend);
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!((&recovered.notes[..], recovered.messages), (&[][..], 2));
}

#[test]
fn a_segment_that_is_gone_is_missed_after_a_kill_too() {
    let place = filled();
    fs::remove_file(place.dir().join("messages/0000000001.log")).unwrap();
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.notes, [Note::SegmentMissing { file: place.dir().join("messages/0000000001.log") }]);
    assert_eq!((recovered.definitions.len(), recovered.messages), (1, 0));
}

#[test]
fn what_a_clean_stop_left_and_is_not_there_is_counted() {
    let place = filled();
    place.open().unwrap().0.close().unwrap();
    without_copy(&place);
    tamper(&place.dir(), |raw| raw.set(b"\x01\0\0\0\x01d\0\0\0\0", None).unwrap());
    let (_backend, recovered) = place.open().unwrap();
    let kept = place.dir().join("quarantine/messages.0");
    assert_eq!(recovered.notes, [Note::DefinitionsLost { kept }, Note::Missing { messages: 0, definitions: 1 }]);
}

#[test]
fn what_is_found_damaged_while_reading_is_not_found_again_after_a_stop() {
    let place = DiskPlace::new();
    let (backend, options) = several_segments(&place);
    backend.close().unwrap();
    let first = place.dir().join("messages/0000000001.log");
    let mut bytes = fs::read(&first).unwrap();
    bytes[5000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let read = |expected| {
        let (backend, recovered) = open_disk_with(&place.dir(), &options).unwrap();
        assert_eq!(
            (recovered.messages, &recovered.quarantined[..], &recovered.notes[..]),
            (expected, &[][..], &[][..])
        );
        let runs = backend.reader().unwrap().read(1, 1, 100, &Arc::<Gauge>::default()).unwrap();
        backend.close().unwrap();
        runs.iter().map(|(_, run)| run.count()).sum::<u32>()
    };
    assert_eq!(read(100), 90);
    assert_eq!(read(90), 90);
}
