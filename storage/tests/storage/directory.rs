//! The data directory: its format, its lock, clean stops, and what a crash does to the delivered marks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use leveret_storage::conformance::{Place, insert};
use leveret_storage::{Batch, Note, StorageError, open_memory};

use crate::support::{DiskPlace, open};

/// Every file below `dir` with its content and time of change: equal means untouched.
fn content(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            files.insert(path.clone(), (fs::read(&path).unwrap(), changed));
        }
    }
    files
}

fn opening_fails(dir: &Path) -> StorageError {
    match open(dir) {
        Ok(_) => panic!("the directory is refused"),
        Err(error) => error,
    }
}

fn delivered(place: &DiskPlace) -> Vec<(u64, u64)> {
    let (_backend, recovered) = place.open().unwrap();
    recovered.queues.iter().map(|q| (q.queue, q.delivered_through)).collect()
}

/// A store with 10 messages in queue 1, delivered through 4; not closed.
fn crashed() -> DiskPlace {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    backend.commit(&Batch::fold([insert(1, 1, 10, 100)])).unwrap();
    backend.marks().mark(1).delivered_through(4).unwrap();
    place
}

#[test]
fn an_unknown_version_is_refused_and_nothing_touched() {
    let place = crashed();
    fs::write(place.dir().join("FORMAT"), "leveret store 7\n").unwrap();
    let before = content(&place.dir());
    let error = opening_fails(&place.dir());
    assert!(matches!(&error, StorageError::UnknownFormat { found, .. } if &**found == "leveret store 7"), "{error}");
    assert!(error.to_string().contains(place.dir().to_str().unwrap()), "it names the path");
    assert!(content(&place.dir()) == before);
}

#[test]
fn a_directory_of_something_else_is_refused_and_nothing_touched() {
    let place = DiskPlace::new();
    fs::create_dir(place.dir()).unwrap();
    fs::write(place.dir().join("thesis.txt"), "do not lose").unwrap();
    let before = content(&place.dir());
    let error = opening_fails(&place.dir());
    assert!(matches!(error, StorageError::UnknownFormat { .. }), "{error}");
    assert!(content(&place.dir()) == before);
}

#[test]
fn a_second_opener_is_told_that_the_directory_is_locked() {
    let place = crashed();
    let (backend, _) = place.open().unwrap();
    let before: Vec<_> = content(&place.dir()).into_keys().collect();
    let error = opening_fails(&place.dir());
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    assert_eq!(content(&place.dir()).into_keys().collect::<Vec<_>>(), before);
    backend.close().unwrap();
    assert!(place.open().is_ok());
}

#[test]
fn a_path_that_is_a_file_is_an_error_with_its_name() {
    let place = DiskPlace::new();
    fs::write(place.dir(), "").unwrap();
    let error = opening_fails(&place.dir());
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    assert!(error.to_string().contains(place.dir().to_str().unwrap()));
}

#[test]
fn a_clean_stop_is_known_once() {
    let place = DiskPlace::new();
    let (backend, recovered) = place.open().unwrap();
    assert!(recovered.clean, "a new store is clean");
    backend.close().unwrap();
    let (backend, recovered) = place.open().unwrap();
    assert!(recovered.clean);
    drop(backend);
    let (_backend, recovered) = place.open().unwrap();
    assert!(!recovered.clean);
}

#[test]
fn after_a_crash_of_the_process_the_marks_are_exact() {
    assert_eq!(delivered(&crashed()), [(1, 4)]);
}

#[test]
fn after_a_crash_of_the_machine_every_stored_message_may_have_been_delivered() {
    let place = crashed();
    fs::write(place.dir().join("boot"), "another boot\n").unwrap();
    let (backend, recovered) = place.open().unwrap();
    assert_eq!(recovered.notes, [Note::MarksRaised]);
    assert_eq!(recovered.queues[0].delivered_through, 10);
    assert_eq!(recovered.queues[0].next_sequence, 11);
    drop(backend);
    // The process alone crashes next: the raised marks must have outlived that.
    assert_eq!(delivered(&place), [(1, 10)]);
}

#[test]
fn without_a_record_of_the_boot_or_of_the_marks_a_crash_counts_as_one_of_the_machine() {
    for file in ["boot", "delivered"] {
        let place = crashed();
        fs::remove_file(place.dir().join(file)).unwrap();
        assert_eq!(delivered(&place), [(1, 10)], "without {file}");
    }
}

#[test]
fn lost_marks_are_named_and_count_as_delivered() {
    let lose: [fn(&Path); 2] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(9).unwrap(),
    ];
    for lose in lose {
        let place = crashed();
        lose(&place.dir().join("delivered"));
        let (_backend, recovered) = place.open().unwrap();
        assert_eq!(recovered.notes, [Note::MarksLost]);
        assert_eq!(recovered.queues[0].delivered_through, 10);
    }
}

#[test]
fn after_a_clean_stop_the_marks_are_exact_even_if_the_machine_was_restarted() {
    let place = crashed();
    place.open().unwrap().0.close().unwrap();
    fs::write(place.dir().join("boot"), "another boot\n").unwrap();
    assert_eq!(delivered(&place), [(1, 4)]);
}

#[test]
fn a_directory_from_a_crash_in_the_middle_of_creation_opens_as_empty() {
    type Damage = fn(&Path);
    let crashes: [Damage; 5] = [
        |dir| fs::create_dir(dir).unwrap(),
        |dir| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("lock"), "").unwrap();
        },
        |dir| {
            fs::create_dir_all(dir.join("definitions.new/blobs")).unwrap();
            fs::write(dir.join("definitions.new/conf"), "segment_size: 12").unwrap();
            fs::write(dir.join("definitions.new/db"), [7; 100]).unwrap();
        },
        |dir| {
            drop(open(dir).unwrap());
            fs::remove_file(dir.join("FORMAT")).unwrap();
            fs::remove_file(dir.join("delivered")).unwrap();
        },
        |dir| {
            drop(open(dir).unwrap());
            fs::rename(dir.join("FORMAT"), dir.join("FORMAT.new")).unwrap();
        },
    ];
    for (n, crash) in crashes.into_iter().enumerate() {
        let place = DiskPlace::new();
        crash(&place.dir());
        let (mut backend, recovered) = place.open().unwrap();
        assert!(recovered.queues.is_empty() && recovered.definitions.is_empty(), "crash {n}");
        backend.commit(&Batch::fold([insert(1, 1, 3, 10)])).unwrap();
        drop(backend);
        assert_eq!(place.open().unwrap().1.messages, 3, "crash {n}");
    }
}

#[test]
fn the_memory_backend_is_clean_and_empty() {
    let (backend, recovered) = open_memory().unwrap();
    assert!(recovered.clean && recovered.queues.is_empty());
    backend.close().unwrap();
}
