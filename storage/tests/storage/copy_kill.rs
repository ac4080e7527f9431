//! SIGKILL while definitions change, and after it the loss of the database or of the copy: what was promised is there
//! either way, and nothing is taken for damage that a kill explains.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Entry, Level, Note, Op, Recovered, StorageError, Store, StoreOptions};

use crate::every_file::copy_all;
use crate::support::{Dice, DiskPlace, PATIENCE};

const CHILD: &str = "LEVERET_STORAGE_COPY_KILL_CHILD";
const TEST: &str = "copy_kill::definitions_that_were_promised_survive_sigkill_and_the_loss_of_either_place";
const ROUNDS: u64 = 12;
const KEYS: u64 = 40;

/// So that the copy is written anew all the time.
fn open(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk_with(dir, &DiskOptions { spare_bytes: 800_000, ..DiskOptions::default() })
}

/// What the `number`-th operation does: to which key, and its value afterwards.
fn operation(number: u64) -> (String, Option<Vec<u8>>) {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let key = format!("definition {}", dice.roll(KEYS));
    let most = [30, 300, 9_000][dice.roll(3) as usize];
    let len = dice.roll(most) as usize;
    let value = format!("{number} {}", "x".repeat(len)).into_bytes();
    (key, (dice.roll(4) > 0).then_some(value))
}

fn op(number: u64) -> Op {
    let (key, value) = operation(number);
    let key = key.into_bytes().into();
    match value {
        Some(value) => Op::PutDefinition { key, value: value.into() },
        None => Op::DeleteDefinition { key },
    }
}

/// What each key may be, by all operations up to `begun`, those up to `done` being promised.
fn possible(done: u64, begun: u64) -> BTreeMap<String, BTreeSet<Option<Vec<u8>>>> {
    let mut possible: BTreeMap<String, BTreeSet<Option<Vec<u8>>>> = BTreeMap::new();
    for number in 1..=begun {
        let (key, value) = operation(number);
        let values = possible.entry(key).or_insert_with(|| [None].into());
        if number <= done {
            values.clear();
        }
        values.insert(value);
    }
    possible
}

fn check(recovered: &Recovered, done: u64, begun: u64, what: &str) {
    let found: BTreeMap<_, _> = recovered.definitions.iter().map(|(key, value)| (&key[..], value.to_vec())).collect();
    for (key, values) in possible(done, begun) {
        let there = found.get(key.as_bytes()).cloned();
        assert!(values.contains(&there), "{what}: {key} is neither as it was promised nor as it was asked for");
    }
}

#[test]
fn definitions_that_were_promised_survive_sigkill_and_the_loss_of_either_place() {
    if let Some(told) = env::var_os(CHILD) {
        let told = told.into_string().unwrap();
        let (from, dir) = told.split_once(':').unwrap();
        return work(dir.as_ref(), from.parse().unwrap());
    }
    let place = DiskPlace::new();
    let (mut done, mut begun) = (0, 0);
    for round in 0..ROUNDS {
        let lines = 1 + Dice(round * 7919 + u64::from(std::process::id())).roll(1_500);
        // What was under way is done again.
        one_life(&place.dir(), done + 1, lines, &mut done, &mut begun);
        for lost in ["definitions", "definitions.log", "nothing"] {
            let what = format!("round {round}, {lost} lost, done {done}, begun {begun}");
            let image = DiskPlace::new();
            copy_all(&place.dir(), &image.dir());
            match lost {
                "definitions" => fs::remove_dir_all(image.dir().join(lost)).unwrap(),
                "definitions.log" => fs::remove_file(image.dir().join(lost)).unwrap(),
                _ => {}
            }
            let (_backend, recovered) = open(&image.dir()).unwrap();
            check(&recovered, done, begun, &what);
            assert!(lost != "nothing" || !recovered.notes.iter().any(Note::is_damage), "{what}: {:?}", recovered.notes);
        }
        let (_backend, recovered) = open(&place.dir()).unwrap();
        check(&recovered, done, begun, "before the next");
    }
    assert!(done > 0, "the child got something done");
}

/// Lets a child work until it has said so many lines, and kills it.
fn one_life(dir: &Path, from: u64, lines: u64, done: &mut u64, begun: &mut u64) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, format!("{from}:{}", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut said = 0;
    for line in output.lines() {
        let line = line.unwrap();
        match line.split_once(' ').map(|(verb, number)| (verb, number.parse::<u64>())) {
            Some(("begun", Ok(number))) => *begun = number.max(*begun),
            Some(("done", Ok(number))) => *done = number,
            _ => continue,
        }
        said += 1;
        if said == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "the child died of the signal, not of an error: {status}");
}

/// The child: changes definitions until it is killed, some operations at a time.
fn work(dir: &Path, from: u64) {
    let (backend, _) = open(dir).unwrap();
    let say = |verb: &str, number: u64| {
        io::stdout().lock().write_all(format!("{verb} {number}\n").as_bytes()).unwrap();
    };
    let (complete, completed) = mpsc::channel();
    let tell = move |done: &mut Vec<u64>| done.drain(..).for_each(|number| complete.send(number).unwrap());
    let store = Store::start(backend, StoreOptions::default(), tell, |error| panic!("{error}")).unwrap();
    let mut dice = Dice(from);
    for first in (from..).step_by(4) {
        say("begun", first + 3);
        let level = if dice.roll(2) == 0 { Level::Written } else { Level::Synced };
        let mut entries: Vec<Entry<u64>> = (first..first + 4).map(|number| Entry::Op(op(number))).collect();
        entries.push(Entry::Notify(level, first + 3));
        store.submit(&mut entries);
        if dice.roll(3) > 0 {
            while completed.recv_timeout(PATIENCE).unwrap() != first + 3 {}
            say("done", first + 3);
        }
    }
}
