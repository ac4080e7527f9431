//! Every file of a store that was filled and used is deleted, emptied, halved, changed in one bit and replaced by garbage,
//! after a clean stop and after a kill: the store opens, has lost no more than what lay there, says so, and goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_storage::conformance::{Model, insert};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Batch, Gauge, Op, Recovered, StorageError};

use crate::support::Dice;

/// Small segments, so that there are several.
fn open(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk_with(dir, &DiskOptions { segment_bytes: 64 << 10, ..DiskOptions::default() })
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Every file below `dir`, by its path from there.
fn files(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir.join(below)).unwrap() {
        let name = below.join(entry.unwrap().file_name());
        if dir.join(&name).is_dir() {
            files(dir, &name, found);
        } else {
            found.push(name);
        }
    }
    found.sort();
}

fn define(dice: &mut Dice) -> Op {
    let key: Box<[u8]> = format!("definition {}", dice.roll(150)).into_bytes().into();
    if dice.roll(4) == 0 {
        return Op::DeleteDefinition { key };
    }
    let len = [50, 500, 12_000][dice.roll(3) as usize];
    let value = vec![dice.roll(256) as u8; dice.roll(len) as usize].into();
    Op::PutDefinition { key, value }
}

/// A store in `dir` with three lives behind it, the last of which ended as told, and what it holds.
fn fill(dir: &Path, closed: bool) -> Model {
    let (mut model, mut dice, mut next) = (Model::default(), Dice(7), [1u64; 3]);
    for life in 0..3 {
        let (mut backend, _) = open(dir).unwrap();
        for _ in 0..120 {
            let queue = dice.roll(3);
            let first = next[queue as usize];
            next[queue as usize] += 3;
            let mut ops = vec![define(&mut dice), insert(queue + 1, first, 3, dice.roll(1_500) as usize)];
            if first > 30 {
                ops.push(Op::Remove { queue: queue + 1, first: dice.roll(first - 20), count: 1 });
            }
            ops.iter().for_each(|op| model.apply(op));
            backend.commit(&Batch::fold(ops)).unwrap();
            backend.marks().mark(queue + 1).delivered_through(first).unwrap();
        }
        backend.sync().unwrap();
        if life < 2 || closed {
            backend.close().unwrap();
        }
    }
    model
}

/// What a store has, without what it finds damaged when that is read.
fn readable(backend: &dyn Backend, recovered: &Recovered) -> Model {
    let mut model = Model::default();
    for (key, value) in &recovered.definitions {
        model.definitions.insert(key.to_vec(), value.to_vec());
    }
    let reader = backend.reader().unwrap();
    for queue in &recovered.queues {
        for stored in &queue.stored {
            for (first, run) in
                reader.read(queue.queue, stored.first, stored.count, &Arc::new(Gauge::default())).unwrap()
            {
                model.apply(&Op::Insert { queue: queue.queue, first, run });
            }
        }
    }
    model
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    Emptied,
    Halved,
    Flipped(u64),
    Garbage(u64),
}

const DAMAGES: [Damage; 7] = [
    Damage::Deleted,
    Damage::Emptied,
    Damage::Halved,
    Damage::Flipped(1),
    Damage::Flipped(2),
    Damage::Flipped(3),
    Damage::Garbage(4),
];

