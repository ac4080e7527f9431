//! Damage: what is intact is kept, what is not is put aside and named.

use std::fs;
use std::path::Path;

use leveret_storage::conformance::{Model, Place, insert};
use leveret_storage::sled_store::RawStore;
use leveret_storage::{Batch, Note, Op, Quarantined, StorageError};

use crate::support::{SledPlace, open};

/// The keys as docs/storage.md describes them.
fn key(kind: u8, queue: u64, first: u64, rest: &[u8]) -> Vec<u8> {
    [&[kind], &queue.to_be_bytes()[..], &first.to_be_bytes(), rest].concat()
}

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
fn filled() -> SledPlace {
    let place = SledPlace::new();
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

fn sequences(model: &Model, queue: u64) -> Vec<u64> {
    model.queues.get(&queue).map(|m| m.keys().copied().collect()).unwrap_or_default()
}

#[test]
fn a_damaged_record_is_kept_out_and_named_and_the_rest_loads() {
    let place = filled();
    tamper(&place.dir(), |raw| flip(raw, &key(4, 1, 11, &[0; 4])));
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 1, first: 11 }]);
    let model = Model::of(&recovered);
    assert_eq!(sequences(&model, 1), [(1..=10).collect::<Vec<_>>(), vec![21, 22, 23, 24, 26, 27, 28, 29, 30]].concat());
    assert_eq!(sequences(&model, 2), [1]);
    drop(backend);
    // It is reported once and kept.
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, []);
    assert_eq!(Model::of(&recovered), model);
    drop(backend);
    tamper(&place.dir(), |raw| {
        let quarantined = [&[0x7f], &key(4, 1, 11, &[0; 4])[..]].concat();
        assert!(get(raw, &quarantined).is_some());
    });
}

#[test]
fn a_large_message_with_a_damaged_or_missing_part_is_kept_out_whole() {
    let changes: [fn(&RawStore); 3] = [
        |raw| flip(raw, &key(4, 2, 1, &[0, 0, 0, 2])),
        |raw| raw.set(&key(4, 2, 1, &[0, 0, 0, 1]), None).unwrap(),
        |raw| raw.set(&key(4, 2, 1, &[0, 0, 0, 3]), None).unwrap(),
    ];
    for change in changes {
        let place = filled();
        tamper(&place.dir(), change);
        let (_backend, recovered) = place.open().unwrap();
        assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 2, first: 1 }]);
        assert_eq!(sequences(&Model::of(&recovered), 2), []);
        assert!(recovered.queues[1].next_sequence > 1, "its number is not given out again");
        assert_eq!(recovered.messages, 29);
    }
}

#[test]
fn messages_whose_removals_are_unreadable_come_back() {
    let place = filled();
    tamper(&place.dir(), |raw| flip(raw, &key(3, 1, 21, &[])));
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Removals { queue: 1, first: 21 }]);
    assert_eq!(sequences(&Model::of(&recovered), 1), (1..=30).collect::<Vec<_>>());
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
fn an_entry_in_another_ones_place_is_damage() {
    let place = filled();
    tamper(&place.dir(), |raw| {
        let value = get(raw, &key(4, 1, 1, &[0; 4]));
        raw.set(&key(4, 1, 11, &[0; 4]), value.as_deref()).unwrap();
    });
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 1, first: 11 }]);
}

#[test]
fn an_unreadable_index_snapshot_is_moved_aside_and_nothing_lost() {
    let place = filled();
    let before = Model::of(&place.open().unwrap().1);
    let snapshot = fs::read_dir(place.dir().join("db")).unwrap().map(|e| e.unwrap().path());
    let snapshot = snapshot.filter(|p| p.to_string_lossy().contains("/snap.")).max().expect("sled writes snapshots");
    fs::write(&snapshot, "torn").unwrap();
    let (_backend, recovered) = place.open().unwrap();
    let [Note::SnapshotMovedAside { moved_to }] = &recovered.notes[..] else {
        panic!("{:?}", recovered.notes);
    };
    assert_eq!(fs::read(moved_to).unwrap(), b"torn");
    assert_eq!(Model::of(&recovered), before);
}

#[test]
fn a_log_cut_short_after_a_clean_stop_is_noticed() {
    let place = filled();
    place.open().unwrap().0.close().unwrap();
    let log = place.dir().join("db/db");
    // The snapshot knows what should be there; without it the log's end is where reading stops.
    for entry in fs::read_dir(place.dir().join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("/snap.") {
            fs::remove_file(path).unwrap();
        }
    }
    let content = fs::read(&log).unwrap();
    let end = content.len() - content.iter().rev().take_while(|&&b| b == content[content.len() - 1]).count();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(end as u64 / 2).unwrap();
    let (_backend, recovered) = place.open().unwrap();
    let missing = 30 - recovered.messages;
    assert!(missing > 0);
    let definitions = 1 - recovered.definitions.len() as u64;
    assert_eq!(recovered.notes, [Note::Missing { messages: missing, definitions }]);
}

#[test]
fn large_messages_stay_in_the_log_however_they_come_and_go() {
    // sled puts large pages into files of their own, which it neither syncs nor removes.
    let place = SledPlace::new();
    let (mut backend, _) = place.open().unwrap();
    for round in 0..60 {
        let first = 1 + round * 4;
        let inserts = [1, 200_000, 15_000, 3_000_000].into_iter().zip(first..);
        let mut ops: Vec<_> = inserts.map(|(len, sequence)| insert(1, sequence, 1, len)).collect();
        for age in [3, 14, 29] {
            let first = first.saturating_sub(age);
            ops.push(Op::Remove { queue: 1, first, count: 2 });
        }
        backend.commit(&Batch::fold(ops)).unwrap();
    }
    backend.close().unwrap();
    assert_eq!(fs::read_dir(place.dir().join("db/blobs")).unwrap().count(), 0);
}

#[test]
fn what_a_dropped_queue_held_is_cleared_away_by_later_commits() {
    let place = SledPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let mut commit = |op| backend.commit(&Batch::fold([op])).unwrap();
    commit(insert(1, 1, 3_000, 1_000));
    commit(Op::Remove { queue: 1, first: 40, count: 1 });
    commit(Op::DropQueue { queue: 1 });
    (0..10).for_each(|n| commit(insert(2, 1 + n, 1, 10)));
    drop(backend);
    tamper(&place.dir(), |raw| {
        let keys = raw.entries().map(|entry| entry.unwrap().0);
        let left: Vec<_> = keys.filter(|key| key[0] > 1).collect();
        assert_eq!(left.len(), 10, "the ten records of the other queue: {left:?}");
    });
}

#[test]
fn a_missing_database_is_not_taken_for_a_new_one() {
    let place = filled();
    fs::remove_dir_all(place.dir().join("db")).unwrap();
    match open(&place.dir()) {
        Ok(_) => panic!("the loss goes unnoticed"),
        Err(error) => assert!(matches!(error, StorageError::Corrupt { .. }), "{error}"),
    }
}
