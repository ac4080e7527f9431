//! One suite that every backend passes. For tests: a check that fails panics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Backend, Batch, Op, Reader, Recovered};
use crate::block::{Block, Run, Span};
use crate::error::StorageError;
use crate::gauge::Gauge;

/// Where a backend under test lives: opening it again finds what was left there.
pub trait Place {
    fn open(&self) -> Result<(Box<dyn Backend>, Recovered), StorageError>;

    /// False for a backend that forgets everything when it is let go.
    fn keeps(&self) -> bool;
}

/// Messages as (meta, body), by sequence number.
pub type Messages = BTreeMap<u64, (u64, Vec<u8>)>;

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Queues that have messages which are kept.
    pub queues: BTreeMap<u64, Messages>,
    /// Queues that have spilled ones.
    pub spilled: BTreeMap<u64, Messages>,
}

impl Model {
    /// What `op` does, said in the simplest way.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::PutDefinition { key, value } => {
                self.definitions.insert(key.to_vec(), value.to_vec());
            }
            Op::DeleteDefinition { key } => {
                self.definitions.remove(&key[..]);
            }
            Op::Insert { queue, first, run } => {
                self.queues.entry(*queue).or_default().extend(messages(*first, run));
            }
            Op::Spill { queue, first, run } => {
                self.spilled.entry(*queue).or_default().extend(messages(*first, run));
            }
            Op::Remove { queue, first, count } => {
                let end = first.saturating_add(*count);
                for queues in [&mut self.queues, &mut self.spilled] {
                    if let Some(messages) = queues.get_mut(queue) {
                        messages.retain(|sequence, _| !(*first..end).contains(sequence));
                    }
                }
            }
            Op::DropQueue { queue } => {
                self.queues.remove(queue);
                self.spilled.remove(queue);
            }
        }
        self.queues.retain(|_, messages| !messages.is_empty());
        self.spilled.retain(|_, messages| !messages.is_empty());
    }

    /// What reading finds of `queue` in `first .. first + count`.
    pub fn read(&self, queue: u64, first: u64, count: u32) -> Messages {
        let end = first.saturating_add(u64::from(count));
        let found = [&self.queues, &self.spilled].into_iter().filter_map(|queues| queues.get(&queue));
        found.flat_map(|messages| messages.range(first..end)).map(|(n, content)| (*n, content.clone())).collect()
    }

    /// What a store said it held when it was opened, read back through it.
    ///
    /// # Panics
    /// When it is not in order, its counts are wrong, or something cannot be read.
    pub fn of(recovered: &Recovered, backend: &dyn Backend) -> Model {
        let mut model = Model::default();
        for (key, value) in &recovered.definitions {
            model.definitions.insert(key.to_vec(), value.to_vec());
        }
        assert!(recovered.queues.is_sorted_by(|a, b| a.queue < b.queue), "queues ascend");
        let reader = backend.reader();
        let (mut count, mut bytes) = (0, 0);
        for queue in &recovered.queues {
            let mut last = 0;
            for stored in &queue.stored {
                assert!(stored.count > 0 && stored.first > last, "what is stored ascends and is not empty");
                last = stored.first + u64::from(stored.count) - 1;
                count += u64::from(stored.count);
                bytes += stored.bytes;
                let Some(reader) = &reader else { panic!("what was recovered can be read") };
                let found = read(&**reader, queue.queue, stored.first, stored.count);
                assert_eq!(found.len(), stored.count as usize, "all of it is there");
                assert!(found.values().all(|(meta, _)| stored.any & meta == *meta), "its metas are known");
                model.queues.entry(queue.queue).or_default().extend(found);
            }
            assert!(queue.next_sequence > last, "a sequence number is not given twice");
            assert!(queue.next_sequence > queue.delivered_through, "a mark does not cover what is yet to come");
        }
        assert_eq!((recovered.messages, recovered.bytes), (count, bytes), "the counts are right");
        model
    }
}

fn messages(first: u64, run: &Run) -> impl Iterator<Item = (u64, (u64, Vec<u8>))> {
    (first..).zip(run.messages().map(|(body, meta)| (meta, body.to_vec())))
}