impl Damage {
    fn apply(self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        match self {
            Damage::Deleted => return fs::remove_file(file).unwrap(),
            Damage::Emptied => bytes.clear(),
            Damage::Halved => bytes.truncate(bytes.len() / 2),
            Damage::Flipped(seed) if !bytes.is_empty() => {
                let bit = Dice(seed * 99).roll(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Damage::Flipped(_) => {}
            Damage::Garbage(seed) => {
                let mut dice = Dice(seed);
                bytes.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8);
            }
        }
        fs::write(file, bytes).unwrap();
    }
}

/// What one opening found of a damaged store, and whether it said that anything was wrong.
struct Outcome {
    model: Model,
    named: bool,
}

/// Opens a damaged store, works with it, and opens it again.
fn survive(dir: &Path, what: &str) -> Outcome {
    let (mut backend, recovered) = open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut model = readable(&*backend, &recovered);
    let named = !recovered.notes.is_empty() || !recovered.quarantined.is_empty() || dir.join("quarantine").exists();
    let outcome = Outcome { model: model.clone(), named };
    let next = recovered.queues.iter().find(|queue| queue.queue == 1).map_or(1, |queue| queue.next_sequence);
    let more =
        || vec![Op::PutDefinition { key: Box::from(*b"more"), value: Box::from(*b"still") }, insert(1, next, 1, 9)];
    more().iter().for_each(|op| model.apply(op));
    backend.commit(&Batch::fold(more())).unwrap();
    drop(backend);
    for closed in [true, false] {
        let (backend, recovered) = open(dir).unwrap_or_else(|error| panic!("{what}, again: {error}"));
        assert!(readable(&*backend, &recovered) == model, "{what}: the second opening finds what the first one did");
        assert_eq!(
            (&recovered.notes[..], &recovered.quarantined[..]),
            (&[][..], &[][..]),
            "{what}: nothing more to say"
        );
        if closed {
            backend.close().unwrap();
        }
    }
    outcome
}

/// (queue, sequence number) of what is in one and not in the other.
fn missing(from: &Model, in_: &Model) -> BTreeSet<(u64, u64)> {
    let all = |model: &Model| -> BTreeSet<(u64, u64)> {
        model.queues.iter().flat_map(|(queue, messages)| messages.keys().map(|n| (*queue, *n))).collect()
    };
    all(from).difference(&all(in_)).copied().collect()
}

fn check(closed: bool) {
    let place = scratch();
    let filled = place.path().join("filled");
    let expected = fill(&filled, closed);
    let mut names = Vec::new();
    files(&filled, Path::new(""), &mut names);
    let segments = names.iter().filter(|name| name.extension().is_some_and(|extension| extension == "log"));
    assert!(segments.count() > 3 && names.len() > 12, "there is something to damage: {names:?}");
    for name in &names {
        let mut most = BTreeSet::new();
        for damage in DAMAGES {
            let dir = place.path().join("damaged");
            copy_all(&filled, &dir);
            damage.apply(&dir.join(name));
            let what = format!("{} {damage:?}, closed: {closed}", name.display());
            let is_refused = matches!(damage, Damage::Halved | Damage::Flipped(_) | Damage::Garbage(_));
            if name == Path::new("FORMAT") && is_refused {
                let refused = matches!(open(&dir), Err(StorageError::UnknownFormat { .. }));
                assert!(refused, "{what}: nobody knows whose it is");
            } else {
                let outcome = survive(&dir, &what);
                assert!(outcome.model.definitions == expected.definitions, "{what}: no definition is lost");
                let lost = missing(&expected, &outcome.model);
                assert!(lost.is_empty() || outcome.named, "{what}: what is lost is named");
                if !name.starts_with("messages") || name.extension().is_some_and(|extension| extension == "heads") {
                    assert!(outcome.model == expected, "{what}: nothing is lost, and nothing comes back");
                } else if let Damage::Deleted = damage {
                    most = lost;
                } else {
                    assert!(lost.is_subset(&most), "{what}: nothing is lost that lay elsewhere");
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn whatever_file_is_damaged_after_a_clean_stop_what_is_intact_is_there_and_the_rest_is_named() {
    check(true);
}

#[test]
fn whatever_file_is_damaged_after_a_kill_what_is_intact_is_there_and_the_rest_is_named() {
    check(false);
}

#[test]
fn wherever_the_database_or_its_copy_is_damaged_no_definition_is_lost() {
    let cases = if std::env::var_os("LEVERET_LONG").is_some() { 1_000 } else { 20 };
    for closed in [true, false] {
        let place = scratch();
        let filled = place.path().join("filled");
        let expected = fill(&filled, closed);
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        for case in 0..cases {
            let what = format!("case {case} of seed {seed}, closed: {closed}");
            let mut dice = Dice(seed ^ (case << 20));
            let dir = place.path().join("damaged");
            copy_all(&filled, &dir);
            let name = ["definitions/db", "definitions/db", "definitions.log"][dice.roll(3) as usize];
            let mut bytes = fs::read(dir.join(name)).unwrap();
            let at = dice.roll(bytes.len() as u64) as usize;
            match dice.roll(4) {
                0 => bytes[at] ^= 1 << dice.roll(8),
                1 => bytes.truncate(at),
                way => {
                    let end = (at / 512 * 512 + [512, 40_000][way as usize - 2]).min(bytes.len());
                    bytes[at / 512 * 512..end].fill(0);
                }
            }
            fs::write(dir.join(name), bytes).unwrap();
            assert!(survive(&dir, &what).model == expected, "{what}: nothing is lost with {name}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}
