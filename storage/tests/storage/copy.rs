//! The copy of the definitions: what becomes of it and of the database when either is damaged, or older than the other.

use std::fs;
use std::path::{Path, PathBuf};

use leveret_storage::conformance::Place;
use leveret_storage::definitions::RawStore;
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Batch, Note, Op, Quarantined, Recovered};

use crate::every_file::copy_all;
use crate::support::{Dice, DiskPlace};

fn put(name: &str, value: &[u8]) -> Op {
    Op::PutDefinition { key: name.as_bytes().into(), value: value.into() }
}

fn delete(name: &str) -> Op {
    Op::DeleteDefinition { key: name.as_bytes().into() }
}

fn commit(backend: &mut Box<dyn Backend>, ops: impl IntoIterator<Item = Op>) {
    backend.commit(&Batch::fold(ops)).unwrap();
}

/// `name=value`, ordered.
fn said(recovered: &Recovered) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    recovered.definitions.iter().map(|(key, value)| text(key) + "=" + &text(value)).collect()
}

/// Opens and says what is there; nothing is closed.
fn opened(place: &DiskPlace) -> (Vec<String>, Vec<Note>) {
    let (_backend, recovered) = place.open().unwrap();
    (said(&recovered), recovered.notes)
}

fn copy_of(place: &DiskPlace) -> PathBuf {
    place.dir().join("definitions.log")
}

fn database_of(place: &DiskPlace) -> PathBuf {
    place.dir().join("definitions")
}

fn another_boot(place: &DiskPlace) {
    fs::write(place.dir().join("boot"), "another one\ncopied\n").unwrap();
}

/// A store in which first `a=1 b=1 c=1` was committed, then `a=2` and `d=1`, and `b` deleted. Returned beside it: the
/// place where database and copy are as they were in between.
fn changed(closed: bool) -> (DiskPlace, tempfile::TempDir) {
    let (place, between) = (DiskPlace::new(), tempfile::tempdir().unwrap());
    let (mut backend, _) = place.open().unwrap();
    commit(&mut backend, [put("a", b"1"), put("b", b"1"), put("c", b"1")]);
    backend.close().unwrap();
    copy_all(&place.dir(), &between.path().join("data"));
    let (mut backend, _) = place.open().unwrap();
    commit(&mut backend, [put("a", b"2")]);
    commit(&mut backend, [put("d", b"1")]);
    commit(&mut backend, [delete("b")]);
    if closed {
        backend.close().unwrap();
    }
    (place, between)
}

fn take_back(place: &DiskPlace, between: &tempfile::TempDir, name: &str) {
    let (from, to) = (between.path().join("data").join(name), place.dir().join(name));
    if from.is_dir() {
        fs::remove_dir_all(&to).unwrap();
        copy_all(&from, &to);
    } else {
        fs::copy(&from, &to).unwrap();
    }
}

fn replaced(place: &DiskPlace, restored: u64) -> Note {
    let moved_to = Some(place.dir().join("quarantine/definitions.0"));
    Note::DatabaseReplaced { restored, lost: 0, moved_to }
}

#[test]
fn a_database_that_has_silently_lost_its_end_gets_it_back_from_the_copy() {
    for closed in [false, true] {
        let (place, between) = changed(closed);
        take_back(&place, &between, "definitions");
        let (found, notes) = opened(&place);
        assert_eq!((found, notes), (vec!["a=2".into(), "c=1".into(), "d=1".into()], vec![replaced(&place, 3)]));
        assert_eq!(opened(&place), (vec!["a=2".into(), "c=1".into(), "d=1".into()], vec![]));
    }
}

#[test]
fn what_a_kill_left_in_the_copy_alone_is_in_the_database_afterwards() {
    let (place, between) = changed(true);
    // As if the kill had come before sled was told of the last commit.
    let (mut backend, _) = place.open().unwrap();
    copy_all(&database_of(&place), &between.path().join("before"));
    commit(&mut backend, [put("e", b"1"), put("c", b"2")]);
    drop(backend);
    fs::remove_dir_all(database_of(&place)).unwrap();
    copy_all(&between.path().join("before"), &database_of(&place));
    let expected: Vec<String> = ["a=2", "c=2", "d=1", "e=1"].map(str::to_owned).into();
    assert_eq!(opened(&place), (expected.clone(), vec![]), "that needs no note");
    fs::remove_file(copy_of(&place)).unwrap();
    assert_eq!(opened(&place), (expected, vec![Note::CopyRenewed { moved_to: None }]));
}

