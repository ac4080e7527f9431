//! SIGKILL at random: a child process works on a store and says what it is about to do and what was completed; the
//! parent kills it and compares what is found with what was said.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use leveret_storage::conformance::{Model, insert};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Entry, Level, Op, Recovered, StorageError, Store, StoreOptions};

use crate::support::{Dice, DiskPlace};

const CHILD: &str = "LEVERET_STORAGE_KILL_CHILD";
const TEST: &str = "kill::what_was_promised_survives_sigkill_at_any_instant";
const ROUNDS: u64 = 15;
const QUEUES: u64 = 3;

/// Small files, so that cleaning goes on all the time.
fn open(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk_with(dir, &DiskOptions { segment_bytes: 128 << 10, spare_bytes: 256 << 10, ..DiskOptions::default() })
}

/// (queue, first, count)
type Range = (u64, u64, u64);

/// What the parent knows of each message.
#[derive(Default)]
struct Knowledge {
    /// May be there.
    begun: BTreeMap<u64, BTreeSet<u64>>,
    /// Must be there, unless its removal was begun.
    confirmed: BTreeMap<u64, BTreeSet<u64>>,
    removing: BTreeMap<u64, BTreeSet<u64>>,
    /// Must not be there.
    removed: BTreeMap<u64, BTreeSet<u64>>,
    delivered: BTreeMap<u64, u64>,
    /// Submitted at once: (first, count). Found whole or not at all.
    groups: Vec<Range>,
}

impl Knowledge {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        let [queue, first, count] = numbers[..] else {
            return;
        };
        let set = match verb {
            "inserting" => &mut self.begun,
            "inserted" => &mut self.confirmed,
            "removing" => &mut self.removing,
            "removed" => &mut self.removed,
            "together" => {
                self.groups.push((queue, first, count));
                return;
            }
            "delivered" => {
                self.delivered.insert(queue, first);
                return;
            }
            _ => return,
        };
        set.entry(queue).or_default().extend(first..first + count);
    }

    /// Compares with what was found, which is then the new truth.
    fn check(&mut self, found: &Model, marks: &BTreeMap<u64, u64>) {
        for queue in 1..=QUEUES {
            let get = |sets: &BTreeMap<u64, BTreeSet<u64>>| sets.get(&queue).cloned().unwrap_or_default();
            let (begun, confirmed) = (get(&self.begun), get(&self.confirmed));
            let (removing, removed) = (get(&self.removing), get(&self.removed));
            let found: BTreeSet<u64> =
                found.queues.get(&queue).map(|m| m.keys().copied().collect()).unwrap_or_default();
            let lost: Vec<_> = confirmed.difference(&removing).filter(|s| !found.contains(s)).collect();
            assert!(lost.is_empty(), "queue {queue}: confirmed but lost: {lost:?}");
            let back: Vec<_> = found.intersection(&removed).collect();
            assert!(back.is_empty(), "queue {queue}: removed but back: {back:?}");
            let unknown: Vec<_> = found.difference(&begun).collect();
            assert!(unknown.is_empty(), "queue {queue}: never sent: {unknown:?}");
            let (mark, said) = (marks.get(&queue), self.delivered.get(&queue));
            assert!(mark >= said, "queue {queue}: delivered through {said:?}, found {mark:?}");
            for (_, first, count) in self.groups.iter().filter(|g| g.0 == queue) {
                let group = begun.range(first..&(first + count)).filter(|s| !removing.contains(s));
                let (there, torn): (Vec<u64>, Vec<u64>) = group.partition(|s| found.contains(s));
                assert!(
                    there.is_empty() || torn.is_empty(),
                    "queue {queue}: of one batch {there:?} are there and {torn:?} are not"
                );
            }
            self.begun.insert(queue, found.clone());
            self.confirmed.insert(queue, found);
        }
        self.groups.clear();
        self.removing.clear();
        self.removed.clear();
    }
}

