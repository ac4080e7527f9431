//! What publishers and consumers know of every message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How sure a client is that a message is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Settled {
    #[default]
    No,
    /// Acknowledged, rejected, purged or deleted; whether the broker knows is not known.
    Maybe,
    /// The answer to a later request has come.
    Surely,
}

/// Where a message lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In one queue until it is done.
    Queue,
    /// It may die and come back from another queue: a kill in between may double it.
    DeadLetters,
}

#[derive(Debug)]
struct Entry {
    queue: &'static str,
    way: Way,
    confirmed: bool,
    settled: Settled,
    /// Queues it was delivered from.
    seen: Vec<String>,
}

#[derive(Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// What must never happen, and did.
    wrong: Mutex<Vec<String>>,
    /// By queue, in order: what was still there at the end.
    left: Mutex<BTreeMap<String, Vec<u64>>>,
    next: AtomicU64,
    events: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// A new message, about to be published.
    pub fn publish(&self, queue: &'static str, way: Way) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Entry { queue, way, confirmed: false, settled: Settled::No, seen: Vec::new() };
        lock(&self.entries).insert(id, entry);
        id
    }

    pub fn confirm(&self, id: u64) {
        self.events.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = lock(&self.entries).get_mut(&id) {
            entry.confirmed = true;
        }
    }

    /// A message has come from `queue`.
    pub fn deliver(&self, id: u64, queue: &str, redelivered: bool) {
        self.events.fetch_add(1, Ordering::Relaxed);
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(&id) else {
            return self.wrong(format!("{id} was never published"));
        };
        if entry.settled == Settled::Surely {
            self.wrong(format!("{id} was certainly done and is back in {queue}"));
        }
        // A dead letter may be doubled by a kill; each copy is then delivered for the first time.
        let known = entry.seen.iter().any(|seen| seen == queue);
        if known && !redelivered && entry.way == Way::Queue {
            self.wrong(format!("{id} comes from {queue} again, without a mark"));
        }
        if !known {
            entry.seen.push(queue.to_owned());
        }
    }

    pub fn settle(&self, ids: &[u64], settled: Settled) {
        self.events.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let mut entries = lock(&self.entries);
        for id in ids {
            if let Some(entry) = entries.get_mut(id) {
                entry.settled = entry.settled.max(settled);
            }
        }
    }

    /// Messages that were sent to `queue` and are not certainly done.
    pub fn of(&self, queue: &str) -> Vec<u64> {
        let entries = lock(&self.entries);
        let of = entries.iter().filter(|(_, entry)| entry.queue == queue && entry.settled < Settled::Surely);
        of.map(|(id, _)| *id).collect()
    }

    /// A message is in `queue` at the end.
    pub fn left(&self, id: u64, queue: &str) {
        lock(&self.left).entry(queue.to_owned()).or_default().push(id);
    }

    /// Everything that was confirmed and not settled has been found.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    fn missing(&self) -> Vec<u64> {
        let left = lock(&self.left);
        let found: std::collections::HashSet<u64> = left.values().flatten().copied().collect();
        let entries = lock(&self.entries);
        let due = entries.iter().filter(|(_, entry)| entry.confirmed && entry.settled == Settled::No);
        due.map(|(id, _)| *id).filter(|id| !found.contains(id)).collect()
    }

    fn wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    #[track_caller]
    pub fn assert_sound(&self, round: u32) {
        let wrong = lock(&self.wrong);
        assert!(wrong.is_empty(), "after kill {round}: {wrong:#?}");
    }

    pub fn summary(&self) -> String {
        let entries = lock(&self.entries);
        let count = |what: &dyn Fn(&Entry) -> bool| entries.values().filter(|entry| what(entry)).count();
        format!(
            "{} published, {} confirmed, {} certainly done, {} perhaps, {} seen",
            entries.len(),
            count(&|entry| entry.confirmed),
            count(&|entry| entry.settled == Settled::Surely),
            count(&|entry| entry.settled == Settled::Maybe),
            count(&|entry| !entry.seen.is_empty()),
        )
    }

    /// What must be true in the end.
    #[track_caller]
    pub fn verify(&self) -> String {
        self.assert_sound(u32::MAX);
        let missing = self.missing();
        let lost: Vec<String> = {
            let entries = lock(&self.entries);
            missing.iter().map(|id| format!("{id}: {:?}", entries.get(id))).collect()
        };
        assert!(lost.is_empty(), "confirmed, not done, and lost: {lost:#?}");
        let (left, entries) = (lock(&self.left), lock(&self.entries));
        for (queue, ids) in left.iter() {
            let mut once = std::collections::HashSet::new();
            for id in ids {
                let Some(entry) = entries.get(id) else { panic!("{id} in {queue} was never published") };
                let back = entry.settled == Settled::Surely && entry.queue == queue;
                assert!(!back, "{id} was certainly done and is in {queue}: {entry:?}");
                let twice = !once.insert(*id);
                assert!(!twice || entry.way == Way::DeadLetters, "{id} is twice in {queue}");
                // What was doubled by a kill may be done in one place and wait in the other.
                if entry.way == Way::Queue {
                    assert_eq!(entry.queue, queue, "{id} is in a queue it was never sent to");
                }
            }
        }
        drop(entries);
        let count: usize = left.values().map(Vec::len).sum();
        format!("{}; {count} left", self.summary())
    }

    /// The messages left in `queue`, in order.
    pub fn left_in(&self, queue: &str) -> Vec<u64> {
        lock(&self.left).get(queue).cloned().unwrap_or_default()
    }
}