/// Messages that a reader finds.
///
/// # Panics
/// When it fails, or what it finds is not ascending, within the range and whole.
pub fn read(reader: &dyn Reader, queue: u64, first: u64, count: u32) -> Messages {
    let gauge = Arc::new(Gauge::default());
    let runs = match reader.read(queue, first, count, &gauge) {
        Ok(runs) => runs,
        Err(error) => panic!("the messages can be read: {error}"),
    };
    let (mut found, mut next) = (Messages::new(), first);
    for (start, run) in &runs {
        assert!(run.count() > 0 && *start >= next, "runs ascend and none is empty");
        next = start + u64::from(run.count());
        found.extend(messages(*start, run));
    }
    assert!(next <= first.saturating_add(u64::from(count)), "what is beyond was not asked for");
    assert!(runs.is_empty() || gauge.bytes() > 0, "what is held is counted");
    found
}

/// Messages that a reader finds, while nobody else changes anything: what it knows without reading them is the same.
///
/// # Panics
/// As [`read`], or when it is not.
pub fn read_and_outline(reader: &dyn Reader, queue: u64, first: u64, count: u32) -> Messages {
    let found = read(reader, queue, first, count);
    let outlines = match reader.outlines(queue, first, count) {
        Ok(outlines) => outlines,
        Err(error) => panic!("the messages can be outlined: {error}"),
    };
    let outlines = outlines.into_iter().map(|outline| (outline.sequence, outline.meta, outline.len as usize));
    let whole = found.iter().map(|(sequence, (meta, bytes))| (*sequence, *meta, bytes.len()));
    assert!(outlines.eq(whole), "outlines say what reading says");
    found
}

/// A run of messages with these metas and bodies, in a block of its own.
pub fn run(messages: &[(u64, Vec<u8>)]) -> Run {
    let mut buffer = Vec::new();
    let mut spans = Vec::new();
    for (meta, body) in messages {
        let (start, len) = (buffer.len() as u32, body.len() as u32);
        spans.push(Span { start, len, meta: *meta });
        buffer.extend_from_slice(body);
    }
    let to = spans.len() as u32;
    let block = Block::new(buffer, spans, &Arc::new(Gauge::default()));
    Run { block, from: 0, to }
}

/// An insert of `count` messages of `len` bytes whose metas and bodies tell them apart.
pub fn insert(queue: u64, first: u64, count: u32, len: usize) -> Op {
    let message = |i: u32| {
        let sequence = first + u64::from(i);
        let seed = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ queue;
        (seed, (0..len).map(|at| (seed >> (at % 8 * 8)) as u8 ^ (at / 8) as u8).collect())
    };
    let messages: Vec<_> = (0..count).map(message).collect();
    Op::Insert { queue, first, run: run(&messages) }
}

/// Runs every check; `fresh` makes an empty place for each.
pub fn all<P: Place>(fresh: impl Fn() -> P) {
    a_new_store_is_empty(&fresh());
    what_was_committed_is_found_again(&fresh());
    large_and_empty_bodies_come_back_whole(&fresh());
    removals_take_exactly_what_they_name(&fresh());
    a_dropped_queue_is_gone_with_its_mark(&fresh());
    long_queues_are_purged_and_dropped(&fresh());
    definitions_are_replaced_and_deleted(&fresh());
    marks_come_back(&fresh());
    messages_are_read_back(&fresh());
    spilled_messages_are_read_back_and_end_with_the_process(&fresh());
}

/// Commits the batches, opening the store again after each (closed and just let go, in turns), and compares.
fn compare(place: &impl Place, batches: Vec<Vec<Op>>) {
    let mut model = Model::default();
    for (round, ops) in batches.into_iter().enumerate() {
        let (mut backend, recovered) = open(place);
        assert_eq!(Model::of(&recovered, &*backend), expected(place, &model), "before batch {round}");
        ops.iter().for_each(|op| model.apply(op));
        done(backend.commit(&Batch::fold(ops)));
        if round % 2 == 0 {
            done(backend.sync());
            done(backend.close());
        }
    }
    let (backend, recovered) = open(place);
    assert_eq!(Model::of(&recovered, &*backend), expected(place, &model), "after the last batch");
}

fn expected(place: &impl Place, model: &Model) -> Model {
    if place.keeps() { model.clone() } else { Model::default() }
}

fn open(place: &impl Place) -> (Box<dyn Backend>, Recovered) {
    match place.open() {
        Ok(opened) => opened,
        Err(error) => panic!("the store opens: {error}"),
    }
}

