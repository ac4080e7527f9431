//! Where each stored message lies, and which of a record's messages are removed. Kept in memory, some hundred bytes
//! per record, so that a removal reads nothing from disk.

use std::collections::{BTreeMap, HashMap};

use super::pack::Packed;
use crate::removed::Removed;
use crate::sequences::Sequences;

/// All records of one series of segments, by queue.
#[derive(Debug, Default)]
pub(crate) struct Index {
    queues: HashMap<u64, Records>,
}

/// The records of one queue.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// By a sequence number that is not above the first one still there.
    entries: BTreeMap<u64, Entry>,
    /// Sequence numbers that a record with gaps may reach over; others may lie in its gaps. 0: there is none.
    reach: u64,
    /// Above every sequence number ever added.
    end: u64,
}

/// One record.
#[derive(Debug)]
pub(crate) struct Entry {
    pub sequences: Sequences,
    pub removed: Option<Box<Removed>>,
    /// In which segment its body lies, and where.
    pub segment: u32,
    pub offset: u64,
    pub lengths: u32,
    pub bytes: u32,
    pub any: u64,
    pub crc: u32,
    /// Bytes of each message, where they differ much and are known.
    sizes: Option<Box<[u16]>>,
    /// Bytes of its messages that are removed, by `sizes`.
    gone: u32,
}

impl Entry {
    pub fn new(record: Packed, segment: u32, offset: u64) -> Entry {
        let Packed { sequences, lengths, bytes, any, crc, sizes } = record;
        Entry { sequences, removed: None, segment, offset, lengths, bytes, any, crc, sizes, gone: 0 }
    }

    /// Bytes of its body.
    pub fn body(&self) -> u64 {
        u64::from(self.lengths) + u64::from(self.bytes)
    }

    /// Messages that are still there.
    pub fn live(&self) -> u32 {
        self.sequences.count() - self.removed.as_ref().map_or(0, |removed| removed.count())
    }

    /// The share of `bytes` that `messages` of it have, by number.
    pub fn share(&self, bytes: u64, messages: u32) -> u64 {
        if messages == self.sequences.count() {
            return bytes;
        }
        (u128::from(bytes) * u128::from(messages) / u128::from(self.sequences.count().max(1))) as u64
    }

    fn live_bytes(&self) -> u64 {
        match self.sizes {
            Some(_) => {
                self.share(u64::from(self.lengths), self.live()) + u64::from(self.bytes.saturating_sub(self.gone))
            }
            None => self.share(self.body(), self.live()),
        }
    }

    /// Removes those in `first..end`; true if that changed anything.
    fn remove(&mut self, first: u64, end: u64) -> bool {
        let of = self.sequences.count();
        let (from, to) = (self.sequences.index_of(first), self.sequences.index_of(end));
        if from >= to {
            return false;
        }
        let removed = self.removed.get_or_insert_default();
        if let Some(sizes) = &self.sizes {
            let going = (from..to.min(of)).filter(|index| !removed.contains(*index));
            self.gone += going.map(|index| u32::from(sizes[index as usize])).sum::<u32>();
        }
        removed.add(from, to, of)
    }

    fn has(&self, first: u64, end: u64) -> bool {
        let (from, to) = (self.sequences.index_of(first), self.sequences.index_of(end));
        match &self.removed {
            None => from < to,
            Some(removed) => (from..to).any(|index| !removed.contains(index)),
        }
    }

    /// Stretches of what is there in `first..end`: (first sequence number, count, index in the record).
    pub fn each_live(&self, first: u64, end: u64, mut each: impl FnMut(u64, u32, u32)) {
        let mut index = 0;
        for (start, count) in self.sequences.stretches() {
            let (from, to) = (first.max(start), end.min(start + u64::from(count)));
            let base = index;
            index += count;
            if from >= to {
                continue;
            }
            let (skip, stop) = ((from - start) as u32, (to - start) as u32);
            let Some(removed) = &self.removed else {
                each(from, stop - skip, base + skip);
                continue;
            };
            let mut at = skip;
            while at < stop {
                let begun = at;
                while at < stop && !removed.contains(base + at) {
                    at += 1;
                }
                if at > begun {
                    each(start + u64::from(begun), at - begun, base + begun);
                }
                at += 1;
            }
        }
    }
}