#[test]
fn after_a_power_cut_the_database_is_right_and_an_older_copy_is_written_anew() {
    let (place, between) = changed(false);
    take_back(&place, &between, "definitions.log");
    another_boot(&place);
    let expected: Vec<String> = ["a=2", "c=1", "d=1"].map(str::to_owned).into();
    assert_eq!(opened(&place), (expected.clone(), vec![]));
    fs::remove_dir_all(database_of(&place)).unwrap();
    let notes = vec![Note::DatabaseReplaced { restored: 3, lost: 0, moved_to: None }];
    assert_eq!(opened(&place), (expected, notes), "and so it is as good as the database");
}

#[test]
fn after_a_power_cut_a_damaged_database_is_filled_from_the_copy_and_what_may_be_lost_is_kept() {
    let (place, _between) = changed(false);
    another_boot(&place);
    fs::write(database_of(&place).join("db"), [7; 9_000]).unwrap();
    let (found, notes) = opened(&place);
    assert_eq!(found, ["a=2", "c=1", "d=1"]);
    let kept = place.dir().join("quarantine/messages.0");
    assert_eq!(notes.last(), Some(&replaced(&place, 3)));
    assert!(notes.contains(&Note::DefinitionsLost { kept }), "{notes:?}");
}

#[test]
fn after_a_power_cut_only_what_is_damaged_comes_from_an_older_copy() {
    let (place, between) = changed(false);
    take_back(&place, &between, "definitions.log");
    another_boot(&place);
    let raw = RawStore::open(&place.dir()).unwrap();
    raw.set(b"\x01\0\0\0\x01a\0\0\0\0", Some(b"damaged")).unwrap();
    raw.set(b"\x01\0\0\0\x01d\0\0\0\0", Some(b"damaged")).unwrap();
    drop(raw);
    let (_backend, recovered) = place.open().unwrap();
    assert_eq!(said(&recovered), ["a=1", "c=1"], "`b`, which it still has, was deleted");
    assert_eq!(recovered.quarantined, [Quarantined::Definition { key: Box::from(*b"d") }]);
    let moved_to = Some(place.dir().join("quarantine/definitions.0"));
    assert_eq!(recovered.notes.last(), Some(&Note::DatabaseReplaced { restored: 1, lost: 1, moved_to }));
}

#[test]
fn a_copy_that_has_lost_its_end_after_a_kill_is_not_believed() {
    let (place, _between) = changed(false);
    let whole = fs::read(copy_of(&place)).unwrap();
    for len in 0..whole.len() {
        fs::write(copy_of(&place), &whole[..len]).unwrap();
        let (found, notes) = opened(&place);
        assert_eq!(found, ["a=2", "c=1", "d=1"], "cut at {len}");
        let moved_to = Some(place.dir().join(format!("quarantine/definitions.log.{len}")));
        assert_eq!(notes, [Note::CopyRenewed { moved_to }], "cut at {len}");
    }
}

#[test]
fn whichever_bit_of_the_copy_is_flipped_nothing_is_lost() {
    let (place, _between) = changed(false);
    let whole = fs::read(copy_of(&place)).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(copy_of(&place), damaged).unwrap();
        let (found, notes) = opened(&place);
        assert_eq!(found, ["a=2", "c=1", "d=1"], "bit {bit}");
        assert!(matches!(notes[..], [Note::CopyRenewed { .. }]), "bit {bit}: {notes:?}");
    }
}

#[test]
fn where_both_are_damaged_what_is_intact_in_either_is_kept() {
    let (place, _between) = changed(false);
    fs::write(database_of(&place).join("db"), [7; 9_000]).unwrap();
    let mut copy = fs::read(copy_of(&place)).unwrap();
    // The second frame, which puts `a=2`.
    let at = copy.windows(2).rposition(|pair| pair == [b'a', 2]).expect("it is there");
    copy[at + 2] ^= 1;
    fs::write(copy_of(&place), copy).unwrap();
    let (found, notes) = opened(&place);
    assert_eq!(found, ["a=1", "c=1", "d=1"]);
    assert!(notes.iter().any(|note| matches!(note, Note::DefinitionsLost { .. })), "{notes:?}");
    assert!(notes.iter().any(|note| matches!(note, Note::CopyRenewed { .. })), "{notes:?}");
    assert_eq!(opened(&place), (found, vec![]));
}