#[test]
fn what_was_promised_survives_sigkill_at_any_instant() {
    if let Some(dir) = env::var_os(CHILD) {
        return work(dir.as_ref());
    }
    let place = DiskPlace::new();
    let mut knowledge = Knowledge::default();
    let mut completed = 0;
    for round in 0..ROUNDS {
        let lines = 1 + Dice(round * 7919 + u64::from(std::process::id())).roll(3000);
        completed += one_life(&place.dir(), lines, &mut knowledge);
        let (backend, recovered) = open(&place.dir()).unwrap();
        assert!(!recovered.clean, "round {round}: the child was killed");
        assert_eq!(recovered.quarantined, [], "round {round}");
        let found = Model::of(&recovered, &*backend);
        for (queue, messages) in &found.queues {
            for (sequence, content) in messages {
                assert_eq!(Some(content), expected(*queue, *sequence).as_ref(), "queue {queue}, message {sequence}");
            }
        }
        let marks = recovered.queues.iter().map(|q| (q.queue, q.delivered_through)).collect();
        knowledge.check(&found, &marks);
        drop(backend);
    }
    assert!(completed > 0, "the child got something done");
}

/// Most messages are small; now and then a stretch of large ones comes, several segments of the log together.
fn len(sequence: u64) -> usize {
    if is_large(sequence) { 100_000 } else { (sequence * 37 % 500) as usize }
}

fn is_large(sequence: u64) -> bool {
    sequence / 64 % 16 == 15
}

fn expected(queue: u64, sequence: u64) -> Option<(u64, Vec<u8>)> {
    let Op::Insert { run, .. } = insert(queue, sequence, 1, len(sequence)) else {
        return None;
    };
    run.messages().next().map(|(body, meta)| (meta, body.to_vec()))
}

/// Lets a child work until it has said `lines` lines, kills it, and hears all it has said. Returns how many promises
/// were completed.
fn one_life(dir: &Path, lines: u64, knowledge: &mut Knowledge) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut completed) = (0, 0);
    for line in output.lines() {
        let line = line.unwrap();
        knowledge.hear(&line);
        completed += u64::from(line.starts_with("inserted") || line.starts_with("removed"));
        said += 1;
        if said == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "the child died of the signal, not of an error: {status}");
    completed
}

/// One write per line: the parent must not see half of one.
fn say(verb: &str, (queue, first, count): Range) {
    let line = format!("{verb} {queue} {first} {count}\n");
    io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// The child: inserts, delivers and removes on several threads until it is killed.
fn work(dir: &Path) {
    let (backend, recovered) = open(dir).unwrap();
    let complete = |done: &mut Vec<(&'static str, Range)>| done.drain(..).for_each(|(verb, range)| say(verb, range));
    let store = Store::start(backend, StoreOptions::default(), complete, |error| panic!("{error}")).unwrap();
    let recovered = Arc::new(Mutex::new(recovered.queues));
    let threads = (1..=QUEUES).map(|queue| {
        let (store, recovered) = (store.clone(), recovered.clone());
        thread::spawn(move || {
            let found = recovered.lock().unwrap().iter_mut().find(|q| q.queue == queue).map(std::mem::take);
            let found = found.unwrap_or_default();
            let held = found.stored.iter().flat_map(|s| s.first..s.first + u64::from(s.count));
            serve(&store, queue, held.collect(), found.next_sequence.max(1));
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap());
}

fn serve(store: &Store<(&'static str, Range)>, queue: u64, mut held: Vec<u64>, mut next: u64) {
    let mark = store.mark(queue).unwrap();
    let mut dice = Dice(queue ^ u64::from(std::process::id()));
    loop {
        let mut entries = Vec::new();
        let first = next;
        let count = if is_large(next) { 64 } else { 1 + dice.roll(20) };
        for _ in 0..count {
            let range = (queue, next, 1);
            say("inserting", range);
            entries.push(Entry::Op(insert(queue, next, 1, len(next))));
            if dice.roll(3) > 0 {
                entries.push(Entry::Notify(Level::Synced, ("inserted", range)));
            }
            held.push(next);
            next += 1 + dice.roll(10) / 9;
        }
        say("together", (queue, first, next - first));
        store.submit(&mut entries);
        mark.delivered_through(next - 1).unwrap();
        say("delivered", (queue, next - 1, 0));
        while held.len() > 300 || (!held.is_empty() && dice.roll(20) > 0) {
            let sequence = held.swap_remove(dice.roll(held.len() as u64) as usize);
            let range = (queue, sequence, 1);
            say("removing", range);
            entries.push(Entry::Op(Op::Remove { queue, first: sequence, count: 1 }));
            entries.push(Entry::Notify(Level::Written, ("removed", range)));
        }
        store.submit(&mut entries);
    }
}