impl Records {
    /// Keys of all records that may have something of `first..end`.
    fn keys(&self, first: u64, end: u64) -> std::ops::Range<u64> {
        let near = self.entries.range(..=first).next_back().map_or(first, |(&key, _)| key);
        let from = if self.reach > 0 { near.min(first.saturating_sub(self.reach)) } else { near };
        from..end.max(from)
    }

    pub fn in_range(&self, first: u64, end: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.keys(first, end)).map(|(_, entry)| entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Removes `first..end`; `freed` hears which segment has how many bytes less to keep.
    fn remove(&mut self, first: u64, end: u64, freed: &mut impl FnMut(u32, u64)) {
        let keys = self.keys(first, end);
        let gone = self.entries.extract_if(keys, |_, entry| {
            let before = entry.live_bytes();
            if !entry.remove(first, end) {
                return false;
            }
            let left = if entry.live() == 0 { 0 } else { entry.live_bytes() };
            freed(entry.segment, before - left);
            entry.live() == 0
        });
        gone.for_each(drop);
    }

    /// Adds a record; what it has in common with older ones is theirs no more.
    fn add(&mut self, entry: Entry, freed: &mut impl FnMut(u32, u64)) {
        let (first, last) = (entry.sequences.first(), entry.sequences.last());
        if first < self.end {
            for (from, count) in entry.sequences.stretches() {
                self.remove(from, from + u64::from(count), freed);
            }
            // And a record may now lie within another one.
            let reach = self.in_range(first, last + 1).map(|e| e.sequences.last() - e.sequences.first() + 1).max();
            self.reach = self.reach.max(reach.unwrap_or(0));
        }
        if matches!(entry.sequences, Sequences::Stretches(_)) {
            self.reach = self.reach.max(last - first + 1);
        }
        self.end = self.end.max(last + 1);
        self.place(first, entry);
    }

    /// What is left of an older one under the same key lies behind it.
    fn place(&mut self, mut key: u64, mut entry: Entry) {
        while let Some(older) = self.entries.insert(key, entry) {
            let mut left = None;
            older.each_live(0, u64::MAX, |first, _, _| left = left.or(Some(first)));
            let Some(first) = left else { return };
            (key, entry) = (first, older);
        }
    }
}

impl Index {
    pub fn queue(&self, queue: u64) -> Option<&Records> {
        self.queues.get(&queue)
    }

    pub fn queues(&self) -> impl Iterator<Item = (u64, &Records)> {
        self.queues.iter().map(|(&queue, records)| (queue, records))
    }

    /// How many messages are stored.
    pub fn messages(&self) -> u64 {
        self.queues.values().flat_map(Records::iter).map(|entry| u64::from(entry.live())).sum()
    }

    /// Says which segments have something of `first..end` of a queue.
    pub fn segments_of(&self, queue: u64, first: u64, end: u64, mut each: impl FnMut(u32)) {
        if let Some(records) = self.queues.get(&queue) {
            records.in_range(first, end).filter(|entry| entry.has(first, end)).for_each(|entry| each(entry.segment));
        }
    }

    pub fn add(&mut self, queue: u64, entry: Entry, mut freed: impl FnMut(u32, u64)) {
        self.queues.entry(queue).or_default().add(entry, &mut freed);
    }

    pub fn remove(&mut self, queue: u64, first: u64, end: u64, mut freed: impl FnMut(u32, u64)) {
        if let Some(records) = self.queues.get_mut(&queue) {
            records.remove(first, end, &mut freed);
            if records.entries.is_empty() {
                self.queues.remove(&queue);
            }
        }
    }

    pub fn drop_queue(&mut self, queue: u64, mut freed: impl FnMut(u32, u64)) {
        for entry in self.queues.remove(&queue).iter().flat_map(Records::iter) {
            freed(entry.segment, entry.live_bytes());
        }
    }