#[test]
fn a_directory_of_an_earlier_leveret_gets_a_copy_and_one_that_has_been_back_there_a_new_one() {
    let (place, between) = changed(true);
    // An earlier leveret has let the copy grow stale.
    take_back(&place, &between, "definitions.log");
    let boot = fs::read_to_string(place.dir().join("boot")).unwrap();
    fs::write(place.dir().join("boot"), boot.lines().next().unwrap().to_owned() + "\n").unwrap();
    let expected: Vec<String> = ["a=2", "c=1", "d=1"].map(str::to_owned).into();
    assert_eq!(opened(&place), (expected.clone(), vec![]));
    fs::remove_dir_all(database_of(&place)).unwrap();
    assert_eq!(opened(&place).0, expected);
}

#[test]
fn a_replacement_of_the_database_that_was_cut_short_is_completed() {
    type Cut = fn(&Path);
    let cuts: [Cut; 4] = [
        // In the middle of making it.
        |dir| {
            fs::create_dir(dir.join("definitions.new")).unwrap();
            fs::write(dir.join("definitions.new/db"), [7; 100]).unwrap();
            fs::write(dir.join("definitions/db"), [7; 9_000]).unwrap();
        },
        |dir| {
            fs::create_dir(dir.join("definitions.new")).unwrap();
            fs::write(dir.join("definitions.new/db"), [7; 100]).unwrap();
            fs::remove_dir_all(dir.join("definitions")).unwrap();
        },
        // Made, and the damaged one still there.
        |dir| {
            copy_all(&dir.join("definitions"), &dir.join("definitions.made"));
            fs::write(dir.join("definitions/db"), [7; 9_000]).unwrap();
        },
        // And moved away.
        |dir| fs::rename(dir.join("definitions"), dir.join("definitions.made")).unwrap(),
    ];
    for (n, cut) in cuts.into_iter().enumerate() {
        let (place, _between) = changed(false);
        cut(&place.dir());
        let (found, notes) = opened(&place);
        assert_eq!(found, ["a=2", "c=1", "d=1"], "cut {n}");
        let told = |note: &Note| matches!(note, Note::DatabaseReplaced { .. } | Note::ReplacementCompleted { .. });
        assert!(notes.iter().any(told), "cut {n}: {notes:?}");
        assert_eq!(opened(&place), (found, vec![]), "cut {n}");
        for left in ["definitions.new", "definitions.made"] {
            assert!(!place.dir().join(left).exists(), "cut {n}");
        }
    }
}

#[test]
fn the_copy_is_written_anew_when_little_of_it_lives_and_has_everything_at_any_moment() {
    let place = DiskPlace::new();
    let options = DiskOptions { spare_bytes: 1_000_000, ..DiskOptions::default() };
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    let (mut dice, mut model) = (Dice(5), std::collections::BTreeMap::new());
    // More than one portion.
    let name = |n: u64| format!("definition {n:03}");
    let define = |n: u64, dice: &mut Dice| (name(n), vec![b'0' + dice.roll(10) as u8; 100 + dice.roll(6_000) as usize]);
    model.extend((0..100).map(|n| define(n, &mut dice)));
    commit(&mut backend, model.iter().map(|(name, value)| put(name, value)));
    let (mut most, mut renewed, mut before) = (0, 0, 0);
    for round in 0..400 {
        let (name, value) = define(dice.roll(100), &mut dice);
        if dice.roll(5) == 0 {
            model.remove(&name);
            commit(&mut backend, [delete(&name)]);
        } else {
            commit(&mut backend, [put(&name, &value)]);
            model.insert(name, value);
        }
        backend.idle().unwrap();
        let len = fs::metadata(copy_of(&place)).unwrap().len();
        (most, renewed, before) = (len.max(most), renewed + u32::from(len < before), len);
        if round % 20 == 0 {
            // A kill here, and the loss of the database.
            let image = DiskPlace::new();
            copy_all(&place.dir(), &image.dir());
            fs::remove_dir_all(database_of(&image)).unwrap();
            let (_backend, recovered) = image.open().unwrap();
            let found =
                recovered.definitions.into_iter().map(|(key, value)| (String::from_utf8(key.into()).unwrap(), value));
            assert!(found.eq(model.iter().map(|(key, value)| (key.clone(), value.clone().into()))), "round {round}");
            assert!(!image.dir().join("definitions.log.new").exists());
        }
    }
    assert!(renewed >= 2 && most < 1_200_000, "written anew {renewed} times, {most} bytes at most");
}