fn done(result: Result<(), StorageError>) {
    if let Err(error) = result {
        panic!("the store does what it is asked: {error}");
    }
}

fn remove(queue: u64, first: u64, count: u64) -> Op {
    Op::Remove { queue, first, count }
}

fn a_new_store_is_empty(place: &impl Place) {
    let (backend, recovered) = open(place);
    assert_eq!(Model::of(&recovered, &*backend), Model::default());
    assert!(recovered.queues.is_empty() && recovered.clean && recovered.quarantined.is_empty());
    done(backend.close());
}

fn what_was_committed_is_found_again(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 1, 10, 100), insert(2, 5, 3, 10)],
        vec![insert(1, 11, 2000, 50), insert(1, 5000, 1, 8)],
        vec![insert(2, 100, 300, 1024), insert(u64::MAX, 1, 1, 1)],
    ];
    compare(place, batches);
}

fn large_and_empty_bodies_come_back_whole(place: &impl Place) {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 200_000, 0, 3_000_000, 17];
    let big = (1..).zip(sizes).map(|(first, len)| insert(1, first, 1, len)).collect();
    compare(place, vec![big, vec![remove(1, 3, 1), remove(1, 8, 1)], vec![remove(1, 6, 1)]]);
}

fn removals_take_exactly_what_they_name(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 10, 500, 20), insert(2, 10, 5, 20)],
        vec![remove(1, 10, 1), remove(1, 300, 1), remove(1, 302, 1)],
        vec![remove(1, 0, 30), remove(3, 1, 100)],
        vec![insert(1, 1000, 5, 20), remove(1, 1002, 1), remove(1, 500, 502)],
        vec![remove(1, 20, u64::MAX), insert(1, 2000, 3, 20)],
    ];
    compare(place, batches);
}

fn a_dropped_queue_is_gone_with_its_mark(place: &impl Place) {
    let batches = vec![
        vec![insert(1, 1, 2000, 100), insert(2, 1, 10, 100)],
        vec![remove(1, 5, 1)],
        vec![Op::DropQueue { queue: 1 }, Op::DropQueue { queue: 9 }],
    ];
    compare(place, batches);
    let (backend, _) = open(place);
    done(backend.marks().mark(2).delivered_through(3));
    done(backend.marks().forget(2));
    assert_eq!(backend.marks().all(), []);
}

fn long_queues_are_purged_and_dropped(place: &impl Place) {
    let trifle = || Op::PutDefinition { key: Box::from(*b"k"), value: Box::from(*b"v") };
    let mut batches = vec![
        vec![insert(1, 1, 5000, 1000), insert(2, 1, 5000, 1000), insert(3, 1, 10, 10)],
        vec![remove(1, 7, 1), remove(1, 2500, 1), remove(2, 77, 1)],
        vec![remove(1, 3, 4000), Op::DropQueue { queue: 2 }],
        vec![insert(1, 5001, 3000, 1000), remove(1, 4900, u64::MAX)],
        vec![remove(1, 4500, u64::MAX), insert(1, 8001, 10, 1000)],
    ];
    batches.extend((0..20).map(|_| vec![trifle()]));
    compare(place, batches);
}

fn definitions_are_replaced_and_deleted(place: &impl Place) {
    let put = |key: &[u8], len: usize| Op::PutDefinition { key: key.into(), value: vec![len as u8; len].into() };
    let batches = vec![
        vec![put(b"", 0), put(b"a", 3), put(b"a\0\0\0\0", 4), put(b"queue", 300_000)],
        vec![put(b"a", 200_000), put(b"queue", 70_000)],
        vec![Op::DeleteDefinition { key: Box::from(*b"a") }, Op::DeleteDefinition { key: Box::from(*b"none") }],
        vec![put(b"queue", 5), Op::DeleteDefinition { key: Box::from(*b"") }],
    ];
    compare(place, batches);
}

fn marks_come_back(place: &impl Place) {
    let (mut backend, _) = open(place);
    done(backend.commit(&Batch::fold([insert(1, 1, 10, 10)])));
    done(backend.marks().mark(1).delivered_through(4));
    done(backend.marks().mark(2).delivered_through(7));
    drop(backend);
    let (_backend, recovered) = open(place);
    let marks: Vec<_> = recovered.queues.iter().map(|q| (q.queue, q.delivered_through, q.next_sequence)).collect();
    let kept = if place.keeps() { vec![(1, 4, 11), (2, 7, 8)] } else { vec![] };
    assert_eq!(marks, kept);
}