    /// The record of `queue` with these sequence numbers that lies at `offset` of `segment`, if it is still there.
    pub fn at(&self, queue: u64, sequences: &Sequences, segment: u32, offset: u64) -> Option<&Entry> {
        let mut near = self.queues.get(&queue)?.in_range(sequences.first(), sequences.last().saturating_add(1));
        near.find(|entry| entry.segment == segment && entry.offset == offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of these stretches in a segment.
    fn entry(segment: u32, stretches: &[(u64, u32)]) -> Entry {
        let sequences = Sequences::new(stretches.to_vec());
        let bytes = sequences.count() * 90;
        Entry::new(Packed { sequences, lengths: bytes / 9, bytes, any: 0, crc: 0, sizes: None }, segment, 0)
    }

    #[test]
    fn what_is_left_of_a_record_is_known_where_lengths_differ() {
        let sequences = Sequences::new(vec![(1, 4)]);
        let sizes = Some([10, 5000, 20, 4000].into());
        let record = Packed { sequences, lengths: 12, bytes: 9030, any: 0, crc: 0, sizes };
        let mut index = Index::default();
        index.add(1, Entry::new(record, 1, 0), |_, _| {});
        let mut freed = Vec::new();
        index.remove(1, 2, 3, |_, bytes| freed.push(bytes));
        index.remove(1, 1, 2, |_, bytes| freed.push(bytes));
        index.remove(1, 1, 9, |_, bytes| freed.push(bytes));
        assert_eq!(freed, [5003, 13, 4026]);
    }

    fn index(entries: &[(u32, &[(u64, u32)])]) -> Index {
        let mut index = Index::default();
        entries.iter().for_each(|(segment, stretches)| index.add(1, entry(*segment, stretches), |_, _| {}));
        index
    }

    /// (segment, first, count) of what is there, ascending.
    fn live(index: &Index, first: u64, end: u64) -> Vec<(u32, u64, u32)> {
        let mut found = Vec::new();
        for entry in index.queue(1).into_iter().flat_map(|records| records.in_range(first, end)) {
            entry.each_live(first, end, |first, count, _| found.push((entry.segment, first, count)));
        }
        found.sort_unstable_by_key(|stretch| stretch.1);
        found
    }

    #[test]
    fn a_range_finds_and_takes_what_it_reaches_and_no_more() {
        let mut index = index(&[(1, &[(10, 5)]), (1, &[(20, 5)]), (2, &[(30, 5)])]);
        assert_eq!(live(&index, 14, 31), [(1, 14, 1), (1, 20, 5), (2, 30, 1)]);
        let mut freed = Vec::new();
        index.remove(1, 14, 31, |segment, bytes| freed.push((segment, bytes)));
        assert_eq!(freed, [(1, 100), (1, 500), (2, 100)]);
        assert_eq!(live(&index, 0, u64::MAX), [(1, 10, 4), (2, 31, 4)]);
        index.remove(1, 14, 31, |segment, bytes| panic!("{bytes} bytes of segment {segment} go twice"));
        index.remove(1, 0, u64::MAX, |_, _| {});
        assert!(index.queue(1).is_none());
    }

    #[test]
    fn what_lies_in_the_gaps_of_a_record_is_found() {
        let index = index(&[(1, &[(10, 2), (40, 2)]), (2, &[(15, 3)]), (3, &[(30, 1), (38, 1)])]);
        assert_eq!(live(&index, 41, 42), [(1, 41, 1)]);
        assert_eq!(live(&index, 16, 39), [(2, 16, 2), (3, 30, 1), (3, 38, 1)]);
    }

    #[test]
    fn a_record_takes_over_what_older_ones_have_in_common_with_it() {
        let mut index = index(&[(1, &[(10, 10)]), (1, &[(20, 10)])]);
        let mut freed = 0;
        index.add(1, entry(2, &[(10, 3), (18, 4)]), |segment, bytes| {
            assert_eq!(segment, 1);
            freed += bytes;
        });
        assert_eq!(freed, 700);
        assert_eq!(live(&index, 0, u64::MAX), [(2, 10, 3), (1, 13, 5), (2, 18, 4), (1, 22, 8)]);
        // Keys have moved, and everything is still found and removed.
        index.add(1, entry(3, &[(12, 2)]), |_, _| {});
        assert_eq!(live(&index, 17, 19), [(1, 17, 1), (2, 18, 1)]);
        index.remove(1, 11, 29, |_, _| {});
        assert_eq!(live(&index, 0, u64::MAX), [(2, 10, 1), (1, 29, 1)]);
    }
}
