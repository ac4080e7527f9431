//! Where each stored message lies, and which of a record's messages are removed. Kept in memory, a few dozen bytes
//! per record, so that a removal reads nothing from disk.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::record::Sequences;
use crate::removed::Removed;

/// All records by queue and first sequence number.
#[derive(Debug, Default)]
pub(crate) struct Index {
    queues: HashMap<u64, BTreeMap<u64, Entry>>,
}

/// One record.
#[derive(Debug)]
pub(crate) struct Entry {
    pub sequences: Sequences,
    /// Under how many keys its value lies.
    pub chunks: u32,
    pub removed: Removed,
    /// Whether `removed` has an entry on disk.
    pub removals_stored: bool,
}

/// Records a batch has removed messages from: (queue, first sequence number).
pub(crate) type Touched = BTreeSet<(u64, u64)>;

/// What has become of a touched record.
pub(crate) enum Fate {
    /// Nothing of it is left; its keys go.
    Gone(Entry),
    /// It stays, with these removals to be stored.
    Partly(Vec<u8>),
}

impl Index {
    /// How many messages are stored.
    pub fn messages(&self) -> u64 {
        let entries = self.queues.values().flat_map(BTreeMap::values);
        entries.map(|entry| u64::from(entry.sequences.count() - entry.removed.count())).sum()
    }

    pub fn add(&mut self, queue: u64, entry: Entry) {
        self.queues.entry(queue).or_default().insert(entry.sequences.first(), entry);
    }

    /// Removes messages `first..first + count` of `queue` and remembers in `touched` whose records that changed.
    pub fn remove(&mut self, queue: u64, first: u64, count: u64, touched: &mut Touched) {
        let end = first.saturating_add(count);
        let Some(records) = self.queues.get_mut(&queue) else {
            return;
        };
        // Records don't overlap, so only the one that begins before `first` can reach into the range.
        let from = records.range(..=first).next_back().map_or(first, |(&start, _)| start);
        for (&start, entry) in records.range_mut(from..end) {
            let of = entry.sequences.count();
            let (from, to) = (entry.sequences.index_of(first), entry.sequences.index_of(end));
            if from < to && entry.removed.add(from, to, of) {
                touched.insert((queue, start));
            }
        }
    }

    /// Decides about a touched record, and forgets it if nothing is left.
    pub fn settle(&mut self, queue: u64, first: u64) -> Option<Fate> {
        let records = self.queues.get_mut(&queue)?;
        let Place::Occupied(mut place) = records.entry(first) else {
            return None;
        };
        let entry = place.get_mut();
        if entry.removed.count() < entry.sequences.count() {
            entry.removals_stored = true;
            return Some(Fate::Partly(entry.removed.encode()));
        }
        let gone = place.remove();
        if records.is_empty() {
            self.queues.remove(&queue);
        }
        Some(Fate::Gone(gone))
    }

    /// Forgets the records of `queue` that lie wholly in `first..end`, if there are more than `many`, and says from
    /// which first to which last sequence number they reach.
    pub fn take_many(&mut self, queue: u64, first: u64, end: u64, many: usize) -> Option<(u64, u64)> {
        let records = self.queues.get_mut(&queue)?;
        let whole = |entry: &Entry| entry.sequences.last() < end;
        // Only the last record that begins in the range can reach beyond it.
        let mut last = records.range(first..end).rev();
        let (&last, through) = last.find_map(|(at, e)| whole(e).then(|| (at, e.sequences.last())))?;
        let (&from, _) = records.range(first..).next()?;
        records.range(from..=last).nth(many)?;
        let mut taken = records.split_off(&from);
        if let Some(next) = last.checked_add(1) {
            records.append(&mut taken.split_off(&next));
        }
        if records.is_empty() {
            self.queues.remove(&queue);
        }
        Some((from, through))
    }

    /// Forgets a queue and gives back its records.
    pub fn drop_queue(&mut self, queue: u64) -> impl Iterator<Item = Entry> + use<> {
        self.queues.remove(&queue).unwrap_or_default().into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: u64, count: u32) -> Entry {
        Entry {
            sequences: Sequences::Row { first, count },
            chunks: 1,
            removed: Removed::default(),
            removals_stored: false,
        }
    }

    fn removed(index: &mut Index, first: u64, count: u64) -> Vec<u64> {
        let mut touched = Touched::new();
        index.remove(1, first, count, &mut touched);
        touched.into_iter().map(|(_, first)| first).collect()
    }

    #[test]
    fn a_range_touches_the_records_it_reaches_into_and_no_others() {
        let mut index = Index::default();
        index.add(1, row(10, 5));
        index.add(1, row(20, 5));
        index.add(1, row(30, 5));
        assert_eq!(removed(&mut index, 15, 5), []);
        assert_eq!(removed(&mut index, 14, 7), [10, 20]);
        assert_eq!(removed(&mut index, 14, 7), [], "what is removed already changes nothing");
        assert_eq!(removed(&mut index, 0, u64::MAX), [10, 20, 30]);
        assert_eq!(removed(&mut index, 100, 1), []);
    }

    #[test]
    fn gaps_within_a_record_are_skipped() {
        let mut index = Index::default();
        let sequences = Sequences::Stretches([(10, 2), (20, 2)].into());
        index.add(1, Entry { sequences, ..row(10, 4) });
        assert_eq!(removed(&mut index, 12, 8), []);
        assert_eq!(removed(&mut index, 11, 10), [10]);
        assert!(matches!(index.settle(1, 10), Some(Fate::Partly(_))));
        assert_eq!(removed(&mut index, 10, 1), [10]);
        assert_eq!(removed(&mut index, 21, 1), [10]);
        assert!(matches!(index.settle(1, 10), Some(Fate::Gone(_))));
        assert!(index.queues.is_empty());
    }

    #[test]
    fn many_records_at_once_are_taken_whole_and_the_rest_stays() {
        let mut index = Index::default();
        (1..10).for_each(|n| index.add(1, row(n * 10, 5)));
        assert_eq!(index.take_many(1, 11, 73, 5), None, "five are not more than five");
        assert_eq!(index.take_many(1, 11, 73, 4), Some((20, 64)));
        let left: Vec<u64> = index.queues[&1].keys().copied().collect();
        assert_eq!(left, [10, 70, 80, 90]);
        assert_eq!(index.take_many(1, 0, u64::MAX, 3), Some((10, 94)));
        assert!(index.queues.is_empty());
        assert_eq!(index.take_many(1, 0, u64::MAX, 0), None);
    }
}