fn spill(queue: u64, first: u64, count: u32, len: usize) -> Op {
    match insert(queue, first, count, len) {
        Op::Insert { queue, first, run } => Op::Spill { queue, first, run },
        other => other,
    }
}

fn messages_are_read_back(place: &impl Place) {
    let (mut backend, _) = open(place);
    let Some(reader) = backend.reader() else { return };
    let mut model = Model::default();
    for ops in [
        vec![insert(1, 5, 100, 50), insert(1, 120, 2000, 300), insert(2, 1, 10, 10)],
        vec![remove(1, 7, 3), remove(1, 200, 1), insert(1, 3000, 1, 500_000), insert(1, 3001, 5, 0)],
        vec![remove(1, 500, 900), insert(2, 11, 1, 10)],
    ] {
        ops.iter().for_each(|op| model.apply(op));
        done(backend.commit(&Batch::fold(ops)));
        for (first, count) in [(0, u32::MAX), (1, 5), (6, 2), (7, 3), (100, 30), (450, 1000), (2999, 2), (3001, 9)] {
            assert_eq!(
                read_and_outline(&*reader, 1, first, count),
                model.read(1, first, count),
                "{count} from {first}"
            );
        }
        assert_eq!(read_and_outline(&*reader, 2, 3, 100), model.read(2, 3, 100));
        read_in_pieces(&*reader, &model);
        assert!(read(&*reader, 3, 0, u32::MAX).is_empty());
    }
}

/// Every third message of queue 1, and a row of them.
fn read_in_pieces(reader: &dyn Reader, model: &Model) {
    let mut ranges: Vec<(u64, u32)> = (1..300).map(|n| (n * 3, 1)).collect();
    ranges.extend([(1000, 100), (2000, 1), (2999, 2)]);
    let gauge = Arc::new(Gauge::default());
    let runs = match reader.read_all(1, &ranges, &gauge) {
        Ok(runs) => runs,
        Err(error) => panic!("the messages can be read: {error}"),
    };
    assert!(runs.is_sorted_by_key(|(first, _)| *first), "runs ascend");
    let found: Messages = runs.iter().flat_map(|(first, run)| messages(*first, run)).collect();
    let expected = ranges.iter().flat_map(|(first, count)| model.read(1, *first, *count));
    assert_eq!(found, expected.collect::<Messages>());
    let bytes: usize = found.values().map(|(_, bytes)| bytes.len()).sum();
    let spans = found.len() * (size_of::<Span>() + size_of::<Block>());
    assert!(gauge.bytes() <= bytes * 8 / 7 + spans, "little else is kept in memory");
}

fn spilled_messages_are_read_back_and_end_with_the_process(place: &impl Place) {
    let (mut backend, _) = open(place);
    let Some(reader) = backend.reader() else {
        assert!(backend.commit(&Batch::fold([spill(1, 1, 1, 1)])).is_err(), "what cannot be read back is refused");
        return;
    };
    let mut model = Model::default();
    for ops in [
        // Between kept ones, in any order, again, and gone before they are written.
        vec![insert(1, 1, 10, 20), insert(1, 31, 10, 20), spill(1, 41, 10, 20)],
        vec![spill(1, 11, 5, 20), spill(1, 26, 5, 20), spill(2, 7, 1000, 100)],
        vec![spill(1, 16, 10, 20), spill(1, 20, 2, 20), remove(1, 13, 1), remove(1, 24, 12)],
        vec![spill(2, 500, 10, 100), remove(2, 505, 100), spill(3, 1, 3, 10), Op::DropQueue { queue: 3 }],
        vec![remove(1, 45, 1), insert(1, 60, 1, 20)],
    ] {
        ops.iter().for_each(|op| model.apply(op));
        done(backend.commit(&Batch::fold(ops)));
        for queue in 1..4 {
            assert_eq!(read_and_outline(&*reader, queue, 0, u32::MAX), model.read(queue, 0, u32::MAX));
        }
    }
    drop(backend);
    model.spilled.clear();
    let (backend, recovered) = open(place);
    assert_eq!(Model::of(&recovered, &*backend), model);
}
